package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"

	"github.com/roost-ci/roost/internal/bootid"
	"github.com/roost-ci/roost/snapshot"
)

// attempt is what a job has on disk besides its view, in StateDir/<attempt>:
//
//	job.json   how to end it, for an agent that comes after
//	home, tmp  in root mode, bound to RunDir/home and RunDir/tmp
//
// Without root HOME and TMPDIR lie below the system's directory for temporary
// files instead, where paths are short enough for sockets.
type attempt struct {
	a   *Adapter
	id  snapshot.ID
	dir string
	record
	// home and tmp as the job sees them, hostTmp as we do.
	home, tmp, hostHome, hostTmp string
}

// record is job.json. It is about processes, so it need not survive a power cut.
type record struct {
	Boot   string `json:"boot"`
	PID    int    `json:"pid,omitempty"`
	Start  uint64 `json:"start,omitempty"` // of the process, in the kernel's ticks
	Cgroup string `json:"cgroup,omitempty"`
	Temp   string `json:"temp,omitempty"` // to be removed too
}

// attempt is one that may have directories already.
func (a *Adapter) attempt(id snapshot.ID) *attempt {
	return &attempt{a: a, id: id, dir: filepath.Join(a.o.StateDir, string(id))}
}

// newAttempt makes the directories. os.ErrExist: somebody has begun with this one.
func (a *Adapter) newAttempt(id snapshot.ID) (*attempt, error) {
	at := a.attempt(id)
	at.Boot = bootid.Read()
	if err := os.Mkdir(at.dir, 0o700); err != nil {
		return nil, err
	}
	err := at.makeTemp()
	at.places()
	err = errors.Join(err, at.save(), at.mkdir(at.hostHome), at.mkdir(at.hostTmp))
	if err != nil {
		at.remove()
		return nil, err
	}
	return at, nil
}

// tempDigits is how much of an attempt's id names its directory for temporary files:
// not all of it, as jobs make sockets in there, whose paths must be short.
const tempDigits = 16

// temp is what home and tmp lie in where that is not the attempt's directory. Who comes
// after knows it without a record.
func (at *attempt) temp() string {
	if at.a.o.RootMode {
		return ""
	}
	return filepath.Join(os.TempDir(), "roost-"+string(at.id[:tempDigits]))
}

func (at *attempt) makeTemp() error {
	at.Temp = at.temp()
	if at.Temp == "" {
		return nil
	}
	err := os.Mkdir(at.Temp, 0o700)
	if err != nil {
		at.Temp = "" // not ours
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mkdir: %w", errTaken)
	}
	return err
}

// errTaken says that there is somebody else's file or directory at the one name that an
// attempt's directory may have.
var errTaken = errors.New("its directory for temporary files is there already")

// places says where HOME and TMPDIR are.
func (at *attempt) places() {
	base := at.dir
	if at.Temp != "" {
		base = at.Temp
	}
	at.hostHome, at.hostTmp = filepath.Join(base, "home"), filepath.Join(base, "tmp")
	at.home, at.tmp = at.hostHome, at.hostTmp
	if at.a.o.RootMode {
		at.home, at.tmp = filepath.Join(at.a.o.RunDir, "home"), filepath.Join(at.a.o.RunDir, "tmp")
	}
}

// mkdir makes a directory that belongs to the job's user.
func (at *attempt) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if !at.a.o.RootMode {
		return nil
	}
	return os.Chown(dir, int(at.a.user.UID), int(at.a.user.GID))
}

// recordSize is how long a record is made with spaces: so that one is written over
// another in place, and a process that is killed leaves one of the two.
const recordSize = 1 << 10

// save writes the record, in one piece.
func (at *attempt) save() error {
	b, err := json.Marshal(at.record)
	if err != nil {
		return err
	}
	b = append(b, bytes.Repeat([]byte{' '}, max(0, recordSize-len(b)))...)
	f, err := os.OpenFile(filepath.Join(at.dir, "job.json"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// remove deletes the directories. Nothing of the job runs any more; what can't be
// deleted stays, and is said.
func (at *attempt) remove() {
	if err := errors.Join(at.removeTemp(), removeTree(at.dir)); err != nil {
		at.a.o.Log.Warn("leftovers of a job can't be deleted", "attempt", at.id, "err", err)
	}
}

func (at *attempt) removeTemp() error {
	if at.Temp == "" {
		return nil
	}
	return removeTree(at.Temp)
}

// removeTree deletes a tree that a job wrote. Both ways go by descriptors of
// directories and follow no link. The second is for what the first can't do:
// directories without permissions, and ones too deep for a descriptor each.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error { //nolint:errcheck // best effort
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700) //nolint:errcheck,gosec // best effort; nobody is left to swap it for a link
		}
		return nil
	})
	if os.RemoveAll(dir) == nil {
		return nil
	}
	rm, lerr := osexec.LookPath("rm")
	if lerr != nil {
		return err
	}
	c := osexec.Command(rm, "-rf", "--", dir) //nolint:noctx // bounded by the tree
	c.Env = []string{}
	if c.Run() == nil {
		return nil
	}
	return err
}

// errTorn says that a record was written halfway: the first one, as later ones are
// written over it.
var errTorn = errors.New("the record can't be read")

// load reads the record. fs.ErrNotExist: none was written, and nothing was started.
func (at *attempt) load() error {
	at.Temp = at.temp()
	b, err := os.ReadFile(filepath.Join(at.dir, "job.json"))
	if err == nil && json.Unmarshal(b, &at.record) != nil {
		at.record, err = record{Boot: bootid.Read(), Temp: at.temp()}, errTorn
	}
	if at.Temp != "" && filepath.Dir(at.Temp) != filepath.Clean(os.TempDir()) {
		at.Temp = "" // not one of ours; or ours of another TMPDIR, which is not ours to judge
	}
	at.places()
	return err
}

// Kill implements plugin.Adapter.
func (a *Adapter) Kill(ctx context.Context, id snapshot.ID) error {
	if _, err := snapshot.ParseID(string(id)); err != nil {
		return err
	}
	at := a.attempt(id)
	err := at.load()
	if errors.Is(err, fs.ErrNotExist) { // died before anything was started
		return errors.Join(removeTree(at.dir), at.removeTemp())
	}
	if err != nil && !errors.Is(err, errTorn) { // of a torn one the mark is looked for
		return fmt.Errorf("attempt %s: %w", id, err)
	}
	if at.Boot == bootid.Read() {
		if err := a.endAttempt(ctx, at); err != nil {
			return fmt.Errorf("attempt %s: %w", id, err)
		}
	}
	at.remove()
	return nil
}
