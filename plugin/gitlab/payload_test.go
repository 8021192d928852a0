package gitlab

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

// edited applies e to text and gives the result and its variables, last wins.
func edited(t testing.TB, text string, e edit) (string, map[string]map[string]any) {
	t.Helper()
	info, body, err := readJob([]byte(text))
	require.NoError(t, err)
	out, err := e.apply(body, info)
	require.NoError(t, err)
	require.True(t, json.Valid(out))
	var job struct{ Variables []map[string]any }
	require.NoError(t, json.Unmarshal(out, &job))
	vars := map[string]map[string]any{}
	for _, v := range job.Variables {
		if key, ok := v["key"].(string); ok {
			vars[key] = v
		}
	}
	return string(out), vars
}

func value(vars map[string]map[string]any, key string) any { return vars[key]["value"] }

func TestPayload(t *testing.T) {
	out, vars := edited(t, string(payload("5")), edit{work: workspace(), buildsDir: "/builds", late: 100 * time.Second})
	for key, want := range map[string]string{
		"GIT_CLONE_PATH": "/builds/" + viewName, "GIT_STRATEGY": "fetch", "GIT_CLEAN_FLAGS": "none", "GET_SOURCES_ATTEMPTS": "1",
		"FF_ENABLE_JOB_CLEANUP": "false", "ROOST_WORKSPACE_STATE": "FULL",
		"GIT_CONFIG_COUNT": "4", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "<me> & you",
		"GIT_CONFIG_KEY_1": "core.checkStat", "GIT_CONFIG_VALUE_1": "minimal", "GIT_CONFIG_KEY_2": "core.trustctime", "GIT_CONFIG_VALUE_2": "false",
		"GIT_CONFIG_KEY_3": "safe.directory", "GIT_CONFIG_VALUE_3": "/builds/" + viewName,
	} {
		require.Equal(t, want, value(vars, key), key)
		if key != "GIT_CONFIG_KEY_0" && key != "GIT_CONFIG_VALUE_0" {
			require.Equal(t, true, vars[key]["raw"], key)
			require.Equal(t, true, vars[key]["public"], key)
		}
	}
	require.Contains(t, out, `"new_field":{"deep":[1e400,9007199254740993]}`, "what is unknown stays to the byte")
	require.Contains(t, out, `"<me> & you"`)
	require.Contains(t, out, `"runner_info":{"timeout":3500,"other":1}`)
	require.Contains(t, out, `{"id":11,"name":"a","token":"dep-CANARY-11"}`, "what is there is not downloaded")
	require.Contains(t, out, `{"id":12,"name":"b","token":"dep-CANARY-12","artifacts_file":{"filename":"b.zip","size":10}}`)
}

// TestPayloadByState: what is left out when there is no workspace, or not all of it.
func TestPayloadByState(t *testing.T) {
	text := string(payload("5"))
	fresh := workspace()
	fresh.State = plugin.StateFresh
	out, vars := edited(t, text, edit{work: fresh, buildsDir: "/builds"})
	require.Contains(t, out, "a.zip", "an empty workspace holds nothing")
	require.NotNil(t, vars["GIT_CLONE_PATH"])

	none := &plugin.Workspace{State: plugin.StateFresh, Env: map[string]string{"ROOST_WORKSPACE_STATE": "FRESH", "PATH": "/evil"}, Contained: []string{"11"}}
	out, vars = edited(t, text, edit{work: none, buildsDir: "/builds", late: time.Second})
	require.Nil(t, vars["GIT_CLONE_PATH"])
	require.Nil(t, vars["GIT_CLEAN_FLAGS"])
	require.Nil(t, vars["PATH"], "only variables of Roost")
	require.Equal(t, "FRESH", value(vars, "ROOST_WORKSPACE_STATE"))
	require.Contains(t, out, "a.zip")

	off := &plugin.Workspace{State: plugin.StateOff, Reason: "GIT_STRATEGY is none", Env: map[string]string{"ROOST_WORKSPACE_STATE": "OFF"}}
	out, _ = edited(t, text, edit{work: off, buildsDir: "/builds", late: time.Hour})
	require.Equal(t, squeeze(text), squeeze(out))
	_, vars = edited(t, text, edit{work: off, ca: "PEM"})
	require.Equal(t, true, vars["CI_SERVER_TLS_CA_FILE"]["file"])
	require.Equal(t, "PEM", value(vars, "GIT_SSL_CAINFO"))
}

