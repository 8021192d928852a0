package runner

import "runtime"

// info is what the runner says of itself: the server decides by features what it may
// have.
func (cl *client) info() map[string]any {
	f := map[string]any{}
	for _, name := range []string{
		"variables", "artifacts", "cache", "fallback_cache_keys", "upload_multiple_artifacts", "upload_raw_artifacts",
		"refspecs", "masking", "proxy", "raw_variables", "artifacts_exclude", "multi_build_steps", "trace_reset", "trace_checksum",
		"trace_size", "vault_secrets", "cancelable", "return_exit_code", "cancel_gracefully", "two_phase_job_commit", "job_inputs",
	} {
		f[name] = true
	}
	docker := cl.e.Executor == "docker"
	for _, name := range []string{
		"image", "services", "service_variables", "service_multiple_aliases", "image_executor_opts", "service_executor_opts",
	} {
		f[name] = docker
	}
	f["shared"] = cl.e.Executor == "shell"
	f["session"], f["terminal"], f["native_steps_integration"] = false, false, false
	return map[string]any{
		"name": "gitlab-runner", "version": "19.4.0", "revision": "d79f3e7b", "platform": "linux", "architecture": runtime.GOARCH,
		"executor": cl.e.Executor, "shell": "bash", "features": f, "config": map[string]any{"gpus": ""},
	}
}
