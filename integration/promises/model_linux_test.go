package promises

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/snapshot"
)

// plots are the directories of which every tree consists. A job gardens one of
// them, so what a merge of two jobs must show is known without merging anything.
var plots = []string{"p0", "p1", "p2"}

// job is what a layer was made by: all that is needed to make its tree again.
type job struct {
	ID     snapshot.ID   `json:"id"`
	Inputs []snapshot.ID `json:"inputs"` // none, one, or two that stand on the same one
	Plot   string        `json:"plot"`
	Seed   uint64        `json:"seed"`
	Steps  int           `json:"steps"`
	Small  int           `json:"small"` // files besides, in a directory of their own
}

// run does the job in a view.
func (j *job) run(dir string) error {
	for _, p := range plots {
		if err := os.Mkdir(filepath.Join(dir, p), 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		if len(j.Inputs) == 0 {
			if err := garden(filepath.Join(dir, p), 0, 0, false); err != nil {
				return err
			}
		}
	}
	return j.garden(filepath.Join(dir, j.Plot))
}

// garden does it in the directory of its plot.
func (j *job) garden(plot string) error {
	if j.Small > 0 {
		dir := filepath.Join(plot, fmt.Sprint("small-", j.Seed))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for i := range j.Small {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("s", i)), fmt.Appendf(nil, "%d of %d", i, j.Seed), 0o644); err != nil {
				return err
			}
		}
	}
	return garden(plot, j.Seed, j.Steps, false)
}

// almanac knows the jobs of one test, and makes their trees without any store.
// Jobs are kept in files, since the process that does them is killed.
type almanac struct {
	dir  string // <id>.json, and trees made for comparison
	jobs map[snapshot.ID]*job
}

func openAlmanac(dir string) (*almanac, error) {
	a := &almanac{dir: dir, jobs: map[snapshot.ID]*job{}}
	return a, a.reload()
}

func (a *almanac) reload() error {
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(a.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return err
		}
		j := &job{}
		if err := json.Unmarshal(b, j); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		a.jobs[j.ID] = j
	}
	return nil
}

// add writes a job down before it begins.
func (a *almanac) add(j *job) error {
	a.jobs[j.ID] = j
	return writeWhole(filepath.Join(a.dir, string(j.ID)+".json"), j)
}

// writeWhole writes v so that who is killed meanwhile leaves all of it or nothing.
func writeWhole(path string, v any) error {
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path+".part", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// versions says, for each plot, which job was the last to garden it.
func (a *almanac) versions(id snapshot.ID) (map[string]snapshot.ID, error) {
	j := a.jobs[id]
	if j == nil {
		return nil, fmt.Errorf("no job made %s", id)
	}
	v := map[string]snapshot.ID{}
	for i, in := range j.Inputs {
		w, err := a.versions(in)
		if err != nil {
			return nil, err
		}
		for p, at := range w {
			if i == 0 || a.jobs[in].Plot == p {
				v[p] = at
			}
		}
	}
	v[j.Plot] = id
	return v, nil
}

// plot returns the directory that shows a plot as job id left it.
func (a *almanac) plot(p string, id snapshot.ID) (string, error) {
	dir := filepath.Join(a.dir, "ref-"+p+"-"+string(id))
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if id == "" {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		return dir, garden(dir, 0, 0, false)
	}
	j := a.jobs[id]
	var before snapshot.ID
	for i, in := range j.Inputs {
		v, err := a.versions(in)
		if err != nil {
			return "", err
		}
		if i == 0 || a.jobs[in].Plot == p {
			before = v[p]
		}
	}
	from, err := a.plot(p, before)
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("cp", "-a", from, dir+".part").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	if err := j.garden(dir + ".part"); err != nil {
		return "", err
	}
	return dir, os.Rename(dir+".part", dir)
}

// compare says what differs between a tree and what it has to be.
func (a *almanac) compare(id snapshot.ID, shown string) error {
	v, err := a.versions(id)
	if err != nil {
		return err
	}
	var all []string
	for _, p := range plots {
		want, err := a.plot(p, v[p])
		if err != nil {
			return err
		}
		diff, err := treecheck.Compare(want, filepath.Join(shown, p))
		if err != nil {
			return err
		}
		for _, d := range diff {
			all = append(all, p+": "+d)
		}
	}
	names, err := os.ReadDir(shown)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.Contains(plots, n.Name()) {
			all = append(all, n.Name()+": nobody made it")
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("%s is not what its job left:\n%s", id, strings.Join(all, "\n"))
	}
	return nil
}