// squeeze takes out the white space between tokens, which may change.
func squeeze(s string) string { return strings.NewReplacer("\n", "", "\t", "").Replace(s) }

// TestPayloadUsersWord: what a user set keeps its meaning where it can.
func TestPayloadUsersWord(t *testing.T) {
	for _, c := range []struct{ name, vars, key, want string }{
		{"clean flags", `{"key":"GIT_CLEAN_FLAGS","value":"-ffdx -e cache/"}`, "GIT_CLEAN_FLAGS", "-ffdx -e cache/"},
		{"count that is expanded", `{"key":"GIT_CONFIG_COUNT","value":"$N"}`, "GIT_CONFIG_COUNT", "$N"},
		{"count that is negative", `{"key":"GIT_CONFIG_COUNT","value":"-1"}`, "GIT_CONFIG_COUNT", "-1"},
		{"count that is enormous", `{"key":"GIT_CONFIG_COUNT","value":"99999999999999999999"}`, "GIT_CONFIG_COUNT", "99999999999999999999"},
		{"count of none", `{"key":"GIT_CONFIG_COUNT","value":"0"}`, "GIT_CONFIG_COUNT", "3"},
		{"setting of git", `{"key":"GIT_CONFIG_COUNT","value":"1"},{"key":"GIT_CONFIG_KEY_0","value":"core.trustctime"},{"key":"GIT_CONFIG_VALUE_0","value":"true"}`, "GIT_CONFIG_COUNT", "3"},
		{"last entry wins", `{"key":"GIT_CONFIG_COUNT","value":"7"},{"key":"GIT_CONFIG_COUNT","value":"0"}`, "GIT_CONFIG_COUNT", "3"},
		{"clone path", `{"key":"GIT_CLONE_PATH","value":"$CI_BUILDS_DIR/x"}`, "GIT_CLONE_PATH", "/builds/" + viewName},
		{"odd entries", `null,1,"x",{},{"key":1}`, "GIT_STRATEGY", "fetch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := `{"id":1,"token":"t","variables":[` + c.vars + `]}`
			info, body, err := readJob([]byte(text))
			require.NoError(t, err)
			out, err := edit{work: workspace(), buildsDir: "/builds"}.apply(body, info)
			require.NoError(t, err)
			o, err := parseObject(out)
			require.NoError(t, err)
			v, err := readVariables(o.get("variables"))
			require.NoError(t, err)
			got, _ := v.value(c.key)
			require.Equal(t, c.want, got)
		})
	}
}

func TestPayloadTimeout(t *testing.T) {
	for _, c := range []struct {
		info string
		late time.Duration
		want string
	}{
		{`"runner_info":{"timeout":3600}`, 2 * time.Hour, `{"timeout":1}`},
		{`"runner_info":{"timeout":0}`, time.Minute, `{"timeout":7140}`},
		{`"runner_info":null`, time.Minute, `{"timeout":7140}`},
		{`"x":1`, time.Minute, `{"timeout":7140}`},
	} {
		out, _ := edited(t, `{"id":1,"token":"t",`+c.info+`}`, edit{work: workspace(), buildsDir: "/b", late: c.late})
		require.Contains(t, out, `"runner_info":`+c.want)
	}
}

