package runner

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// executor runs the scripts of a job somewhere.
type executor interface {
	// prepare makes it ready, and sets the build's directories.
	prepare(ctx context.Context) error
	// run runs a script; a *buildError says that the script failed.
	run(ctx context.Context, s script) error
	// cleanup ends whatever it began; always called, with nothing to stop it.
	cleanup()
}

// script is a stage's.
type script struct {
	stage string // by its name for custom executors (section 6)
	text  string
	// predefined says that the runner's own tools run it, as in the helper container.
	predefined bool
}

func (b *build) executor() (executor, error) {
	switch b.cl.e.Executor {
	case "", "shell":
		return &shell{b: b}, nil
	case "docker":
		return newDocker(b)
	case "custom":
		return newCustom(b)
	}
	return nil, configError("executor %q", b.cl.e.Executor)
}

// stages runs a job's stages in their order.
func (b *build) stages(all, step context.Context, x executor) error {
	err := x.run(all, script{"prepare_script", b.prepareScript(), true})
	if err != nil {
		return systemError(err)
	}
	err = b.attempts(step, x, "GET_SOURCES_ATTEMPTS", script{"get_sources", b.getSources(), true}, b.clearWorktree())
	if err == nil {
		if s := b.downloads(); s != "" {
			err = b.attempts(step, x, "ARTIFACT_DOWNLOAD_ATTEMPTS", script{"download_artifacts", s, true}, "")
		}
	}
	if err == nil {
		err = b.steps(all, step, x)
	}
	if all.Err() != nil {
		return err // an abort leaves everything as it is, also the secrets (1.5)
	}
	stage := "upload_artifacts_on_success"
	if err != nil {
		stage = "upload_artifacts_on_failure"
	}
	if s := b.uploads(err == nil); s != "" {
		if uerr := x.run(all, script{stage, s, true}); err == nil {
			err = uerr
		}
	}
	if all.Err() == nil {
		if cerr := x.run(all, script{"cleanup_file_variables", b.cleanupScript(), true}); cerr != nil {
			fmt.Fprintf(b.out, "WARNING: cleanup: %v\n", cerr)
		}
	}
	return err
}

func (b *build) attempts(ctx context.Context, x executor, key string, s script, clear string) error {
	var err error
	for i := range max(1, b.vars.int(key, 1)) {
		if i > 0 && clear != "" {
			if cerr := x.run(ctx, script{"clear_worktree", clear, true}); cerr != nil {
				return cerr
			}
		}
		if err = x.run(ctx, s); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// steps runs the job's own commands, and its after_script whatever came of them,
// unless all of the job was stopped (1.5).
func (b *build) steps(all, step context.Context, x executor) error {
	var err error
	var after *Step
	for i := range b.job.Steps {
		if b.job.Steps[i].Name == "after_script" {
			after = &b.job.Steps[i]
		}
	}
	for i := range b.job.Steps {
		s := &b.job.Steps[i]
		if s == after {
			continue
		}
		if err = x.run(step, script{"build_script", b.userScript(s.Script, "running"), false}); err != nil {
			break
		}
	}
	if after == nil || all.Err() != nil || len(after.Script) == 0 {
		return err
	}
	status := "success"
	switch {
	case errors.Is(context.Cause(step), errCanceled):
		status = "canceled"
	case err != nil:
		status = "failed"
	}
	ctx, cancel := context.WithTimeout(all, 5*time.Minute)
	defer cancel()
	fmt.Fprintf(b.out, "\x1b[0KRunning after_script\x1b[0;m\n")
	if aerr := x.run(ctx, script{"after_script", b.userScript(after.Script, status), false}); aerr != nil {
		fmt.Fprintf(b.out, "WARNING: after_script failed, but job will continue unaffected: %v\n", aerr)
	}
	return err
}
