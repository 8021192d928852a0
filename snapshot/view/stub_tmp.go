package view

import "errors"

var errNotYet = errors.New("not built yet")

// NewCopy opens the copying driver, which works everywhere.
func NewCopy(root string, o Options) (Driver, error) { return nil, errNotYet }

func probeCopy(root string) Probed { return Probed{Name: NameCopy, OK: true} }
