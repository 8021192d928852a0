package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/roost-ci/roost/"

// allowed says, for each of our packages, which others of ours it may import:
// the arrows of docs/architecture.md. What is not here is forbidden, so a new
// package fails until somebody decides where it stands. A trailing /... stands
// for everything beneath.
var allowed = []struct {
	pkg  string
	deps []string
	why  string
}{
	{"internal/fail", nil, "every package may name a step at which to die"},
	{"internal/bootid", nil, "one file of the kernel's"},
	{"internal/durable", []string{"internal/fail"}, "the only place that renames"},
	{"internal/testenv", nil, "tests alone"},
	{"internal/pause", nil, "time alone"},
	{"internal/loopdev", nil, "a file and its device; knows not what it is for"},
	{"internal/backing", []string{"internal/loopdev"}, "a file system for the store's directory; knows of no store"},
	{"internal/runnerconf", nil, "text in, text out; knows of no file"},
	{"internal/gitlablog", nil, "bytes of a line; knows of no GitLab"},
	{"internal/mountinfo", nil, "fields of a line; knows of no mount"},
	{"internal/slots", nil, "the directories of slots and their mount; knows of no job"},
	{"internal/install", nil, "files that are put in place and taken back; knows not what they are"},
	{"packaging", nil, "units and what else packages have"},
	{"snapshot", nil, "names and errors; no I/O, nothing of ours"},
	{"snapshot/...", []string{"internal/loopdev", "internal/mountinfo", "snapshot", "snapshot/..."}, "the local store knows of nothing outside the family"},
	{"affinity", []string{"snapshot"}, "pure: a recorded fleet must give the same decision for ever"},
	{"configs", nil, "types and defaults; no package but cmd/roost knows of TOML"},
	{"plugin", []string{"snapshot"}, "an adapter sees only the contract"},
	{"plugin/...", []string{"internal/gitlablog", "internal/slots", "plugin", "plugin/...", "snapshot"}, "an adapter is, or could be, a separate process"},
	{"transfer/...", []string{"transfer", "transfer/...", "snapshot"}, "takes a source of layers; knows no store, no coordinator"},
	{"transfer", []string{"transfer/...", "snapshot"}, "same"},
	{"coordinator/api", []string{"snapshot"}, "the one thing that agent and coordinator share"},
	{"coordinator/pipeline", []string{"coordinator/api", "snapshot"}, "file in, graph out"},
	{"coordinator/state", []string{"coordinator/api", "coordinator/pipeline", "snapshot"}, "rows, not decisions"},
	{"coordinator/dashboard", []string{"coordinator/api", "snapshot"}, "shows what it is given"},
	{"coordinator/...", []string{"coordinator/...", "internal/gitlablog", "snapshot"}, "its parts"},
	{"coordinator", []string{"coordinator/...", "affinity", "internal/gitlablog", "snapshot"}, "bytes of layers never pass through it: no transfer, no store"},
	{"agent/pluginhost", []string{"plugin", "plugin/wire", "snapshot"}, "keeps a plugin running; knows of no coordinator, no store"},
	{"agent/leftovers", []string{"internal/mountinfo"}, "ends processes; knows of no job, no store"},
	{"agent", []string{"agent/leftovers", "agent/pluginhost", "coordinator/api", "internal/slots", "transfer", "transfer/...", "plugin", "snapshot", "snapshot/..."}, "of the coordinator only its wire; never affinity"},
	{"cmd/roost", []string{"..."}, "wires everything"},
	{"integration/gitlabtest", nil, "the other side of the wire: it shares nothing with what it tests"},
	{"integration/gitlabtest/...", []string{"integration/gitlabtest", "integration/gitlabtest/..."}, "same"},
	{"integration/...", []string{"..."}, "tests everything"},
	{"integration", []string{"..."}, "tests everything"},
}

// everybody may import these.
var common = []string{"internal/bootid", "internal/fail", "internal/durable", "internal/pause", "internal/testenv"}

// neverStd are imports of the standard library that a package must do without.
var neverStd = []struct{ pkg, dep, why string }{
	{"affinity", "os", "scoring must replay offline from a recorded fleet"},
	{"affinity", "net", "same"},
	{"affinity", "net/http", "same"},
	{"affinity", "context", "it waits for nothing"},
	{"snapshot", "os", "values only"},
	{"snapshot", "net", "values only"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

// TestImports checks direct imports (fmt alone reaches os).
func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		rule := -1
		for i, a := range allowed {
			if matches(a.pkg, name) {
				rule = i
				break
			}
		}
		require.GreaterOrEqual(t, rule, 0, "%s stands in no rule: decide which packages it may import", name)
		for _, imp := range p.Imports {
			if dep, ours := strings.CutPrefix(imp, module); ours {
				require.True(t, anyMatches(append(allowed[rule].deps, common...), dep),
					"%s must not import %s: %s", name, dep, allowed[rule].why)
			}
			for _, n := range neverStd {
				require.False(t, n.pkg == name && n.dep == imp, "%s must not import %s: %s", name, imp, n.why)
			}
		}
	}
}

func anyMatches(patterns []string, name string) bool {
	for _, p := range patterns {
		if matches(p, name) {
			return true
		}
	}
	return false
}

func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(name, dir+"/")
	}
	return pattern == name
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...").Output()
	require.NoError(t, err)
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		list = append(list, p)
	}
	require.NotEmpty(t, list)
	return list
}

// TestMatches keeps the test above honest.
func TestMatches(t *testing.T) {
	require.True(t, matches("snapshot/...", "snapshot/tree"))
	require.False(t, matches("snapshot/...", "snapshot"))
	require.False(t, matches("snapshot/...", path.Join("snapshotter", "x")))
	require.True(t, matches("...", "anything"))
}
