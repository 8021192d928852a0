//go:build !linux

package view

import "fmt"

// NewErofs says that there are no EROFS images here.
func NewErofs(string, Options) (Driver, error) {
	return nil, fmt.Errorf("%w: EROFS images need Linux", ErrUnavailable)
}

func probeErofs(string) Probed {
	return Probed{Name: NameErofs, Why: "EROFS images need Linux"}
}
