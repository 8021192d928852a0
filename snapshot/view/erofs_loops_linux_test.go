package view

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// loops lists what the loop devices of this store are before.
func (h *ehost) loops() (images, bundles []string) {
	h.t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	require.NoError(h.t, err)
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue // it has gone
		}
		file := strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)")
		switch {
		case !strings.HasPrefix(file, h.root+"/"):
		case filepath.Base(file) == bundleName:
			bundles = append(bundles, file)
		default:
			images = append(images, file)
		}
	}
	return images, bundles
}

// A line of 300 layers that all came from elsewhere, on a kernel that needs a loop
// device for each bundle: no image has more than so many, what they have in common is
// there once, and all of it is given back.
func TestErofsManyBundlesOnLoops(t *testing.T) {
	h := newErofsHostBy(t, Options{}, erofs.Loop)
	require.Equal(t, mostLoops, h.d.images.maxBundles)
	want := map[string]string{}
	var l, base *Layer
	l, m := h.unpack(nil, nil, map[string]string{"f": "first"})
	for i := range 299 {
		p := fmt.Sprintf("f%03d", i)
		want[p] = strings.Repeat(p, 100+i)
		base = l
		l, m = h.unpack(l, m, map[string]string{p: want[p]})
		require.LessOrEqual(t, len(l.Devices), mostLoops)
	}
	require.Len(t, l.Devices, mostLoops)
	require.Empty(t, l.Key, "an image with copies is nobody else's")

	// What the image before had copied is not copied again.
	copies := mustNames(t, h.d.abs(part(l.ID, objectPrefix)))
	require.Len(t, copies, 300-mostLoops)
	linked := 0
	for _, n := range copies {
		a, err := os.Stat(h.d.abs(part(l.ID, objectPrefix)) + "/" + n)
		require.NoError(t, err)
		if b, err := os.Stat(h.d.abs(part(base.ID, objectPrefix)) + "/" + n); err == nil && os.SameFile(a, b) {
			linked++
		}
	}
	require.Equal(t, 299-mostLoops, linked)

	// Three images, five views.
	layers := []*Layer{l, base}
	on, om := h.job(l, m, func(dir string) { h.put(dir, "f000", "changed") })
	layers = append(layers, h.image(on, l, om))
	var views []*View
	for i := range 5 {
		views = append(views, h.prepare(layers[i%3], nil))
	}
	// One that is about to go may be held for a moment by somebody who looks at all devices.
	var images, bundles []string
	require.Eventually(t, func() bool {
		images, bundles = h.loops()
		once := slices.Compact(slices.Sorted(slices.Values(bundles)))
		return len(images) == 3 && len(once) == len(bundles)
	}, time.Minute, 10*time.Millisecond, "images %v, or one of the bundles has two devices: %v", images, bundles)
	require.LessOrEqual(t, len(bundles), mostLoops+2, "each image drops the smallest bundle of its own tree")
	h.shows(l, want)
	require.Equal(t, "changed", h.get(views[2].Target, "f000"))
	// They outlive the mounts of their images.
	require.NoError(t, h.e.Close())
	require.Equal(t, want["f250"], h.get(views[0].Target, "f250"))
	require.Equal(t, want["f001"], h.get(views[0].Target, "f001"), "one that was copied")
	next := h.prepare(l, nil)
	require.Eventually(t, func() bool {
		_, again := h.loops()
		return len(again) == len(bundles)
	}, time.Minute, 10*time.Millisecond, "a device that is there is used again")
	for _, v := range append(views, next) {
		require.NoError(t, h.e.Discard(t.Context(), v))
	}
	require.NoError(t, h.e.Close())
	require.Eventually(t, func() bool {
		images, bundles := h.loops()
		return len(images)+len(bundles) == 0
	}, time.Minute, 10*time.Millisecond, "loop devices are left")

	// A merge has no place for copies: it gets a fix-up layer on the image before.
	h.d.images.always = true
	_, sm := h.job(l, m, func(dir string) { h.put(dir, "side", "s") })
	v := h.prepare(l, &Fanin{Changes: ChangesOf(tree.Diff(m, sm)), Tree: TreeOf(sm)})
	require.Equal(t, l.Image, v.Layer.Image)
	require.Equal(t, "s", h.get(v.Target, "side"))
	require.Equal(t, want["f007"], h.get(v.Target, "f007"))
	require.NoError(t, h.e.Discard(t.Context(), v))
}

// A name of a device says nothing about what it is by now.
func TestErofsLoopTakenByOthers(t *testing.T) {
	h := newErofsHostBy(t, Options{}, erofs.Loop)
	a, _ := h.unpack(nil, nil, map[string]string{"f": "a"})
	b, _ := h.unpack(nil, nil, map[string]string{"f": "b"})
	for i := range 6 { // devices are given back and taken by the other in between
		l, text := a, "a"
		if i%2 == 1 {
			l, text = b, "b"
		}
		h.shows(l, map[string]string{"f": text})
		require.NoError(t, h.e.Close())
	}
}
