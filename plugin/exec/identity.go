package exec

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"os/user"
	"strconv"
	"strings"
)

// identity is a user that jobs run as.
type identity struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32
}

// Check says whether jobs can be run here as o says, and as whom: the user in a form
// for Options.RunAs that means the same in a process with another environment, and who
// must own a fresh view (0, 0 where views belong to the agent's user anyhow).
func Check(o Options) (runAs string, uid, gid int, err error) {
	if o.Shell == "" {
		if o.Shell, err = findShell(); err != nil {
			return "", 0, 0, fmt.Errorf("exec adapter: %w", err)
		}
	}
	if !o.RootMode {
		return "", 0, 0, nil
	}
	u, err := identify(o)
	if err != nil {
		return "", 0, 0, fmt.Errorf("exec adapter: %w", err)
	}
	runAs = o.RunAs
	if runAs == "" {
		runAs = fmt.Sprintf("%d:%d", u.UID, u.GID)
	}
	return runAs, int(u.UID), int(u.GID), nil
}

// findShell finds what runs scripts.
func findShell() (string, error) {
	sh, err := osexec.LookPath("bash")
	if err != nil {
		return "", fmt.Errorf("scripts are run by bash, which is not in PATH: %w", err)
	}
	return sh, nil
}

// identify finds the user of the jobs. Without root it is always our own.
func identify(o Options) (identity, error) {
	if !o.RootMode {
		return self(), nil
	}
	if err := rootModeReady(); err != nil {
		return identity{}, err
	}
	if o.RunAs != "" {
		return lookup(o.RunAs)
	}
	// sudo sets these itself, whatever the user's environment says.
	if uid, err := number(os.Getenv("SUDO_UID")); err == nil && uid != 0 {
		if gid, err := number(os.Getenv("SUDO_GID")); err == nil {
			return byNumber(uid, gid), nil
		}
	}
	return lookup("nobody")
}

// self is who we are.
func self() identity {
	id := identity{Name: "roost"}
	if n := os.Geteuid(); n >= 0 {
		id.UID = uint32(n)
	}
	if n := os.Getegid(); n >= 0 {
		id.GID = uint32(n)
	}
	if u, err := user.Current(); err == nil {
		id.Name = u.Username
	}
	return id
}

// lookup finds a user by name, or by uid:gid.
func lookup(s string) (identity, error) {
	if u, g, ok := strings.Cut(s, ":"); ok {
		uid, err := number(u)
		if err != nil {
			return identity{}, fmt.Errorf("run_as %q: want a name or uid:gid", s)
		}
		gid, err := number(g)
		if err != nil {
			return identity{}, fmt.Errorf("run_as %q: want a name or uid:gid", s)
		}
		return byNumber(uid, gid), nil
	}
	u, err := user.Lookup(s)
	if err != nil {
		return identity{}, fmt.Errorf("run_as %q: want a user of this host, or uid:gid: %w", s, err)
	}
	uid, err1 := number(u.Uid)
	gid, err2 := number(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return identity{}, fmt.Errorf("run_as %q: %w", s, err)
	}
	return identity{Name: u.Username, UID: uid, GID: gid, Groups: groupsOf(u, gid)}, nil
}

// byNumber makes an identity of numbers that need not be in any list of users.
func byNumber(uid, gid uint32) identity {
	id := identity{Name: strconv.FormatUint(uint64(uid), 10), UID: uid, GID: gid, Groups: []uint32{gid}}
	if u, err := user.LookupId(id.Name); err == nil {
		id.Name, id.Groups = u.Username, groupsOf(u, gid)
	}
	return id
}

// groupsOf lists a user's groups; its own one alone where they can't be read.
func groupsOf(u *user.User, gid uint32) []uint32 {
	out := []uint32{gid}
	ids, err := u.GroupIds()
	if err != nil {
		return out
	}
	for _, s := range ids {
		if n, err := number(s); err == nil && n != gid {
			out = append(out, n)
		}
	}
	return out
}

// number reads a uid or gid. The largest number means "unchanged" to the kernel
// and is nobody's.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, err
	}
	if n == 1<<32-1 {
		return 0, fmt.Errorf("%s is no user or group", s)
	}
	return uint32(n), nil
}
