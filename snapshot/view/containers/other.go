//go:build !linux

package containers

import (
	"fmt"

	"github.com/roost-ci/roost/snapshot/view"
)

func init() {
	view.Register(view.Rung{
		Name: Name, OptIn: true,
		Open: func(string, view.Options) (view.Driver, error) {
			return nil, fmt.Errorf("%w: %s needs Linux", view.ErrUnavailable, Name)
		},
		Probe: func(string) view.Probed { return view.Probed{Why: "needs Linux"} },
	})
}
