package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/backing"
	"github.com/roost-ci/roost/snapshot/view"
)

// driverFinding says the same of a rung of the ladder as the text.
type driverFinding struct {
	Name   string `json:"name"`
	Works  bool   `json:"works"`
	Chosen bool   `json:"chosen"`           // what an agent would take
	OptIn  bool   `json:"opt_in,omitempty"` // never taken by auto
	Why    string `json:"why,omitempty"`    // it does not work, or works with less
}

// checkDrivers tries each driver in dir, best first. want is store.driver.
func checkDrivers(dir, want string) []finding {
	var list []finding
	chosen := ""
	for _, p := range view.Probe(dir) {
		d := &driverFinding{Name: p.Name, Works: p.OK, OptIn: p.OptIn, Why: p.Why}
		other := view.Usable(dir, p.Name)
		d.Chosen = chosen == "" && p.OK && other == nil && (want == p.Name || want == "auto" && !p.OptIn)
		f := finding{Check: "driver", State: "ok", Text: p.Name + ": works", Driver: d}
		// What would make a lower rung work is of no use to who has a higher one.
		if chosen == "" && !p.OptIn || want == p.Name {
			f.Fix = p.Fix
		}
		switch {
		case d.Chosen:
			chosen = p.Name
			f.Text += ", and is what auto takes"
			if want != "auto" {
				f.Text = p.Name + ": works, and is what store.driver asks for"
			}
		case p.OK && other != nil:
			f.Text, f.Fix = p.Name+": works, but not for this store: "+other.Error(), ""
			if want == p.Name {
				f.State, f.Fix = "bad", "give it an empty directory"
			}
		case !p.OK && want == p.Name:
			f.State, f.Text = "bad", p.Name+": store.driver asks for it, and it does not work here: "+p.Why
		case !p.OK:
			f.Text = p.Name + ": does not work here: " + p.Why
			if chosen == "" && !p.OptIn {
				f.State = "warn" // a better way that this host misses
			}
		case p.OptIn:
			f.Text += ", if store.driver names it"
		}
		if p.OK && p.Why != "" {
			f.Text += " (" + p.Why + ")"
		}
		list = append(list, f)
	}
	if chosen == "" {
		list = append(list, finding{
			Check: "driver", State: "bad", Text: fmt.Sprintf("no driver that store.driver = %q allows can make views in %s", want, dir),
			Fix: "choose another --store-dir, or store.driver = \"auto\"",
		})
	}
	return list
}

// firstWrite is what a job pays that changes one byte of a large file that it
// inherited.
type firstWrite struct {
	FileSystem string  `json:"file_system"`
	Clones     bool    `json:"clones"` // the file shares its blocks with the old one
	Bytes      int64   `json:"bytes"`  // of the file that was tried
	Seconds    float64 `json:"seconds"`
}

// tryBytes is the size of the file with which the first write is tried.
const tryBytes = 64 << 20

// checkFileSystem measures the first write to a large file in dir.
func checkFileSystem(ctx context.Context, dir string) finding {
	f := finding{Check: "file system", State: "ok", Text: view.FileSystem(dir) + " at " + dir}
	if free, _, err := diskSpace(dir); err != nil || free < 8*tryBytes {
		f.Text += ": too little room to measure a first write"
		return f
	}
	w, err := tryFirstWrite(ctx, dir)
	if err != nil {
		f.State, f.Text = "warn", f.Text+": a first write could not be measured: "+err.Error()
		return f
	}
	f.FirstWrite = w
	const large = 2 << 30
	if w.Clones {
		f.Text += fmt.Sprintf(": clones files; the first write to a large one costs %s, whatever its size",
			time.Duration(w.Seconds*float64(time.Second)).Round(10*time.Microsecond))
		return f
	}
	all := time.Duration(w.Seconds * large / tryBytes * float64(time.Second))
	f.State = "warn"
	f.Text += fmt.Sprintf(": does not clone files; the first write to a large one copies it at %s/s, %s for %s",
		humanize.IBytes(uint64(tryBytes/w.Seconds)), all.Round(10*time.Millisecond), humanize.IBytes(large))
	f.Fix = "let the store be on XFS or btrfs; if large files are changed in part, store.backing = \"xfs-loop\" makes one here"
	return f
}

// tryFirstWrite writes a file and times how another comes to have its content.
func tryFirstWrite(ctx context.Context, dir string) (w *firstWrite, err error) {
	tmp, err := os.MkdirTemp(dir, ".roost-doctor-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	src, err := os.Create(tmp + "/old")
	if err != nil {
		return nil, err
	}
	defer src.Close() //nolint:errcheck // deleted with its directory
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i*7 + i>>9)
	}
	for range tryBytes / len(block) {
		if _, err := src.Write(block); err != nil {
			return nil, err
		}
	}
	if err := src.Sync(); err != nil { // a clone would wait for it otherwise
		return nil, err
	}
	dst, err := os.Create(tmp + "/new")
	if err != nil {
		return nil, err
	}
	defer dst.Close() //nolint:errcheck // deleted with its directory
	w = &firstWrite{FileSystem: view.FileSystem(dir), Bytes: tryBytes}
	began := time.Now()
	if w.Clones, err = view.CloneOrCopy(ctx, dst, src, tryBytes); err != nil {
		return nil, err
	}
	if _, err := dst.WriteAt(block[:1], tryBytes/2); err != nil {
		return nil, err
	}
	if !w.Clones { // a larger copy than memory takes is as slow as the disk
		if err := dst.Sync(); err != nil {
			return nil, err
		}
	}
	w.Seconds = time.Since(began).Seconds()
	return w, nil
}

// checkBacking tells whether a backing file is there, or could be made. want is
// the store's configuration.
func checkBacking(dir string, want configs.Store) []finding {
	image := backing.ImageOf(dir)
	_, err := os.Lstat(image)
	has, need := err == nil, want.Backing == configs.XFSLoop
	f := finding{Check: "backing", State: "ok"}
	why := backing.Check()
	switch {
	case has:
		f.Text = image + " is the store's file system (store.backing = \"xfs-loop\")"
		if !need {
			f.Fix = "pass --config: without store.backing = \"xfs-loop\" an agent does not mount it"
		}
	case !errors.Is(err, fs.ErrNotExist):
		f.State, f.Text = "warn", image+": "+err.Error()
	case why != nil:
		f.Text = "store.backing = \"xfs-loop\" is not possible: " + why.Error()
		f.Fix = backingFix(why)
		if need {
			f.State = "bad"
		}
	case need:
		f.Text = "an XFS in " + image + " will be made at the agent's start"
	default:
		f.Text = "store.backing = \"xfs-loop\" is possible: root, loop devices and mkfs.xfs are there"
	}
	return []finding{f}
}

// backingFix says what to change for a backing.
func backingFix(why error) string {
	switch {
	case errors.Is(why, backing.ErrTool):
		return "install xfsprogs"
	case errors.Is(why, fs.ErrNotExist):
		return "load the loop module (modprobe loop), or give the container /dev/loop-control and loop devices"
	}
	return "run the agent as root on Linux"
}
