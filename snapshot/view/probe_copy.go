package view

import (
	"errors"
	"os"
)

func probeCopy(root string) Probed {
	p := Probed{Name: NameCopy, OK: true}
	if at, done, err := probeDir(root); err != nil {
		p.fails(err)
	} else {
		if tryReflink(at) != nil {
			p.Why = "every view costs all its bytes"
		}
		done()
	}
	return p
}

// probeReflink clones a file.
func probeReflink(root string) Probed {
	p := Probed{Name: NameReflink}
	at, done, err := probeDir(root)
	if err != nil {
		p.fails(err)
		return p
	}
	defer done()
	if err := tryReflink(at); err != nil {
		p.fails(err)
		p.Fix = "let the store be on XFS (reflink=1, the default of mkfs.xfs) or btrfs; store.backing = \"xfs-loop\" makes one in a file"
		return p
	}
	p.OK = true
	return p
}

// probeDir makes sure that root exists while it is looked at.
func probeDir(root string) (string, func(), error) {
	_, err := os.Lstat(root)
	switch {
	case err == nil:
		return root, func() {}, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", nil, err
	}
	return root, func() { os.Remove(root) }, nil //nolint:errcheck // it was not there
}
