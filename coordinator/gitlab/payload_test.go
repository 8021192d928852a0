package gitlab

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var dirName = regexp.MustCompile(`^[0-9a-z]{26}$`)

// with makes a payload of the usual one, fields replaced.
func with(t testing.TB, edit ...func(map[string]any)) []byte {
	t.Helper()
	p := map[string]any{
		"id": 12345678901, "token": "secret",
		"job_info":    map[string]any{"name": "build", "stage": "one", "project_id": 7, "project_full_path": "group/sub/demo", "pipeline_id": 100},
		"git_info":    map[string]any{"ref": "main", "sha": "abc", "protected": false},
		"runner_info": map[string]any{"timeout": 600},
		"variables":   []any{},
		"unknown":     map[string]any{"deep": []any{1, 2}},
	}
	for _, f := range edit {
		f(p)
	}
	b, err := json.Marshal(p)
	require.NoError(t, err)
	return b
}

func set(key string, v any) func(map[string]any) {
	return func(p map[string]any) {
		at := p
		path := strings.Split(key, ".")
		for _, k := range path[:len(path)-1] {
			at = at[k].(map[string]any)
		}
		if v == nil {
			delete(at, path[len(path)-1])
			return
		}
		at[path[len(path)-1]] = v
	}
}

// vars are pairs of name and value.
func vars(kv ...string) func(map[string]any) {
	return func(p map[string]any) {
		for i := 0; i < len(kv); i += 2 {
			p["variables"] = append(p["variables"].([]any), map[string]any{"key": kv[i], "value": kv[i+1], "public": true})
		}
	}
}

func parse(t testing.TB, edit ...func(map[string]any)) *Job {
	t.Helper()
	j, err := Parse("gitlab.example.com", with(t, edit...))
	require.NoError(t, err)
	require.Regexp(t, dirName, j.Name)
	return j
}

func TestParse(t *testing.T) {
	j := parse(t)
	require.Equal(t, int64(12345678901), j.ID)
	require.Equal(t, "secret", string(j.Token))
	require.Equal(t, "***", fmt.Sprintf("%v", j.Token))
	require.NotContains(t, fmt.Sprintf("%+v %#v", j, j), "secret")
	require.Equal(t, int64(7), j.ProjectID)
	require.Equal(t, "group/sub/demo", j.Path)
	require.Equal(t, int64(100), j.PipelineID)
	require.Equal(t, ZoneBranch, j.Zone)
	require.Equal(t, 10*time.Minute, j.Timeout)
	require.Nil(t, j.Dependencies)
	require.Empty(t, j.Off)
	require.Equal(t, Settings{}, j.Settings)
	// The name is the project's alone.
	require.Equal(t, j.Name, parse(t, set("job_info.project_full_path", "elsewhere"), set("git_info.ref", "x"), set("id", 1)).Name)
	require.NotEqual(t, j.Name, parse(t, set("job_info.project_id", 8)).Name)
	require.NotEqual(t, j.Name, Dir("other.example.com", 7))
	require.Equal(t, []int64{}, parse(t, set("dependencies", []any{})).Dependencies)
	require.Equal(t, []int64{3, 4}, parse(t, set("dependencies", []any{map[string]any{"id": 3, "token": "t"}, map[string]any{"id": 4}})).Dependencies)
	require.Equal(t, defaultTimeout, parse(t, set("runner_info.timeout", -1)).Timeout)
	require.Equal(t, defaultTimeout, parse(t, set("runner_info.timeout", int64(1)<<62)).Timeout)
}

// What the server says goes before every variable, and its own variables before the
// user's of the same name.
func TestIdentity(t *testing.T) {
	user := vars("CI_PROJECT_ID", "99", "CI_PIPELINE_ID", "98", "CI_PROJECT_PATH", "evil/path", "CI_COMMIT_REF_PROTECTED", "true")
	j := parse(t, user)
	require.Equal(t, int64(7), j.ProjectID)
	require.Equal(t, int64(100), j.PipelineID)
	require.Equal(t, "group/sub/demo", j.Path)
	require.Equal(t, ZoneBranch, j.Zone)

	old := []func(map[string]any){
		set("job_info.project_id", nil), set("job_info.pipeline_id", nil), set("job_info.project_full_path", nil), set("git_info.protected", nil),
		vars("CI_PROJECT_ID", "7", "CI_PIPELINE_ID", "100", "CI_PROJECT_PATH", "group/sub/demo", "CI_COMMIT_REF_PROTECTED", "false"), user,
	}
	j = parse(t, old...)
	require.Equal(t, int64(7), j.ProjectID)
	require.Equal(t, int64(100), j.PipelineID)
	require.Equal(t, "group/sub/demo", j.Path)
	require.Equal(t, ZoneBranch, j.Zone)

	// A pipeline that nobody names is the job's own.
	require.Equal(t, int64(-12345678901), parse(t, set("job_info.pipeline_id", nil)).PipelineID)
}

