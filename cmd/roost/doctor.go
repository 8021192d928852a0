package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot/view"
)

// finding is one line of the doctor's report.
type finding struct {
	Check string `json:"check"`
	// State is ok, warn (works, with less) or bad (a job could not run).
	State string `json:"state"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // what to change
}

func newDoctor() *cobra.Command {
	var (
		dir, url string
		asJSON   bool
	)
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this host can do and what to change for more",
		Long: `Tries what an agent would do on this host: which drivers can make views in the
store directory, as whom and where jobs run, which tools they find, how much room
there is. Ends with status 1 if a job could not run.` + exitHelp,
		Example: "  roost doctor --store-dir /var/lib/roost/store",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := examine(cmd.Context(), dir, url)
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				if err := e.Encode(list); err != nil {
					return err
				}
			} else {
				printFindings(cmd.OutOrStdout(), list)
			}
			for _, f := range list {
				if f.State == "bad" {
					return &exitError{code: exitFailed}
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "store-dir", defaultState(), "where the store would be")
	f.StringVar(&url, "coordinator", os.Getenv("ROOST_COORDINATOR"), "URL of a coordinator to try")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printFindings(w io.Writer, list []finding) {
	mark := map[string]string{"ok": "ok  ", "warn": "warn", "bad": "BAD "}
	for _, f := range list {
		fmt.Fprintf(w, "%s  %-12s %s\n", mark[f.State], f.Check, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(w, "      %-12s -> %s\n", "", f.Fix)
		}
	}
}

func examine(ctx context.Context, dir, url string) []finding {
	list := []finding{{"host", "ok", hostLine(), ""}, checkUser()}
	store := checkWritable(dir)
	list = append(list, store)
	if store.State == "ok" {
		list = append(list, checkDrivers(dir)...)
	}
	list = append(list, checkDisk(dir), checkTool(ctx, "bash", "jobs' scripts run in it", "bad"),
		checkTool(ctx, "git", "jobs' sources come through it", "warn"), checkProcesses())
	if url != "" {
		list = append(list, checkCoordinator(ctx, url))
	}
	return list
}

func hostLine() string {
	s := runtime.GOOS + "/" + runtime.GOARCH + ", " + fmt.Sprint(runtime.NumCPU()) + " cores"
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		s += ", kernel " + strings.TrimSpace(string(b))
	}
	return s
}

func checkUser() finding {
	if os.Geteuid() == 0 {
		return finding{"user", "ok", "root: views are mounts, jobs see their workspace at one path on every host and run as another user", ""}
	}
	return finding{
		"user", "warn", fmt.Sprintf("uid %d: views are copies, the path of a job's workspace differs from slot to slot, owners are not kept", os.Geteuid()),
		"start the agent as root: attaching becomes a mount of some milliseconds, whatever the size",
	}
}

// existing is dir or its nearest parent that is there.
func existing(dir string) string {
	for {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return dir
		}
		dir = up
	}
}

// checkWritable tries whether the store could be made.
func checkWritable(dir string) finding {
	at := existing(dir)
	tmp, err := os.MkdirTemp(at, ".roost-doctor-")
	if err != nil {
		why := err
		var pe *fs.PathError
		if errors.As(err, &pe) {
			why = pe.Err
		}
		return finding{"store", "bad", fmt.Sprintf("%s can't be made: nothing can be written in %s: %v", dir, at, why), "choose another directory: --store-dir here, --state of run and up"}
	}
	os.Remove(tmp) //nolint:errcheck // it is empty
	return finding{"store", "ok", dir + " can be written", ""}
}

// checkDrivers tries each driver in the nearest directory that exists.
func checkDrivers(dir string) []finding {
	probeDir := existing(dir)
	var list []finding
	found := false
	for _, p := range view.Probe(probeDir) {
		f := finding{"driver", "ok", p.Name, p.Fix}
		switch {
		case p.OK && !found:
			f.Text += ": works, and is what auto takes"
			found = true
		case p.OK:
			f.Text += ": works"
		default:
			f.State = "warn"
			f.Text += ": does not work here: " + p.Why
		}
		if p.OK && p.Why != "" {
			f.Text += " (" + p.Why + ")"
		}
		list = append(list, f)
	}
	if !found {
		list = append(list, finding{"driver", "bad", "no driver can make views in " + probeDir, "choose another --store-dir"})
	}
	return list
}

func checkDisk(dir string) finding {
	free, total, err := diskSpace(dir)
	if err != nil {
		return finding{"disk", "warn", "free space of " + dir + " is not known: " + err.Error(), ""}
	}
	f := finding{"disk", "ok", fmt.Sprintf("%s of %s free at %s", humanize.IBytes(uint64(free)), humanize.IBytes(uint64(total)), dir), ""}
	if free < 2<<30 {
		f.State, f.Fix = "warn", "workspaces are kept as long as there is room; give the store more"
	}
	return f
}

func checkTool(ctx context.Context, name, why, missing string) finding {
	path, err := osexec.LookPath(name)
	if err != nil {
		return finding{"tool", missing, name + " is not in PATH; " + why, "install " + name}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := osexec.CommandContext(ctx, path, "--version").Output() //nolint:errcheck // the version is decoration
	first, _, _ := strings.Cut(string(out), "\n")
	return finding{"tool", "ok", strings.TrimSpace(path + " " + first), ""}
}

// checkProcesses tells how leftovers of a job are found and killed.
func checkProcesses() finding {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			continue
		}
		if os.Geteuid() == 0 {
			return finding{"processes", "ok", "cgroup v2 at " + dir + ": a job's processes end together", ""}
		}
		return finding{"processes", "ok", "a subreaper ends a job's processes (cgroup v2 needs root)", ""}
	}
	return finding{"processes", "ok", "no cgroup v2; a job's processes are found by their ancestors", ""}
}

func checkCoordinator(ctx context.Context, url string) finding {
	c, err := api.NewClient(url, "", nil)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err = c.Health(ctx)
	}
	if err != nil {
		return finding{"coordinator", "bad", err.Error(), "is roost coordinator running, and can this host reach " + url + "?"}
	}
	return finding{"coordinator", "ok", url + " answers", ""}
}
