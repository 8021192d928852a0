//go:build linux

package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/drivers/overlay"

	"github.com/roost-ci/roost/snapshot/view"
)

func init() {
	// The library logs by itself, to standard error; what matters comes as errors.
	logrus.SetLevel(logrus.ErrorLevel)
	view.Register(view.Rung{Name: Name, OptIn: true, Open: Open, Probe: probe})
}

// Directories below the store's root.
const (
	homeDir = "containers/overlay"
	runDir  = "containers/run"
)

// Open opens the driver for the store at root. It needs root and what the overlay
// driver needs. It knows no data-only directories: the files of a merged view are
// copied, or cloned where the file system can.
func Open(root string, o view.Options) (view.Driver, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: %s needs root", view.ErrUnavailable, Name)
	}
	home, run := filepath.Join(root, homeDir), filepath.Join(root, runDir)
	for _, dir := range []string{root, home, run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	home, err := filepath.EvalSymlinks(home)
	if err != nil {
		return nil, err
	}
	d, err := overlay.Init(home, graphdriver.Options{
		Root: filepath.Dir(home), RunRoot: run,
		DriverOptions: []string{
			"overlay.mountopt=" + strings.Join(view.GraphOptions, ","),
			// No mount of its own that would stay behind when we are killed.
			"overlay.skip_mount_home=true",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", view.ErrUnavailable, err)
	}
	return view.NewGraph(Name, root, home, &graph{d: d, home: home}, o)
}

// probe only looks: opening makes directories and test mounts.
func probe(root string) view.Probed {
	if os.Geteuid() != 0 {
		return view.Probed{Why: "not running as root", Fix: "run the agent as root"}
	}
	at := root
	if _, err := os.Stat(root); err != nil {
		at = filepath.Dir(root)
	}
	tmp, err := os.MkdirTemp(at, "probe-")
	if err != nil {
		return view.Probed{Why: err.Error()}
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // some empty directories
	if _, err := Open(tmp, view.Options{}); err != nil {
		return view.Probed{Why: err.Error(), Fix: "what the overlay driver needs: a file system that is no overlay itself"}
	}
	return view.Probed{OK: true, Why: "merged views copy their files"}
}

// graph adapts the library's driver.
type graph struct {
	d    graphdriver.Driver
	home string
}

func (g *graph) Create(id, parent string) error { return g.d.CreateReadWrite(id, parent, nil) }

func (g *graph) Mount(id string, options []string) (string, error) {
	return g.d.Get(id, graphdriver.MountOpts{Options: options})
}

func (g *graph) Unmounted(id string) error { return g.d.Put(id) }

func (g *graph) Remove(id string) error {
	err := g.d.Remove(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (g *graph) Exists(id string) bool { return g.d.Exists(id) }

func (g *graph) Upper(id string) (string, error) {
	m, err := g.d.Metadata(id)
	if err != nil {
		return "", err
	}
	if m["UpperDir"] == "" {
		return "", fmt.Errorf("layer %s has no directory of its own", id)
	}
	return m["UpperDir"], nil
}

func (g *graph) Layers() ([]string, error) { return g.d.ListLayers() }

// MaxParents keeps the options of a mount within one page: beyond it the library
// starts a second process of ours to mount.
func (g *graph) MaxParents() int {
	const page, other = 4096, 512
	perLayer := len(g.home) + len("/f/diff:") + 26
	return max(4, (page-other)/perLayer-2)
}
