//go:build !linux

package view

import "fmt"

// NewOverlay says that there are no overlay mounts here.
func NewOverlay(string, Options) (Driver, error) {
	return nil, fmt.Errorf("%w: overlay mounts need Linux", ErrUnavailable)
}

func probeOverlay(string) Probed {
	return Probed{Name: NameOverlay, Why: "overlay mounts need Linux"}
}
