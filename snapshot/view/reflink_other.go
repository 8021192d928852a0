//go:build !linux

package view

import (
	"context"
	"errors"
	"os"
)

func cloneContent(context.Context, *os.File, *os.File, int64, *Meter) error { return errNoClone }

func tryReflink(string) error { return errors.New("clones of files need Linux") }
