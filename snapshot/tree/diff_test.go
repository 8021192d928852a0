package tree

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// changes reads lines of mk, "-path" for a deletion and "!line" for a Replace.
// Links are given as words ">path".
func changes(t testing.TB, lines ...string) []snapshot.Change {
	var out []snapshot.Change
	for _, line := range lines {
		var c snapshot.Change
		switch line[0] {
		case '-':
			c = snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: line[1:]}}
		case '!':
			c.Replace = true
			c.Entry, _ = parse(t, line[1:])
		default:
			c.Entry, c.Entry.Link = parse(t, line)
		}
		out = append(out, c)
	}
	return out
}

func showChanges(ch []snapshot.Change) []string {
	out := []string{}
	for _, c := range ch {
		s := "-" + c.Entry.Path
		if !c.Delete {
			s = show(&snapshot.Manifest{Entries: []snapshot.Entry{{}, c.Entry}})[0]
		}
		if c.Replace {
			s = "!" + s
		}
		out = append(out, s)
	}
	return out
}

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name             string
		base, tree, want list
	}{
		{"nothing", list{"a=1"}, list{"a=1"}, list{}},
		{"each kind", list{"a=1", "b=1", "c=1", "d=1"}, list{"a=1", "b=2", "d=1 @2", "e=1"}, list{"b=2", "-c", "d=1 @2", "e=1"}},
		{"a deleted directory is one change", list{"d/e/f=1", "d/g=1"}, list{}, list{"-d"}},
		{"a directory became a file", list{"d/e/f=1", "d/g=1"}, list{"d=1"}, list{"d=1"}},
		{"a file became a directory", list{"d=1"}, list{"d/e=1"}, list{"d/", "d/e=1"}},
		{"a directory's mode", list{"d/e=1"}, list{"d/ 0700", "d/e=1"}, list{"d/ 0700"}},
		{"a new first name", list{"b=1 &g", "c=1 &g"}, list{"a=1 &g", "b=1 &g", "c=1 &g"}, list{"a=1 &a", "b=1 &a", "c=1 &a"}},
		{"a new last name", list{"a=1 &g", "b=1 &g"}, list{"a=1 &g", "b=1 &g", "c=1 &g"}, list{"a=1 &a", "b=1 &a", "c=1 &a"}},
		{"another last name", list{"a=1 &g", "b=1 &g"}, list{"a=1 &g", "b=1", "c=1 &g"}, list{"a=1 &a", "b=1", "c=1 &a"}},
		{"a last name less", list{"a=1 &g", "b=1 &g", "c=1 &g"}, list{"a=1 &g", "b=1 &g", "c=2"}, list{"c=2"}},
		{"another group", list{"a=1 &g", "b=1 &g"}, list{"a=1 &g", "b=1 &g", "c=1 &h", "d=1 &h"}, list{"c=1 &c", "d=1 &c"}},
		{"a lost first name", list{"a=1 &g", "b=1 &g"}, list{"b=1"}, list{"-a", "b=1"}},
		{"order of - and /", list{"a/b=1", "a-b=1"}, list{"a/b=2", "a-b=2"}, list{"a/b=2", "a-b=2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, showChanges(Diff(mk(t, c.base...), mk(t, c.tree...))))
		})
	}
}

// TestApplyLinks: what becomes of groups of hard links when a list of changes is
// not as Diff makes it.
func TestApplyLinks(t *testing.T) {
	for _, c := range []struct {
		name           string
		base, ch, want list
		err            string
	}{
		{"the first name deleted", list{"a=1 &g", "b=1 &g", "c=1 &g"}, list{"-a"}, list{"b=1 &b", "c=1 &b"}, ""},
		{"all but one deleted", list{"a=1 &g", "b=1 &g"}, list{"-b"}, list{"a=1"}, ""},
		{"deleted with its directory", list{"d/a=1 &g", "e=1 &g"}, list{"-d"}, list{"e=1"}, ""},
		{"the first name became another file", list{"a=1 &g", "b=1 &g", "c=1 &g"}, list{"a=2"}, list{"a=2", "b=1 &b", "c=1 &b"}, ""},
		{"the first name became another group", list{"a=1 &g", "b=1 &g"}, list{"a=2 &a", "c=2 &a"}, list{"a=2 &a", "b=1", "c=2 &a"}, ""},
		{"a second name split off", list{"a=1 &g", "b=1 &g"}, list{"b=2"}, list{"a=1", "b=2"}, ""},
		{"a name added to a group", list{"a=1 &g", "b=1 &g"}, list{"c=1 &a"}, list{"a=1 &a", "b=1 &a", "c=1 &a"}, ""},
		{"a name added by its second name", list{"a=1 &g", "b=1 &g"}, list{"c=1 &b"}, list{"a=1 &a", "b=1 &a", "c=1 &a"}, ""},
		{"a name added to a single file", list{"b=1"}, list{"a=1 &b"}, list{"a=1 &a", "b=1 &a"}, ""},
		{"a link to nothing", list{"b=1"}, list{"a=1 &x"}, list{"a=1", "b=1"}, ""},
		{"two links to nothing", list{"b=1"}, list{"a=1 &x", "c=1 &x"}, list{"a=1 &a", "b=1", "c=1 &a"}, ""},
		{"a link to a directory", list{"d/"}, list{"a=1 &d"}, list{"a=1", "d/"}, ""},
		{"a link to another file", list{"b=1"}, list{"a=2 &b"}, nil, "the entries differ"},
		{"a group that does not agree", list{}, list{"a=1 &a", "b=1 &a 0600"}, nil, "the entries differ"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := mk(t, c.base...)
			got, err := Apply(base, changes(t, c.ch...))
			require.Equal(t, show(mk(t, c.base...)), show(base), "the base was changed")
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.NoError(t, Validate(got))
			require.Equal(t, c.want, show(got))
		})
	}
}

func TestApply(t *testing.T) {
	for _, c := range []struct {
		name           string
		base, ch, want list
		err            string
	}{
		{"put in a directory that is not there", list{}, list{"d/f=1"}, nil, "not a directory"},
		{"put in a file", list{"d=1"}, list{"d/f=1"}, nil, "not a directory"},
		{"put in a symlink", list{"d->x"}, list{"d/f=1"}, nil, "not a directory"},
		{"put beside a deleted file", list{"d/e=1"}, list{"-d/e", "d/f=1"}, list{"d/", "d/f=1"}, ""},
		{"delete what is not there", list{"a=1"}, list{"-b", "-c/d"}, list{"a=1"}, ""},
		{"replace", list{"d/e=1", "d/f=1"}, list{"!d/ @5", "d/e=2"}, list{"d/ @5", "d/e=2"}, ""},
		{"replace a file", list{"d=1"}, list{"!d/"}, list{"d/"}, ""},
		{"a directory's own change", list{"d/e=1"}, list{"d/ 0700"}, list{"d/ 0700", "d/e=1"}, ""},
		{"file to directory", list{"d=1"}, list{"d/", "d/e=1"}, list{"d/", "d/e=1"}, ""},
		{"directory to file", list{"d/e=1", "d-e=1"}, list{"d=1"}, list{"d=1", "d-e=1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Apply(mk(t, c.base...), changes(t, c.ch...))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.NoError(t, Validate(got))
			require.Equal(t, c.want, show(got))
		})
	}
	_, err := Apply(nil, nil)
	require.Error(t, err)
	_, err = Apply(nil, changes(t, "a=1"))
	require.Error(t, err)
}
