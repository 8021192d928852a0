package coordinator

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestIdempotency(t *testing.T) {
	b := newBench(t)
	sub := api.Submit{Project: "p", File: "f.yml", Text: single}
	first, err := b.user.Submit(t.Context(), "key", sub)
	require.NoError(t, err)
	again, err := b.user.Submit(t.Context(), "key", sub)
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	other := sub
	other.Text += "\n# another\n"
	_, err = b.user.Submit(t.Context(), "key", other)
	requireCode(t, err, 409, api.CodeConflict)
	b.restart()
	again, err = b.user.Submit(t.Context(), "key", sub)
	require.NoError(t, err)
	require.Equal(t, first.ID, again.ID)
	_, err = b.user.Submit(t.Context(), "key", other)
	requireCode(t, err, 409, api.CodeConflict)

	// Many at once under one key make one pipeline.
	var wg sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		wg.Go(func() {
			p, err := b.user.Submit(t.Context(), "together", sub)
			if err == nil {
				ids[i] = p.ID
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.NotEmpty(t, id)
		require.Equal(t, ids[0], id)
	}
	ps, err := b.user.Pipelines(t.Context(), "p", 10)
	require.NoError(t, err)
	require.Len(t, ps, 2)
	require.Equal(t, []int64{2, 1}, []int64{ps[0].Number, ps[1].Number})
	ps, err = b.user.Pipelines(t.Context(), "q", 10)
	require.NoError(t, err)
	require.Empty(t, ps)
}

func TestSubmitRefused(t *testing.T) {
	b := newBench(t, func(o *Options) { o.AllowLocalSource = false })
	ok := api.Submit{Project: "p", File: "f.yml", Text: single}
	with := func(edit func(*api.Submit)) api.Submit {
		s := ok
		edit(&s)
		return s
	}
	src := func(s api.Source) api.Submit { return with(func(x *api.Submit) { x.Source = &s }) }
	for _, c := range []struct {
		name   string
		sub    api.Submit
		status int
		code   api.Code
	}{
		{"no project", with(func(s *api.Submit) { s.Project = "" }), 400, api.CodeInvalid},
		{"control character", with(func(s *api.Submit) { s.Project = "a\nb" }), 400, api.CodeInvalid},
		{"long project", with(func(s *api.Submit) { s.Project = strings.Repeat("x", 256) }), 400, api.CodeInvalid},
		{"odd variable", with(func(s *api.Submit) { s.Variables = map[string]string{"A B": "1"} }), 400, api.CodeInvalid},
		{"NUL in a variable", with(func(s *api.Submit) { s.Variables = map[string]string{"A": "\x00"} }), 400, api.CodeInvalid},
		{"a file with mistakes", with(func(s *api.Submit) { s.Text = "a: {scrpt: x}\nb: {script: x, needs: [c]}\n" }), 422, api.CodePipeline},
		{"no jobs", with(func(s *api.Submit) { s.Text = "" }), 422, api.CodePipeline},
		{"local directory", src(api.Source{Dir: "/srv/x"}), 403, api.CodeForbidden},
		{"neither", src(api.Source{}), 400, api.CodeInvalid},
		{"both", src(api.Source{Dir: "/x", URL: "https://example.com/x"}), 400, api.CodeInvalid},
		{"an option as URL", src(api.Source{URL: "--upload-pack=touch /tmp/x"}), 400, api.CodeInvalid},
		{"a file as URL", src(api.Source{URL: "file:///etc"}), 400, api.CodeInvalid},
		{"a command as URL", src(api.Source{URL: "ext::sh -c x"}), 400, api.CodeInvalid},
		{"an option as host", src(api.Source{URL: "ssh://-oProxyCommand=x/y"}), 400, api.CodeInvalid},
		{"an option as ref", src(api.Source{URL: "https://example.com/x", Ref: "--x"}), 400, api.CodeInvalid},
		{"a range as ref", src(api.Source{URL: "https://example.com/x", Ref: "a..b"}), 400, api.CodeInvalid},
		{"odd commit", src(api.Source{URL: "https://example.com/x", Commit: "HEAD"}), 400, api.CodeInvalid},
	} {
		_, err := b.user.Submit(t.Context(), "k "+c.name, c.sub)
		e := requireCode(t, err, c.status, c.code)
		if c.code == api.CodePipeline {
			require.NotEmpty(t, e.Problems, c.name)
		}
	}
	for _, s := range []api.Source{
		{URL: "https://example.com/x.git", Ref: "refs/heads/feature/x-1"},
		{URL: "git@example.com:group/x.git", Commit: strings.Repeat("0a", 20)},
		{URL: "ssh://git@example.com:22/x"},
	} {
		_, err := b.user.Submit(t.Context(), "k "+s.URL, src(s))
		require.NoError(t, err)
	}
}
