package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/plugin"
)

// guestNote is what the next process must know of a guest. Nothing of the job's
// payload is in it.
type guestNote struct {
	Ref   api.AttemptRef `json:"ref"`
	Slot  int            `json:"slot"`
	Boot  string         `json:"boot"`
	Claim api.Claim      `json:"claim"`
	// Answer is that of Attach; Refused is its error, RefusedCode why. Place is the
	// workspace behind an answer.
	Answer      *plugin.Workspace `json:"answer,omitempty"`
	Refused     string            `json:"refused,omitempty"`
	RefusedCode api.Code          `json:"refused_code,omitempty"`
	Place       notedPlace        `json:"place,omitzero"`
	// Finish is how it ended; Told says that the coordinator knows. Sealed is the
	// answer of Seal, and Over when it ended, in Unix milliseconds.
	Finish *api.Finish    `json:"finish,omitempty"`
	Told   bool           `json:"told,omitempty"`
	Sealed *plugin.Sealed `json:"sealed,omitempty"`
	Over   int64          `json:"over,omitempty"`
}

// notedPlace is a place in a note.
type notedPlace struct {
	View      string        `json:"view,omitempty"`
	Workspace api.Workspace `json:"workspace"`
	Note      note          `json:"note"`
}

// ended reports whether plugin and coordinator both know how it ended.
func (n *guestNote) ended() bool { return n.Told && n.Over > 0 }

// shrink drops what nobody asks for once the attempt has ended and the coordinator knows:
// the note stays for a while, and there may be many.
func (n *guestNote) shrink() {
	if n.ended() {
		*n = guestNote{
			Ref: n.Ref, Slot: n.Slot, Boot: n.Boot, Claim: api.Claim{External: &api.External{}},
			Told: true, Sealed: n.Sealed, Over: n.Over,
		}
	}
}

// withoutSecrets is what of a claim may be written down.
func withoutSecrets(c *api.Claim) api.Claim {
	out := *c
	out.Token, out.Source, out.DomainKey, out.Lineage, out.Layers = "", nil, nil, nil, nil
	out.Job.Variables, out.Job.Before, out.Job.Script, out.Job.After = nil, nil, nil, nil
	x := *c.External
	x.Payload, x.Log = nil, nil
	out.External = &x
	return out
}

func (a *Agent) guestDir() string { return filepath.Join(a.o.Dir, "attempts") }

func (g *guest) path() string {
	return filepath.Join(g.a.guestDir(), string(g.r.ref.Attempt)+".json")
}

// save writes the note. It survives the process, not a power cut: nothing that it
// tells of does either, but for what is sealed, and that has a row in the store.
func (g *guest) save() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saveLocked()
}

func (g *guest) saveLocked() error {
	b, err := json.Marshal(&g.note)
	if err != nil {
		return err
	}
	return durable.Replace(g.path(), 0o600, b)
}

// change changes the note, in memory in any case.
func (g *guest) change(edit func(n *guestNote)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	edit(&g.note)
	g.note.shrink()
	return g.saveLocked()
}

// remove deletes the note.
func (g *guest) remove() {
	if err := os.Remove(g.path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.a.log.Warn("the note of an attempt stays", "attempt", g.r.ref.Attempt, "err", err)
	}
}
