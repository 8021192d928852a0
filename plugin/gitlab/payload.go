package gitlab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// maxPayload bounds a job as GitLab gives it. GitLab's own limits on variables and
// on the file add up to less.
const maxPayload = 32 << 20

// defaultTimeout is what the runner takes when the job says none.
const defaultTimeout = 2 * time.Hour

// jobInfo is what this package needs to know of a job.
type jobInfo struct {
	ID      string // decimal digits
	Token   string
	Timeout time.Duration
	// Deps are the jobs whose artifacts this one may fetch: id to hash of token.
	Deps map[string]string
}

// readJob takes from a payload what is needed. The payload came from GitLab through
// the coordinator; its id becomes part of a path, so it is checked like anybody's.
func readJob(payload []byte) (jobInfo, rawObject, error) {
	var info jobInfo
	if len(payload) > maxPayload {
		return info, nil, fmt.Errorf("job of %d bytes: the limit is %d", len(payload), maxPayload)
	}
	o, err := parseObject(payload)
	if err != nil {
		return info, nil, errors.New("job: not a JSON object") // never its text: it holds secrets
	}
	var id json.Number
	if err := o.into("id", &id); err != nil || !isNumber(id.String()) {
		return info, nil, errors.New("job: its id is not a number")
	}
	info.ID, info.Token = id.String(), o.str("token")
	if info.Token == "" {
		return info, nil, fmt.Errorf("job %s: no token", info.ID)
	}
	var runner struct{ Timeout int64 }
	if err := o.into("runner_info", &runner); err != nil {
		return info, nil, fmt.Errorf("job %s: %w", info.ID, err)
	}
	info.Timeout = defaultTimeout
	if runner.Timeout > 0 && runner.Timeout < 365*24*3600 {
		info.Timeout = time.Duration(runner.Timeout) * time.Second
	}
	deps, err := parseList(o.get("dependencies"))
	if err != nil {
		return info, nil, fmt.Errorf("job %s: dependencies: %w", info.ID, err)
	}
	info.Deps = map[string]string{}
	for _, raw := range deps {
		if id, token := readDep(raw); id != "" && token != "" {
			info.Deps[id] = hashToken(token)
		}
	}
	return info, o, nil
}

func readDep(raw json.RawMessage) (id, token string) {
	o, err := parseObject(raw)
	if err != nil {
		return "", ""
	}
	var n json.Number
	if o.into("id", &n) != nil || !isNumber(n.String()) {
		return "", ""
	}
	return n.String(), o.str("token")
}

// hashToken is how a token is known where it need not be sent.
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// edit is what is made of a payload for the runner.
type edit struct {
	work *plugin.Workspace
	// buildsDir is the runner's builds directory, as the job sees it.
	buildsDir string
	ca        string        // PEM, "" for none
	late      time.Duration // how long the job's clock has been running
}

// apply makes the payload that the runner gets. What it doesn't know it leaves as it is, to
// the byte. A job that doesn't take part is not touched, but for the certificates
// without which its runner, which speaks plain HTTP with us, couldn't clone.
func (e edit) apply(o rawObject, info jobInfo) (json.RawMessage, error) {
	o = append(rawObject(nil), o...)
	vars, err := readVariables(o.get("variables"))
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", info.ID, err)
	}
	if e.ca != "" {
		vars.addFile("CI_SERVER_TLS_CA_FILE", e.ca)
		vars.addFile("GIT_SSL_CAINFO", e.ca)
	}
	if e.work.State != plugin.StateOff {
		e.vars(vars)
		if err := e.deps(&o); err != nil {
			return nil, fmt.Errorf("job %s: %w", info.ID, err)
		}
		if err := e.timeout(&o, info); err != nil {
			return nil, fmt.Errorf("job %s: %w", info.ID, err)
		}
	}
	if vars.changed {
		o.set("variables", vars.json())
	}
	return o.bytes(), nil
}

// vars makes the runner start in the workspace and leave there what it finds.
func (e edit) vars(v *variables) {
	if e.work.View != "" {
		dir := path.Join(e.buildsDir, e.work.Name)
		v.force("GIT_CLONE_PATH", dir)
		// clone and empty would empty the mount and fail; who asked for one of them has
		// no workspace.
		v.force("GIT_STRATEGY", "fetch")
		if _, theirs := v.value("GIT_CLEAN_FLAGS"); !theirs {
			v.force("GIT_CLEAN_FLAGS", "none")
		}
		v.force("GET_SOURCES_ATTEMPTS", "1") // a second try begins with git clean -ffdx
		v.force("FF_ENABLE_JOB_CLEANUP", "false")
		v.gitConfig([][2]string{
			// The workspace's files have new inodes and change times: git must not take
			// them for changed, or it rewrites every one.
			{"core.checkStat", "minimal"},
			{"core.trustctime", "false"},
			{"safe.directory", dir},
		})
	}
	v.env(e.work.Env)
}

// deps spares the downloads of what the workspace holds already.
func (e edit) deps(o *rawObject) error {
	if e.work.State != plugin.StateFull || e.work.View == "" || len(e.work.Contained) == 0 {
		return nil
	}
	list, err := parseList(o.get("dependencies"))
	if err != nil {
		return fmt.Errorf("dependencies: %w", err)
	}
	contained := map[string]bool{}
	for _, id := range e.work.Contained {
		contained[id] = true
	}
	for i, raw := range list {
		if id, _ := readDep(raw); id == "" || !contained[id] {
			continue
		}
		dep, err := parseObject(raw)
		if err != nil {
			return fmt.Errorf("dependencies: %w", err)
		}
		dep.remove("artifacts_file")
		list[i] = dep.bytes()
	}
	if list != nil {
		o.set("dependencies", joinList(list))
	}
	return nil
}

// timeout gives the job what is left of its time: its token is valid for the time
// that it was given at first, and the runner starts its clock only now.
func (e edit) timeout(o *rawObject, info jobInfo) error {
	left := max(1, int64((info.Timeout-e.late)/time.Second))
	runner := rawObject{}
	if raw := o.get("runner_info"); raw != nil && string(raw) != "null" {
		var err error
		if runner, err = parseObject(raw); err != nil {
			return fmt.Errorf("runner_info: %w", err)
		}
	}
	runner.set("timeout", left)
	o.set("runner_info", runner)
	return nil
}
