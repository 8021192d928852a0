package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// recordVersion 1: the first one.
const recordVersion = 1

// States of a record; doc.go draws them.
const (
	stateDelivering = "delivering"
	stateRunning    = "running"
	stateLost       = "lost"
	stateEnding     = "ending"
	stateDone       = "done"
)

// record is what must be known of a job that was handed out, to serve its runner
// after a restart. It is one file per attempt, 0600 in a directory of 0700; the
// job's token is in it until the job is done, and only there.
type record struct {
	Version int         `json:"version"`
	Attempt snapshot.ID `json:"attempt"`
	Slot    int         `json:"slot"`
	Job     string      `json:"job"`
	Token   string      `json:"token,omitempty"`
	// TokenHash knows the token when it is gone.
	TokenHash string            `json:"token_hash"`
	Deps      map[string]string `json:"deps,omitempty"`
	State     string            `json:"state"`
	// Announces says that this runner tells at once of each job that it got, so that
	// its silence means that it got none.
	Announces bool `json:"announces,omitempty"`
	// Durable says that the job's success promises more than a seal.
	Durable bool `json:"durable,omitempty"`
	// Plain says that the runner's lines have no times before them.
	Plain bool `json:"plain,omitempty"`
	// Prefix are our own lines at the trace's beginning, whether GitLab has them yet or not.
	// Foreign is how much of somebody else's stands before them, Logged how much of
	// the trace GitLab had when the job was handed out, as far as it answered; Doubts are
	// what it may have had.
	Prefix  []byte  `json:"prefix,omitempty"`
	Foreign int64   `json:"foreign,omitempty"`
	Logged  int64   `json:"logged,omitempty"`
	Doubts  []int64 `json:"doubts,omitempty"`
	// Handed is when the runner got the job, Deadline when its token ends.
	Handed   time.Time `json:"handed"`
	Deadline time.Time `json:"deadline"`
	Final    *final    `json:"final,omitempty"`
	// begun: some of the runner's part of the trace is in GitLab, or may be. It is a mark.
	begun bool
	// doubtful: it was written to the runner, and then we died: it may have spoken while
	// nobody was there, so that its silence says nothing. It is a mark too.
	doubtful bool
	// Done is when GitLab had answered and the agent too.
	Done time.Time `json:"done,omitzero"`
}

// final is how a job ends.
type final struct {
	Success bool `json:"success,omitempty"`
	// Outcome is what the agent is told if it is no success.
	Outcome plugin.Outcome `json:"outcome,omitempty"`
	// Quiet: GitLab is told nothing, because the job is somebody else's.
	Quiet bool `json:"quiet,omitempty"`
	// Own: it is the runner's own word. Body is that, without its token.
	Own    bool            `json:"own,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	Reason string          `json:"reason,omitempty"` // for people
	Exit   int             `json:"exit,omitempty"`
	Run    time.Duration   `json:"run,omitempty"`
	// Size and CRC are the runner's part of the trace, if Counted.
	Counted bool   `json:"counted,omitempty"`
	Size    int64  `json:"size,omitempty"`
	CRC     uint32 `json:"crc,omitempty"`
	// Suffix are our lines after it, fixed before the first byte of them is sent.
	Suffix []byte `json:"suffix,omitempty"`
	// Settled: the agent has sealed or discarded it. Released: GitLab may be told;
	// the same, but for an agent that can't be reached. Spoiled: it must not count as a success.
	Settled  bool `json:"settled,omitempty"`
	Released bool `json:"released,omitempty"`
	Spoiled  bool `json:"spoiled,omitempty"`
	// Answered: GitLab's last word, kept for a runner that asks again.
	Answered  bool   `json:"answered,omitempty"`
	Status    int    `json:"status,omitempty"`
	JobStatus string `json:"job_status,omitempty"`
}

// records is the directory of records. A record is written by one goroutine at a time.
type records struct{ dir string }

func openRecords(dir string) (*records, error) {
	s := &records{dir: filepath.Join(dir, "jobs")}
	if err := durable.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("gitlab: records: %w", err)
	}
	return s, nil
}

func (s *records) name(attempt snapshot.ID) string {
	return filepath.Join(s.dir, string(attempt)+".json")
}

// save makes a record durable. Crash states are those of durable.File: the old
// record or the new one.
func (s *records) save(r *record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("gitlab: record of job %s: %w", r.Job, err)
	}
	err = durable.WriteFile(s.name(r.Attempt), 0o600, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return fmt.Errorf("gitlab: record of job %s: %w", r.Job, err)
	}
	return nil
}

// Marks are what happens once in a job's life and is in every runner's way: a byte
// appended to a file beside the record. They survive our death, and need not survive the
// machine's, which is the runner's too.
const (
	markSent  = 's' // the job was written to the runner's connection
	markGot   = 'g' // the runner has said that it has it
	markBegun = 'b' // it has sent something of the trace
)

const markExt = ".seen"

func (s *records) mark(attempt snapshot.ID, mark byte) error {
	name := filepath.Join(s.dir, string(attempt)+markExt)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("gitlab: mark: %w", err)
	}
	_, err = f.Write([]byte{mark})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// readMarks adds what the marks say.
func (s *records) readMarks(r *record) {
	b, err := os.ReadFile(filepath.Join(s.dir, string(r.Attempt)+markExt))
	if err != nil {
		return
	}
	if r.State == stateDelivering && bytes.IndexByte(b, markGot) >= 0 {
		r.State = stateRunning
	}
	r.begun = bytes.IndexByte(b, markBegun) >= 0
	r.doubtful = r.State == stateDelivering && bytes.IndexByte(b, markSent) >= 0
}

func (s *records) remove(attempt snapshot.ID) error {
	for _, name := range []string{s.name(attempt), filepath.Join(s.dir, string(attempt)+markExt)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// load reads all records. One that can't be read is an error of its own beside the others:
// its job is then one that the agent holds and nobody knows.
func (s *records) load() (list []*record, bad []error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, []error{err}
	}
	for _, e := range entries {
		name := filepath.Join(s.dir, e.Name())
		if strings.HasPrefix(e.Name(), "tmp-") {
			os.Remove(name) //nolint:errcheck // what a crash left; it is in nobody's way
			continue
		}
		if strings.HasSuffix(name, markExt) {
			continue
		}
		r, err := readRecord(name)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		s.readMarks(r)
		list = append(list, r)
	}
	return list, bad
}

func readRecord(name string) (*record, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: not a record", filepath.Base(name))
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("%s: version %d: want %d", filepath.Base(name), r.Version, recordVersion)
	}
	if _, err := snapshot.ParseID(string(r.Attempt)); err != nil || string(r.Attempt)+".json" != filepath.Base(name) {
		return nil, fmt.Errorf("%s: record of another attempt", filepath.Base(name))
	}
	if !isNumber(r.Job) || (r.State == stateEnding && r.Final == nil) {
		return nil, fmt.Errorf("%s: not a record", filepath.Base(name))
	}
	return r, nil
}