func TestZone(t *testing.T) {
	mr := set("git_info.ref", "refs/merge-requests/12/head")
	// The server's variables in its order, the job's own behind them.
	from := func(source string, own ...string) func(map[string]any) {
		v := []string{"CI_COMMIT_MESSAGE", "x", "CI_MERGE_REQUEST_IID", "12", "CI_MERGE_REQUEST_TITLE", "x"}
		if source != "" {
			v = append(v, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", source, "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "x/y", "CI_MERGE_REQUEST_APPROVED", "true")
		}
		return vars(append(append(v, "CI_OPEN_MERGE_REQUESTS", "x!12", "CI_RUNNER_ID", "3"), own...)...)
	}
	for _, c := range []struct {
		want string
		edit []func(map[string]any)
	}{
		{ZoneBranch, nil},
		{ZoneProtected, []func(map[string]any){set("git_info.protected", true)}},
		{ZoneProtected, []func(map[string]any){set("git_info.protected", nil), vars("CI_COMMIT_REF_PROTECTED", "true")}},
		{ZoneBranch, []func(map[string]any){set("git_info.protected", nil)}},
		{ZoneBranch, []func(map[string]any){mr, from("7")}},
		{ZoneBranch, []func(map[string]any){mr, from("7", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7")}},
		{"fork-12", []func(map[string]any){mr, from("8")}},
		{"fork-12", []func(map[string]any){mr, from("8", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7")}},
		{"fork-12", []func(map[string]any){mr, from("7", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "8")}},
		// A fork that was deleted: all that there is comes from the job, or was referred to.
		{"fork-12", []func(map[string]any){mr, from("", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7")}},
		{"fork-12", []func(map[string]any){mr, from("", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7", "CI_RUNNER_ID", "1")}},
		{"fork-12", []func(map[string]any){mr, vars(
			"CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7", "CI_RUNNER_ID", "1", "CI_COMMIT_MESSAGE", "7 1", "CI_MERGE_REQUEST_TITLE", "x")}},
		{"fork-12", []func(map[string]any){mr, vars(
			"CI_COMMIT_MESSAGE", "x", "CI_MERGE_REQUEST_IID", "12", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7", "CI_RUNNER_ID", "1", "CI_MERGE_REQUEST_TITLE", "7 1")}},
		{"fork-12", []func(map[string]any){mr, vars("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7", "CI_JOB_STAGE", "test", "CI_RUNNER_ID", "1")}},
		{"fork-12", []func(map[string]any){mr, vars("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7")}},
		{ZoneBranch, []func(map[string]any){set("git_info.protected", nil), vars("CI_COMMIT_REF_PROTECTED", "true", "CI_COMMIT_REF_PROTECTED", "false")}},
		{"fork-12", []func(map[string]any){mr}},
		{"fork-12", []func(map[string]any){mr, set("git_info.protected", true), from("8")}},
		{"fork-5", []func(map[string]any){vars("CI_PIPELINE_SOURCE", "merge_request_event", "CI_MERGE_REQUEST_IID", "5")}},
		{"fork-0-100", []func(map[string]any){set("git_info.ref", "refs/merge-requests/../head")}},
	} {
		require.Equal(t, c.want, parse(t, c.edit...).Zone)
	}
}

func TestOff(t *testing.T) {
	for want, edit := range map[string]func(map[string]any){
		"":                                    vars("GIT_STRATEGY", "fetch"),
		"its GIT_STRATEGY is none":            vars("GIT_STRATEGY", "fetch", "GIT_STRATEGY", "none"),
		"its GIT_STRATEGY is clone":           vars("GIT_STRATEGY", "clone"),
		"its GIT_STRATEGY is $MINE":           vars("GIT_STRATEGY", "$MINE"),
		"it sets GIT_CLONE_PATH":              vars("GIT_CLONE_PATH", "$CI_BUILDS_DIR/x"),
		"it comes from a security policy":     set("policy_options", map[string]any{"execution_policy_job": true}),
		"its project's git strategy is clone": set("allow_git_fetch", false),
	} {
		require.Equal(t, want, parse(t, edit).Off)
	}
	require.Empty(t, parse(t, set("allow_git_fetch", false), vars("GIT_STRATEGY", "fetch")).Off)
	require.Empty(t, parse(t, set("policy_options", map[string]any{"execution_policy_job": false})).Off)
}

func TestSettings(t *testing.T) {
	s := parse(t, vars(
		"ROOST_WORKSPACE", "optional", "ROOST_WORKSPACE", "required", "ROOST_DURABILITY", "durable",
		"ROOST_NEEDS", "unit test, build 1/2,, build 1/2", "ROOST_COMMIT", "if-changed", "ROOST_ON_CONFLICT", "order",
		"ROOST_ATOMIC", "build/** out", "ROOST_CACHES", ".cache/**", "ROOST_NEVER_UPLOAD", "**/*.tfstate",
	)).Settings
	require.Equal(t, Settings{
		Mode: "required", Durability: "durable", Needs: []string{"unit test", "build 1/2"}, HasNeeds: true, Commit: "if-changed",
		OnConflict: "order", Atomic: []string{"build/**", "out"}, Caches: []string{".cache/**"}, NeverUpload: []string{"**/*.tfstate"},
	}, s)
	s = parse(t, vars("ROOST_NEEDS", "")).Settings
	require.True(t, s.HasNeeds)
	require.Empty(t, s.Needs)
	require.Equal(t, []string{"a", "b"}, parse(t, vars("ROOST_NEEDS", "a b")).Settings.Needs)

	s = parse(t, vars("ROOST_WORKSPACE", "maybe", "ROOST_ATOMIC", "ok/** /etc", "ROOST_CACHES", "../x", "ROOST_DURABLE", "yes")).Settings
	require.Empty(t, s.Mode)
	require.Nil(t, s.Atomic)
	require.Equal(t, []string{
		`ROOST_WORKSPACE is not followed: "maybe" is none of off, optional, required`,
		`ROOST_ATOMIC is not followed: "/etc" is no glob of paths in the workspace, such as build/**`,
		`ROOST_CACHES is not followed: "../x" is no glob of paths in the workspace, such as build/**`,
		`ROOST_DURABLE is not a variable of Roost`,
	}, s.Notes)
	for _, v := range Variables() {
		require.NotEmpty(t, v.Name+v.Values+v.Default)
		require.NotEmpty(t, v.Effect)
		require.NotNil(t, v.read)
	}
}

func TestNotAJob(t *testing.T) {
	for _, body := range []string{
		"", "null", "[]", "{}", `{"id":1}`, `{"token":"x"}`, `{"id":-1,"token":"x"}`, `{"id":"1","token":"x"}`, "<html>",
		`{"id":1,"token":"x"}`, `{"id":1,"token":"x","job_info":{"project_id":0}}`, `{"id":1e30,"token":"x","job_info":{"project_id":1}}`,
	} {
		j, err := Parse("i", []byte(body))
		require.ErrorIs(t, err, ErrPayload, body)
		require.Regexp(t, dirName, j.Name)
	}
	// A field that is not what it should be does not spoil the rest.
	j, err := Parse("i", []byte(`{"id":1,"token":"x","job_info":{"project_id":3,"name":7,"stage":["x"]},"variables":"none","dependencies":{}}`))
	require.NoError(t, err)
	require.Equal(t, "job 1", j.JobName)
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"https://gitlab.example.com":            "https://gitlab.example.com gitlab.example.com",
		"https://GitLab.example.com:443/ci/":    "https://gitlab.example.com gitlab.example.com",
		"http://10.0.0.1:8080/git/lab/":         "http://10.0.0.1:8080/git/lab 10.0.0.1:8080/git/lab",
		"http://[::1]:80/":                      "http://[::1] [::1]",
		"ftp://x":                               "",
		"https://":                              "",
		"https://u:p@x":                         "",
		"https://x/?a=b":                        "",
		"gitlab.example.com":                    "",
		"https://x/#y":                          "",
		"https://gitlab.example.com/\nHost: x/": "",
	} {
		n, err := Normal(in)
		if want == "" {
			require.Error(t, err, in)
			continue
		}
		require.NoError(t, err)
		i, err := Instance(in)
		require.NoError(t, err)
		require.Equal(t, want, n+" "+i)
	}
}

// Whatever a payload says, nothing breaks, and the directory's name is a name.
func FuzzParse(f *testing.F) {
	f.Add("gitlab.example.com", with(f))
	f.Add("x", with(f, vars("ROOST_NEEDS", "a,b", "ROOST_ATOMIC", "[", "GIT_STRATEGY", "\x00"), set("dependencies", []any{})))
	f.Add("../..", []byte(`{"id":1,"token":"x","job_info":{"project_id":1,"name":"../../etc","stage":"\n"},"git_info":{"ref":"refs/merge-requests/9/x"}}`))
	f.Fuzz(func(t *testing.T, instance string, body []byte) {
		j, err := Parse(instance, body)
		if !dirName.MatchString(j.Name) {
			t.Fatalf("name %q", j.Name)
		}
		if err != nil {
			return
		}
		for _, s := range append([]string{j.Path, j.JobName, j.Stage, j.Ref, j.SHA, j.Zone, j.Off}, j.Settings.Notes...) {
			if strings.ContainsAny(s, "\n\r\x00\x1b") || len(s) > 1000 {
				t.Fatalf("%q is not one line", s)
			}
		}
		if j.Timeout <= 0 || j.ID <= 0 || j.ProjectID <= 0 || j.PipelineID == 0 {
			t.Fatalf("%+v", j)
		}
		if j.Zone != ZoneBranch && j.Zone != ZoneProtected && !regexp.MustCompile(`^fork-[0-9]+(-[0-9]+)?$`).MatchString(j.Zone) {
			t.Fatalf("zone %q", j.Zone)
		}
	})
}