func TestPayloadRefused(t *testing.T) {
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"id":1}`, `{"id":"1","token":1}`, `{"id":-1,"token":"t"}`, `{"id":1.5,"token":"t"}`, `{"id":1e3,"token":"t"}`,
		`{"id":"../../x","token":"t"}`, `{"id":1,"token":"t"} x`, `{"id":1,"token":"t","dependencies":1}`, `{"id":1,"token":"t","runner_info":[]}`,
		`{"id":99999999999999999999,"token":"t"}`,
	} {
		_, _, err := readJob([]byte(text))
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "../../x")
	}
}

// FuzzPayload: whatever a payload is, what comes out is JSON, the clone path is ours, and
// nothing that is not understood is lost.
func FuzzPayload(f *testing.F) {
	f.Add(payload("5"), "FULL", int64(5))
	f.Add([]byte(`{"id":1,"token":"t","variables":[{"key":"GIT_CONFIG_COUNT","value":"3"}],"Variables":null}`), "FRESH", int64(0))
	f.Add([]byte(`{"id":1,"token":"t","ID":2,"a":"\ud800","a":{"b":[]}}`), "OFF", int64(-1))
	f.Fuzz(func(t *testing.T, text []byte, state string, late int64) { checkEdit(t, text, state, late) })
}

// FuzzPayloadParts has most of its inputs be JSON.
func FuzzPayloadParts(f *testing.F) {
	f.Add(`{"key":"GIT_CONFIG_COUNT","value":"2"},{"key":"GIT_CONFIG_KEY_1","value":"safe.directory"}`, `{"id":11,"token":"x","artifacts_file":{}}`, `"timeout":7`, `"image":null`, uint8(0), int64(9))
	f.Add(`{"Key":"GIT_STRATEGY","VALUE":"clone","key":"x"},null,[],1`, `{"ID":11},{"id":"11"},{"id":11,"id":12}`, `"Timeout":"x"`, `"Variables":{},"token":"u"`, uint8(1), int64(-9))
	f.Fuzz(func(t *testing.T, vars, deps, runner, more string, state uint8, late int64) {
		text := `{"id":1,"token":"t","variables":[` + vars + `],"dependencies":[` + deps + `],"runner_info":{` + runner + `}`
		if more != "" {
			text += "," + more
		}
		checkEdit(t, []byte(text+"}"), []string{plugin.StateFull, plugin.StateFresh, plugin.StateOff}[state%3], late)
	})
}

func checkEdit(t *testing.T, text []byte, state string, late int64) {
	info, body, err := readJob(text)
	if err != nil {
		return
	}
	if !isNumber(info.ID) {
		t.Fatalf("id %q", info.ID)
	}
	w := workspace()
	w.State = state
	out, err := edit{work: w, buildsDir: "/builds", late: time.Duration(late)}.apply(body, info)
	if err != nil {
		return
	}
	again, o, err := readJob(out)
	if err != nil {
		t.Fatalf("not a job any more: %v", err)
	}
	if again.ID != info.ID || again.Token != info.Token {
		t.Fatalf("another job")
	}
	for _, m := range body {
		ours := slices.ContainsFunc([]string{"variables", "dependencies", "runner_info"}, func(s string) bool { return strings.EqualFold(s, m.name) })
		if !ours && string(o.get(m.name)) != string(body.get(m.name)) {
			t.Fatalf("%q was %s and is %s", m.name, body.get(m.name), o.get(m.name))
		}
	}
	if state == plugin.StateOff {
		return
	}
	// As the runner reads it.
	var job struct{ Variables []struct{ Key, Value string } }
	if json.Unmarshal(out, &job) != nil {
		return // a list that no runner can read
	}
	last := map[string]string{}
	for _, v := range job.Variables {
		last[v.Key] = v.Value
	}
	if last["GIT_CLONE_PATH"] != "/builds/"+viewName || last["GIT_STRATEGY"] != "fetch" || last["GET_SOURCES_ATTEMPTS"] != "1" {
		t.Fatalf("%q", last)
	}
}
