package view

import "github.com/roost-ci/roost/snapshot/view/internal/erofs"

// AlwaysImage makes an erofs driver show every merge by an image, whatever is
// cheaper.
func AlwaysImage(d Driver) { d.(*Erofs).images.always = true }

// NewErofsOnLoops mounts images as on a kernel before Linux 6.12.
func NewErofsOnLoops(root string, o Options) (Driver, error) {
	return openErofs(root, o, erofs.Loop)
}
