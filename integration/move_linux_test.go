package integration

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// movePipeline makes the trees that break naive copies, changes them on top of a
// parent, and hands them to the other host.
const movePipeline = `
stages: [make, change, look]
make:
  stage: make
  tags: [host-a]
  script:
    - mkdir -p renamed/deep/er replaced linked/a linked/b stay && echo 1 > renamed/deep/er/f && echo x > replaced/child
    - echo keep > stay/untouched && touch -d '1969-07-20 20:17:40.123456789' stay/old && chmod 4751 stay/old
    - echo content > linked/a/one && ln linked/a/one linked/b/two && ln linked/a/one linked/three
    - truncate -s 64M sparse && printf data | dd of=sparse bs=1 seek=33554432 conv=notrunc status=none
    - mkfifo stay/fifo && ln -s ../nowhere stay/dangling && mkdir -m 2775 stay/setgid && touch "stay/new
      line" && head -c 3000000 /dev/urandom > stay/big
    - setfattr -n user.roost -v yes stay/untouched || true
change:
  stage: change
  needs: [make]
  tags: [host-a]
  script:
    - mv renamed moved && mv moved/deep/er moved/er && echo 2 >> moved/er/f
    - rm -r replaced && echo now-a-file > replaced
    - rm stay/old && mkdir stay/old && echo y > stay/old/inside
    - rm -r linked/b && mkdir linked/b && echo again > linked/b/two
    - chmod 600 stay/big && touch -d '2001-02-03 04:05:06.7' stay
    - printf more | dd of=sparse bs=1 seek=50000000 conv=notrunc status=none
look:
  stage: look
  needs: [change]
  tags: [host-b]
  script:
    - test "$(cat moved/er/f | tr '\n' ' ')" = "1 2 " && test ! -e renamed && test -d moved/deep
    - test "$(cat replaced)" = now-a-file && test "$(cat stay/old/inside)" = y
    - test "$(stat -c %h linked/a/one)" = 2 && test linked/a/one -ef linked/three && test "$(cat linked/b/two)" = again
    - test "$(du -k sparse | cut -f1)" -lt 1024 && test "$(stat -c %s sparse)" = 67108864
    - test -p stay/fifo && test "$(readlink stay/dangling)" = ../nowhere
`

// TestMoveIsExact runs two jobs on one host and a third on the other, and then
// compares the parent's tree on both hosts by a walk that shares no code with
// what wrote the manifests.
func TestMoveIsExact(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	f := newFleet(t, roostBinary(t), 2)
	p := f.run("move", movePipeline)
	f.requireSuccess(p)
	change, look := job(t, p, "change"), job(t, p, "look")
	require.Equal(t, "host-a", change.Host)
	require.Equal(t, "host-b", look.Host)
	require.Equal(t, api.SourceLocal, change.Workspace.Source)
	require.Zero(t, change.Workspace.BytesMoved)
	require.Less(t, change.Workspace.AttachMS, 50.0)
	require.Equal(t, api.SourceStore, look.Workspace.Source)
	require.Positive(t, look.Workspace.BytesMoved)
	require.Less(t, look.Workspace.BytesMoved, int64(8<<20), "the 64 MiB hole must not travel")
	f.stop()
	requireNothingLeft(t, f.dir)
	compareOnBoth(t, f.dir, change.Workspace.Output)
}

// compareOnBoth mounts one snapshot out of both hosts' stores and compares.
func compareOnBoth(t *testing.T, dir string, id snapshot.ID) {
	t.Helper()
	a := mountSnapshot(t, filepath.Join(dir, "host-a"), id)
	b := mountSnapshot(t, filepath.Join(dir, "host-b"), id)
	diff, err := treecheck.Compare(a, b)
	require.NoError(t, err)
	require.Empty(t, diff)
	// The comparison itself must be able to see a difference.
	diff, err = treecheck.Compare(a, filepath.Join(b, "stay"))
	if err == nil {
		require.NotEmpty(t, diff)
	}
}

func mountSnapshot(t *testing.T, dir string, id snapshot.ID) string {
	t.Helper()
	s, err := store.Open(context.Background(), dir, store.Options{
		Owners: true,
		Driver: func(root string) (view.Driver, error) { return view.Open("", root, view.Options{Owners: true}) },
	})
	require.NoError(t, err)
	target := filepath.Join(t.TempDir(), "m")
	require.NoError(t, os.Mkdir(target, 0o755))
	c, err := s.Mount(context.Background(), id, target)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	})
	return target
}

// TestSiblingsNeverSeeEachOther runs children of one parent side by side.
func TestSiblingsNeverSeeEachOther(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	f := newFleet(t, roostBinary(t), 1)
	p := f.run("siblings", `
stages: [a, b, c]
base: {stage: a, script: ["echo base > shared"]}
child:
  stage: b
  parallel: 4
  script:
    - test "$(cat shared)" = base && echo "$CI_NODE_INDEX" > shared.$CI_NODE_INDEX && echo x > both
    - for i in $(seq 20); do test "$(ls shared.* | wc -l)" = 1; sleep 0.02; done
joined:
  stage: c
  script: ['test "$(ls shared.* | wc -l)" = 4', 'test "$(cat both)" = x']
`)
	f.requireSuccess(p)
}
