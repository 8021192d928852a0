package agent

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestExpand(t *testing.T) {
	ours := map[string]string{"CI_PROJECT_DIR": "/w", "CI_JOB_NAME": "a $X job", "ROOST_HOST": "h"}
	for name, c := range map[string]struct{ vars, want map[string]string }{
		"ours": {
			vars: map[string]string{"A": "$CI_PROJECT_DIR/x", "B": "${CI_PROJECT_DIR}x", "C": "<$CI_PROJECT_DIR>"},
			want: map[string]string{"A": "/w/x", "B": "/wx", "C": "</w>"},
		},
		"values of ours are not looked into": {
			vars: map[string]string{"A": "$CI_JOB_NAME", "X": "x"},
			want: map[string]string{"A": "a $X job", "X": "x"},
		},
		"through others": {
			vars: map[string]string{"A": "$B-$C", "B": "${C}b", "C": "$CI_PROJECT_DIR"},
			want: map[string]string{"A": "/wb-/w", "B": "/wb", "C": "/w"},
		},
		"dollars": {
			vars: map[string]string{"A": "5$$", "B": "$$C", "C": "c", "D": "$B", "E": "$$$C", "F": "$", "G": "$1 $-", "H": "a$"},
			want: map[string]string{"A": "5$", "B": "$C", "C": "c", "D": "$C", "E": "$c", "F": "$", "G": "$1 $-", "H": "a$"},
		},
		"no variable": {
			vars: map[string]string{"A": "$NONE/${NONE}", "B": "${C:-x} ${C", "C": "c"},
			want: map[string]string{"A": "$NONE/${NONE}", "B": "${C:-x} ${C", "C": "c"},
		},
		"circles": {
			vars: map[string]string{"A": "a$B", "B": "b$A", "PATH": "$PATH:/x"},
			want: map[string]string{"A": "ab$A", "B": "b$A", "PATH": "$PATH:/x"},
		},
		"reserved": {
			vars: map[string]string{"CI_PROJECT_DIR": "/evil", "ROOST_HOST": "x", "ROOST": "", "CI_JOB_NAME": "mine", "A": "$CI_PROJECT_DIR $ROOST_HOST $CI_JOB_NAME"},
			want: map[string]string{"CI_JOB_NAME": "mine", "A": "/w h mine"},
		},
		"an unset one of ours is reserved too": {
			vars: map[string]string{"ROOST_INDEX": "7", "A": "$ROOST_INDEX"},
			want: map[string]string{"A": "$ROOST_INDEX"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			env, want := maps.Clone(ours), maps.Clone(ours)
			maps.Copy(want, c.want)
			expand(env, c.vars)
			require.Equal(t, want, env)
		})
	}
}

// TestExpandBounded: a few lines that would make terabytes make none.
func TestExpandBounded(t *testing.T) {
	vars := map[string]string{"A": strings.Repeat("x", 1000)}
	for c := 'B'; c <= 'Z'; c++ {
		vars[string(c)] = strings.Repeat("$"+string(c-1), 10)
	}
	env := map[string]string{}
	expand(env, vars)
	require.Len(t, env["C"], 100_000)
	require.Equal(t, vars["D"], env["D"])
	for name, v := range env {
		require.LessOrEqual(t, len(v), maxValue, name)
	}
}

func TestJobsVariablesAreExpanded(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	c := job("vars", `test "$CACHE" = "$PWD/.cache"`, `echo "host $ROOST_HOST"`)
	c.Job.Variables = map[string]string{"CACHE": "$CI_PROJECT_DIR/.cache", "CI_PROJECT_DIR": "/", "ROOST_HOST": "other"}
	at := f.give("a", c)
	require.Equal(t, api.StatusSuccess, f.finished(at).Status, f.logOf(at))
	require.Contains(t, f.logOf(at), "\nhost a\n")
}
