package runnerconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var dockerPlan = Plan{
	Layout: Shared, Address: "http://172.17.0.1:9292", Tokens: []string{"local-1", "local-2"},
	BuildsDir: "/builds", SlotsDir: "/var/lib/roost/slots",
}

func make2(t *testing.T, text, name string, p Plan) (*Found, *Planned) {
	t.Helper()
	f := parse(t, text)
	found, err := f.Inspect(name)
	require.NoError(t, err)
	out, err := f.Make(found, p)
	require.NoError(t, err)
	return found, out
}

// TestGolden: what comes out of files of many shapes is in testdata, to be read by
// people: NAME.in.toml, NAME.LAYOUT.toml and NAME.LAYOUT.slot1.toml. ROOST_GOLDEN=write
// writes them.
func TestGolden(t *testing.T) {
	ins, err := filepath.Glob("testdata/*.in.toml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(ins), 8)
	for _, in := range ins {
		text, err := os.ReadFile(in)
		require.NoError(t, err)
		base := strings.TrimSuffix(in, ".in.toml")
		name := ""
		if strings.Contains(base, "several") {
			name = "big"
		}
		f := parse(t, string(text))
		found, err := f.Inspect(name)
		require.NoError(t, err, in)
		plans := []Plan{{Layout: Called, Tokens: dockerPlan.Tokens, Program: "/usr/bin/roost"}}
		switch found.Executor {
		case Docker:
			plans = append(plans, dockerPlan)
		case Shell:
			p := dockerPlan
			p.Address, p.Dir = "http://127.0.0.1:9292", "/etc/gitlab-runner/roost"
			p.Layout = Apart
			plans = append(plans, p)
			p.Layout = PerSlot
			plans = append(plans, p)
		}
		for _, p := range plans {
			out, err := f.Make(found, p)
			require.NoError(t, err, "%s %s", in, p.Layout)
			golden(t, base+"."+string(p.Layout)+".toml", out.Main)
			if p.Layout == Apart {
				require.Len(t, out.Slots, 2)
				golden(t, base+".apart.slot1.toml", out.Slots[0])
				checkSlots(t, out.Slots, p)
			}
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if os.Getenv("ROOST_GOLDEN") == "write" {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), path)
}

// checkSlots checks what a slot's own file must be.
func checkSlots(t *testing.T, texts [][]byte, p Plan) {
	t.Helper()
	for i, text := range texts {
		f := parse(t, string(text))
		e := nth(t, f, 0)
		require.Equal(t, p.Tokens[i], e.Text("token"))
		require.Equal(t, 1, e.Int("limit"))
		require.Equal(t, int64(1), f.get("concurrent"))
		require.Nil(t, f.get("listen_address"))
		require.Nil(t, f.get("session_server"))
		all, err := f.entries()
		require.NoError(t, err)
		require.Len(t, all, 1)
	}
}

// A shared process has a worker for each slot, besides those that other entries had.
func TestConcurrentLeavesRoomForOthers(t *testing.T) {
	other := "\n[[runners]]\nname = \"other\"\nurl = \"http://x\"\ntoken = \"u\"\nexecutor = \"shell\"\n"
	one := "[[runners]]\nname = \"big\"\nurl = \"http://x\"\ntoken = \"t\"\nexecutor = \"docker\"\n"
	for _, c := range []struct {
		text string
		want int64
	}{
		{"concurrent = 1\n" + one, 2},
		{"concurrent = 10\n" + one, 10},
		{one, 2},
		{"concurrent = 4\n" + one + other, 6},
		{"concurrent = 4\n" + one + other + "limit = 1\n", 4},
		{"concurrent = 2\n" + one + other + "limit = 1\n", 3},
	} {
		_, out := make2(t, c.text, "big", dockerPlan)
		require.Equal(t, c.want, parse(t, string(out.Main)).get("concurrent"), c.text)
	}
}

func TestInspectRefuses(t *testing.T) {
	ok := "[[runners]]\nname = \"a\"\nurl = \"https://x\"\ntoken = \"t\"\n"
	for text, want := range map[string]string{
		"concurrent = 1\n":                      "no [[runners]]",
		ok + "executor = \"kubernetes\"\n":      "not supported",
		ok + ok + "executor = \"shell\"\n":      "2 [[runners]]",
		"[[runners]]\nurl = \"https://x\"\n":    "no token",
		"[[runners]]\nurl = \"x\"\ntoken='t'\n": "no URL",
		"[[runners]]\nurl = \"http://127.0.0.1:9292/slot3\"\ntoken='t'\nexecutor='shell'\n": "slot of Roost's",
		ok + "executor = \"shell\"\ntls-cert-file = \"/c\"\n":                               "client's certificate",
		ok + "executor = \"docker\"\n[runners.docker]\nhost = \"tcp://1.2.3.4:2376\"\n":     "elsewhere",
		ok + "executor = \"shell\"\nbuilds_dir = \"builds\"\n":                              "not absolute",
	} {
		_, err := parse(t, text).Inspect("")
		var r *RefusedError
		require.ErrorAs(t, err, &r, text)
		require.ErrorContains(t, err, want)
	}
	_, err := parse(t, ok+"executor = \"shell\"\n").Inspect("b")
	require.ErrorContains(t, err, `name = "b"`)
}

func TestNotes(t *testing.T) {
	text := "[[runners]]\nname = \"a\"\nurl = \"https://x\"\ntoken = \"t\"\nexecutor = \"docker\"\n" +
		"token_expires_at = 2027-01-02T03:04:05Z\nenvironment = [\"GIT_STRATEGY=clone\"]\n" +
		"[runners.feature_flags]\nFF_ENABLE_JOB_CLEANUP = true\n[runners.docker]\nvolumes = [\"/srv/b:/builds\", \"/cache\"]\n"
	found, out := make2(t, text, "", dockerPlan)
	require.Len(t, found.Notes, 3)
	require.Len(t, out.Notes, 1)
	e := nth(t, parse(t, string(out.Main)), 1)
	require.Equal(t, []string{"/var/lib/roost/slots/2:/builds", "/cache"}, e.List("docker", "volumes"))
	require.Equal(t, false, e.Get("feature_flags", "FF_ENABLE_JOB_CLEANUP"))
	require.Contains(t, string(out.Main), "token_expires_at = 0001-01-01T00:00:00Z")
	require.NotContains(t, string(out.Main), "2027")
}

// FuzzMake: a file is refused, or what comes out has as many slots as it should and
// keeps every other entry and key.
func FuzzMake(f *testing.F) {
	ins, err := filepath.Glob("testdata/*.in.toml")
	require.NoError(f, err)
	for _, in := range ins {
		text, err := os.ReadFile(in)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		found, err := file.Inspect("")
		if err != nil {
			return
		}
		before := nth(t, file, 0)
		for _, layout := range []Layout{Shared, Apart, PerSlot, Called} {
			p := dockerPlan
			p.Layout, p.Program, p.Dir = layout, "/usr/bin/roost", "/etc/x"
			out, err := file.Make(found, p)
			if err != nil {
				continue
			}
			main := parse(t, string(out.Main))
			all, err := main.entries()
			require.NoError(t, err)
			switch layout {
			case Apart:
				require.Empty(t, all)
				checkSlots(t, out.Slots, p)
				continue
			case Called:
				require.Len(t, all, 1)
				require.Equal(t, found.Token, all[0].Text("token"))
				continue
			default:
			}
			require.Len(t, all, 2)
			for i, e := range all {
				require.Equal(t, p.Tokens[i], e.Text("token"))
				require.Equal(t, true, e.Get("custom_build_dir", "enabled"))
				require.Equal(t, before.Get("environment"), e.Get("environment"))
			}
		}
	})
}
