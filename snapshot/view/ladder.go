package view

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Rung is one driver of the ladder.
type Rung struct {
	Name string
	Open func(root string, o Options) (Driver, error)
	// Probe tries the driver in root, which may not exist, and leaves nothing behind.
	Probe func(root string) Probed
	// OptIn says that only configuration chooses it, never "auto".
	OptIn bool
}

// Probed is what the probe found out about one driver.
type Probed struct {
	Name string
	OK   bool
	// Why it does not work here, or with what restriction it does.
	Why string
	// Fix says what to change so that it works, or works better; "" when nothing can
	// be done.
	Fix string
	// OptIn is as in Rung.
	OptIn bool

	err error // Why, if that is an error
}

// fails notes why the driver does not work.
func (p *Probed) fails(err error) { p.OK, p.Why, p.err = false, err.Error(), err }

// ErrUnavailable says that a driver does not work on this machine.
var ErrUnavailable = errors.New("view driver is not available here")

// ladder has all drivers, best first. mu guards it: packages add to it when they
// are initialised, and nobody later.
var (
	ladderMu sync.Mutex
	ladder   = []Rung{
		{Name: NameErofs, Open: NewErofs, Probe: probeErofs},
		{Name: NameOverlay, Open: NewOverlay, Probe: probeOverlay},
		{Name: NameReflink, Open: NewReflink, Probe: probeReflink},
		{Name: NameCopy, Open: NewCopy, Probe: probeCopy},
	}
)

// Register adds a driver that lives in a package of its own, for the sake of what
// it brings with it. To be called from init; a name is taken once.
func Register(r Rung) {
	ladderMu.Lock()
	defer ladderMu.Unlock()
	if slices.ContainsFunc(ladder, func(o Rung) bool { return o.Name == r.Name }) {
		panic("view: driver " + r.Name + " registered twice")
	}
	ladder = append(ladder, r)
}

// rungs is the ladder as it is now.
func rungs() []Rung {
	ladderMu.Lock()
	defer ladderMu.Unlock()
	return slices.Clone(ladder)
}

// Names lists the drivers that Open knows, best first.
func Names() []string {
	var out []string
	for _, r := range rungs() {
		out = append(out, r.Name)
	}
	return out
}

// Open opens the named driver, or with name "" or "auto" the best one that works
// for a store at root. One process may own root at a time; the caller holds the
// lock. An error that wraps ErrUnavailable says why a driver can't be had here, one
// that wraps ErrOtherDriver that the layers at root are another's.
func Open(name, root string, o Options) (Driver, error) {
	auto := name == "" || name == "auto"
	var refused []error
	for _, r := range rungs() {
		switch {
		case r.Name == name:
			return r.open(root, o)
		case !auto || r.OptIn && !isMarked(root, r.Name):
			continue
		}
		d, err := r.try(root, o)
		if err == nil {
			for _, why := range refused {
				o.withDefaults().Log.Info("a better way of making views is not used", "driver", r.Name, "refused", why)
			}
			return d, nil
		}
		refused = append(refused, err)
	}
	if auto {
		return nil, fmt.Errorf("%w: none works for the store at %s: %w", ErrUnavailable, root, errors.Join(refused...))
	}
	return nil, fmt.Errorf("view driver %q: want auto, %s", name, strings.Join(Names(), ", "))
}

// open opens a driver for a root whose layers it can use, and marks it.
func (r Rung) open(root string, o Options) (Driver, error) {
	if err := Usable(root, r.Name); err != nil {
		return nil, fmt.Errorf("%s: %w; give it an empty directory", root, err)
	}
	d, err := r.Open(root, o)
	if err != nil {
		return nil, err
	}
	return d, writeMark(root, r.Name)
}

// try is open for a driver that may not work here.
func (r Rung) try(root string, o Options) (Driver, error) {
	if err := Usable(root, r.Name); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	if wasProbed(root, r.Name) {
		return r.open(root, o)
	}
	if p := r.Probe(root); p.err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, p.err)
	} else if !p.OK {
		return nil, fmt.Errorf("%s: %s", r.Name, p.Why)
	}
	d, err := r.open(root, o)
	if err == nil {
		noteProbed(root, r.Name)
	}
	return d, err
}

// isMarked reports whether the layers at root are that driver's.
func isMarked(root, name string) bool {
	made, err := readMark(root)
	return err == nil && made == name
}

// Probe tries each driver below root, best first. It leaves nothing behind.
func Probe(root string) []Probed {
	var out []Probed
	for _, r := range rungs() {
		p := r.Probe(root)
		p.Name, p.OptIn = r.Name, r.OptIn
		out = append(out, p)
	}
	return out
}
