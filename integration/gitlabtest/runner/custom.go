package runner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// custom is the custom executor (section 6).
type custom struct {
	b   *build
	c   *Custom
	tmp string
	env map[string]string // job_env
}

func newCustom(b *build) (executor, error) {
	if b.cl.e.Custom == nil || b.cl.e.Custom.RunExec == "" {
		return nil, configError("custom executor is missing RunExec")
	}
	return &custom{b: b, c: b.cl.e.Custom, env: map[string]string{}}, nil
}

// customConfig is what config_exec may say.
type customConfig struct {
	BuildsDir         string            `json:"builds_dir"`
	CacheDir          string            `json:"cache_dir"`
	BuildsDirIsShared bool              `json:"builds_dir_is_shared"`
	Hostname          string            `json:"hostname"`
	JobEnv            map[string]string `json:"job_env"`
	Shell             string            `json:"shell"`
	Driver            struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"driver"`
}

func (x *custom) prepare(ctx context.Context) error {
	tmp, err := os.MkdirTemp("", "custom-executor")
	if err != nil {
		return systemError(err)
	}
	x.tmp = tmp
	payload, err := json.Marshal(x.b.job)
	if err == nil {
		err = os.WriteFile(filepath.Join(tmp, "response.json"), payload, 0o600)
	}
	if err != nil {
		return systemError(err)
	}
	// the driver is asked where to build before that is known
	x.b.vars = x.b.allVariables("", false)
	conf, err := x.config(ctx)
	if err != nil {
		return err
	}
	e := x.b.cl.e
	if err := x.b.prepareDirs(cmp.Or(conf.BuildsDir, e.BuildsDir), cmp.Or(conf.CacheDir, e.CacheDir), conf.BuildsDirIsShared, false); err != nil {
		return err
	}
	if x.c.PrepareExec == "" {
		return nil
	}
	for try := 1; ; try++ { // a system failure is tried three times
		err := x.call(ctx, x.b.out, x.b.out, x.c.PrepareExec, x.c.PrepareArgs...)
		var be *buildError
		if err == nil || ctx.Err() != nil || try == 3 || errors.As(err, &be) && be.reason == "script_failure" {
			return err
		}
		x.b.c.sleep(ctx, 3*time.Second)
	}
}

func (x *custom) config(ctx context.Context) (customConfig, error) {
	var conf customConfig
	if x.c.ConfigExec == "" {
		return conf, nil
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	if err := x.call(ctx, &out, x.b.out, x.c.ConfigExec, x.c.ConfigArgs...); err != nil {
		return conf, err
	}
	if len(bytes.TrimSpace(out.Bytes())) == 0 {
		return conf, nil
	}
	if err := json.Unmarshal(out.Bytes(), &conf); err != nil {
		return conf, systemError(fmt.Errorf("error while parsing JSON output: %w", err))
	}
	x.env = conf.JobEnv
	if conf.Driver.Name != "" {
		fmt.Fprintf(x.b.out, "Using Custom executor with driver %s %s...\n", conf.Driver.Name, conf.Driver.Version)
	}
	return conf, nil
}

// run hands the script over in a file, with the stage's name.
func (x *custom) run(ctx context.Context, s script) error {
	file := filepath.Join(x.tmp, "script."+s.stage)
	if err := os.WriteFile(file, []byte("#!/usr/bin/env bash\n"+s.text), 0o700); err != nil { //nolint:gosec // it is run
		return systemError(err)
	}
	return x.call(ctx, x.b.out, x.b.out, x.c.RunExec, append(append([]string{}, x.c.RunArgs...), file, s.stage)...)
}

func (x *custom) cleanup() {
	if x.c.CleanupExec != "" && x.tmp != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := x.call(ctx, x.b.r.c.Log, x.b.r.c.Log, x.c.CleanupExec, x.c.CleanupArgs...); err != nil {
			x.b.r.logf("job %d: cleanup: %v", x.b.job.ID, err)
		}
	}
	if x.tmp != "" {
		_ = os.RemoveAll(x.tmp) // a scratch directory
	}
}

// The exit codes of section 6.
const (
	buildFailure  = 1
	systemFailure = 2
)

func (x *custom) environment() []string {
	env := append(os.Environ(), "TMPDIR="+x.tmp, "BUILD_FAILURE_EXIT_CODE="+strconv.Itoa(buildFailure),
		"SYSTEM_FAILURE_EXIT_CODE="+strconv.Itoa(systemFailure), "BUILD_EXIT_CODE_FILE="+x.exitFile(), "JOB_RESPONSE_FILE="+filepath.Join(x.tmp, "response.json"))
	for _, v := range x.b.vars {
		env = append(env, "CUSTOM_ENV_"+v.Key+"="+v.Value)
	}
	for k, v := range x.env {
		env = append(env, k+"="+v)
	}
	return env
}

func (x *custom) exitFile() string { return filepath.Join(x.tmp, "exit-code") }

// call runs one of the driver's programs: 1 is the job's failure, 2 the driver's, and
// anything else nobody's, which counts as the driver's.
func (x *custom) call(ctx context.Context, stdout, stderr io.Writer, name string, args ...string) error {
	_ = os.Remove(x.exitFile()) // of the stage before
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = x.environment(), stdout, stderr
	err := runGroup(ctx, x.b, cmd)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	switch exit.ExitCode() {
	case buildFailure:
		code := buildFailure
		if b, err := os.ReadFile(x.exitFile()); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				code = n
			}
		}
		return &buildError{err: fmt.Errorf("exit status %d", code), reason: "script_failure", exit: code}
	case systemFailure:
		return systemError(fmt.Errorf("%s: %w", name, err))
	}
	return systemError(fmt.Errorf("%s: unknown exit status: %w", name, err))
}
