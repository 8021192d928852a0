package runnerconf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shapes are files as people write them.
var shapes = map[string]string{
	"registered": `concurrent = 4
check_interval = 0
shutdown_timeout = 0

[session_server]
  session_timeout = 1800

[[runners]]
  name = "host-a"
  url = "https://gitlab.example.org/"
  id = 12
  token = "glrt-0123456789abcdefghij"
  token_obtained_at = 2026-01-02T03:04:05Z
  token_expires_at = 0001-01-01T00:00:00Z
  executor = "docker"
  [runners.cache]
    MaxUploadedArchiveSize = 0
    [runners.cache.s3]
  [runners.docker]
    tls_verify = false
    image = "debian:12"
    volumes = ["/cache"]
    shm_size = 0
`,
	"comments": `# ours
concurrent=2 # two

# the big one
[[runners]] # here
name = "a" # its name
# a comment between
url = "https://gitlab.example.org"
token = 'literal'
executor = "shell"
unknown_key = { a = 1, b = [1, 2], "c d" = "x" }
# the end of a

# b begins
[[runners]]
name = "b"
url = "https://other.example.org"
token = "t"
executor = "shell"
# last words`,
	"inline": `concurrent = 1
[[runners]]
name = "x"
url = "u"
token = "t"
executor = "docker"
custom_build_dir = { enabled = false }
docker = { image = "a", volumes = ["/cache", "/x:/builds:rw"], other = { deep = true } }
feature_flags = {}
`,
	"volumes": `[[runners]]
  executor = "docker"
  url = "u"
  token = "t"
  [runners.docker]
    volumes = [
      "/cache", # keep me
      '/var/run/docker.sock:/var/run/docker.sock',
      # and this
    ]
`,
	"no newline":  "concurrent = 1\n[[runners]]\nurl = \"u\"\ntoken = \"t\"\nexecutor = \"shell\"",
	"empty lists": "[[runners]]\nurl = \"u\"\nexecutor = \"docker\"\n[runners.docker]\nvolumes = [ # none\n]\n",
	"header only": "[[runners]]\n[runners.docker]\n",
	"dates":       "when = 2026-01-02T03:04:05+02:00\nday = 2026-01-02\nat = 03:04:05\nf = 1e3\n[[runners]]\nurl = '''multi'''\n",
}

func init() {
	shapes["crlf"] = strings.ReplaceAll(shapes["comments"], "\n", "\r\n")
}

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	require.NoError(t, err)
	require.Equal(t, text, f.String())
	return f
}

func nth(t *testing.T, f *File, i int) *entry {
	t.Helper()
	all, err := f.entries()
	require.NoError(t, err)
	require.Greater(t, len(all), i)
	return all[i]
}

// Each edit works on each shape, and what it leaves of the old text is all of it.
func TestEditsOnEveryShape(t *testing.T) {
	for name, text := range shapes {
		t.Run(name, func(t *testing.T) {
			f := parse(t, text)
			edits := []func(f *File) (*File, error){
				func(f *File) (*File, error) { return f.Set(7, "concurrent") },
				func(f *File) (*File, error) { return nth(t, f, 0).Set("http://127.0.0.1:9292/slot1", "url") },
				func(f *File) (*File, error) { return nth(t, f, 0).Set("local \"token\" \\ \u00e4", "token") },
				func(f *File) (*File, error) { return nth(t, f, 0).Set(true, "custom_build_dir", "enabled") },
				func(f *File) (*File, error) { return nth(t, f, 0).Set(1, "limit") },
				func(f *File) (*File, error) { return nth(t, f, 0).Insert("/slots/1:/builds", "docker", "volumes") },
				func(f *File) (*File, error) { return nth(t, f, 0).Set("no", "feature_flags", "FF_X") },
			}
			for i, edit := range edits {
				g, err := edit(f)
				require.NoError(t, err, "edit %d of\n%s", i, f)
				require.True(t, kept(f.String(), g.String()), "edit %d lost something:\n%s", i, g)
				again, err := edit(g)
				require.NoError(t, err)
				if i != 5 {
					require.Equal(t, g.String(), again.String(), "the second time there is nothing to do")
				}
				f = g
			}
			e := nth(t, f, 0)
			require.Equal(t, "local \"token\" \\ \u00e4", e.Text("token"))
			require.Equal(t, true, e.Get("custom_build_dir", "enabled"))
			require.Equal(t, "/slots/1:/builds", e.List("docker", "volumes")[0])
			require.Equal(t, 1, e.Int("limit"))
			require.Equal(t, int64(7), f.get("concurrent"))
			if strings.Contains(text, "\r\n") {
				require.Equal(t, strings.Count(f.String(), "\n"), strings.Count(f.String(), "\r\n"), "line ends are the file's")
			}
			g, err := e.Repeat(3)
			require.NoError(t, err)
			require.True(t, kept(f.String(), g.String()))
			was, err := f.entries()
			require.NoError(t, err)
			is, err := g.entries()
			require.NoError(t, err)
			require.Len(t, is, len(was)+2)
		})
	}
}

// kept reports whether new has every line of old that was not an edited one's: at most
// one line of old may be missing, and that must be one with a value.
func kept(before, after string) bool {
	have := map[string]int{}
	for _, l := range strings.Split(after, "\n") {
		have[strings.TrimRight(l, "\r")]++
	}
	lost := 0
	for _, l := range strings.Split(before, "\n") {
		if l = strings.TrimRight(l, "\r"); have[l] > 0 {
			have[l]--
		} else if lost++; !strings.Contains(l, "=") {
			return false
		}
	}
	return lost <= 1
}

func TestEditIsWhereItBelongs(t *testing.T) {
	f := parse(t, shapes["comments"])
	f, err := nth(t, f, 0).Set("http://127.0.0.1/slot1", "url")
	require.NoError(t, err)
	f, err = nth(t, f, 0).Set(true, "custom_build_dir", "enabled")
	require.NoError(t, err)
	f, err = nth(t, f, 1).Set(1, "limit")
	require.NoError(t, err)
	require.Equal(t, `# ours
concurrent=2 # two

# the big one
[[runners]] # here
name = "a" # its name
# a comment between
url = "http://127.0.0.1/slot1"
token = 'literal'
executor = "shell"
unknown_key = { a = 1, b = [1, 2], "c d" = "x" }
[runners.custom_build_dir]
  enabled = true
# the end of a

# b begins
[[runners]]
name = "b"
url = "https://other.example.org"
token = "t"
executor = "shell"
limit = 1
# last words`, f.String())
}

func TestRemoveAndComment(t *testing.T) {
	f := parse(t, shapes["comments"])
	f, err := nth(t, f, 0).Remove("gone to Roost")
	require.NoError(t, err)
	f, err = nth(t, f, 0).Comment("this one stays")
	require.NoError(t, err)
	require.Equal(t, "# ours\nconcurrent=2 # two\n\n# the big one\n# gone to Roost\n# the end of a\n\n# b begins\n# this one stays\n"+
		"[[runners]]\nname = \"b\"\nurl = \"https://other.example.org\"\ntoken = \"t\"\nexecutor = \"shell\"\n# last words", f.String())
	f, err = nth(t, f, 0).Remove()
	require.NoError(t, err)
	all, err := f.entries()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestDelete(t *testing.T) {
	f := parse(t, "a = 1 # x\nlisten_address = \":9252\"\n[session_server]\n  x = 1\n  # in it\n  [session_server.more]\n  y = 1\n# after\n[[runners]]\nurl = 'u'\n")
	f, err := f.delete("session_server")
	require.NoError(t, err)
	f, err = f.delete("listen_address")
	require.NoError(t, err)
	f, err = f.delete("not_there")
	require.NoError(t, err)
	require.Equal(t, "a = 1 # x\n  # in it\n# after\n[[runners]]\nurl = 'u'\n", f.String())
}

func TestReplace(t *testing.T) {
	f := parse(t, shapes["inline"])
	f, err := nth(t, f, 0).Replace(1, "/s/1:/builds", "docker", "volumes")
	require.NoError(t, err)
	require.Contains(t, f.String(), `docker = { image = "a", volumes = ["/cache", "/s/1:/builds"], other = { deep = true } }`)
}

func TestRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"runners inline":  `runners = [{ url = "u" }]`,
		"apart":           "[[runners]]\nurl = 'u'\n[other]\n[runners.docker]\n",
		"runners a table": "[runners]\nurl = 'u'\n",
		"quoted apart":    "[[\"runners\"]]\nurl = 'u'\n[x]\n[runners.y]\n",
	} {
		f, err := Parse([]byte(text))
		require.NoError(t, err, name)
		_, err = f.entries()
		var shape *ShapeError
		require.ErrorAs(t, err, &shape, name)
	}
	f := parse(t, "[[runners]]\nurl = 'u'\ndocker.image = 'x'\nenvironment = 'none'\n")
	var shape *ShapeError
	_, err := nth(t, f, 0).Set("v", "docker", "new")
	require.ErrorAs(t, err, &shape)
	_, err = nth(t, f, 0).Set(true, "environment", "enabled")
	require.ErrorAs(t, err, &shape)
	_, err = nth(t, f, 0).Insert("x", "environment")
	require.ErrorAs(t, err, &shape)
	_, err = Parse([]byte("a = \n"))
	require.ErrorContains(t, err, "line 1")
}

// FuzzEdit: an edit is refused, or means what it should and keeps the rest; edits that
// are taken back leave what was there.
func FuzzEdit(f *testing.F) {
	for _, text := range shapes {
		f.Add([]byte(text))
	}
	f.Add([]byte("[[runners]]\n\"url\" = 1\n[[runners.list]]\na=1\n[[runners.list]]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		require.Equal(t, string(text), file.String())
		_, err = Parse(file.Hide(func(string) bool { return true }))
		require.NoError(t, err)
		all, err := file.entries()
		if err != nil {
			return
		}
		if g, err := file.Set(3, "concurrent"); err == nil {
			require.Equal(t, int64(3), g.get("concurrent"))
		}
		for _, e := range all {
			if g, err := e.Set("new", "url"); err == nil {
				es, err := g.entries()
				require.NoError(t, err)
				require.Equal(t, "new", es[e.Index].Text("url"))
			}
			if g, err := e.Set(true, "custom_build_dir", "enabled"); err == nil {
				require.Contains(t, g.String(), "true")
			}
			if g, err := e.Insert("/a:/b", "docker", "volumes"); err == nil {
				es, err := g.entries()
				require.NoError(t, err)
				require.Equal(t, "/a:/b", es[e.Index].List("docker", "volumes")[0])
			}
			if g, err := e.Repeat(2); err == nil {
				es, err := g.entries()
				require.NoError(t, err)
				require.Len(t, es, len(all)+1)
				h, err := es[e.Index+1].Remove()
				if err == nil {
					require.Equal(t, strings.Join(strings.Fields(string(text)), ""), strings.Join(strings.Fields(h.String()), ""))
				}
			}
		}
	})
}
