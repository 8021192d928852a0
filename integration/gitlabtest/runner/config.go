package runner

import (
	"io"
	"slices"
	"time"
)

// Config is a runner process: what config.toml says, and what a test needs besides.
type Config struct {
	Entries    []Entry `json:"entries"`
	Concurrent int     `json:"concurrent"` // 0: as many as the limits allow
	// CheckInterval is 3 s if 0.
	CheckInterval time.Duration `json:"check_interval"`
	// SystemID tells managers of one token apart.
	SystemID string `json:"system_id"`
	// ShutdownTimeout is how long an abort may take. 0: 30 s.
	ShutdownTimeout time.Duration `json:"shutdown_timeout"`
	// Scale divides every wait of the rules, so that tests are quick: with 100, 3 s are
	// 30 ms. It divides no job's timeout. 0 is 1.
	Scale float64 `json:"scale"`
	// Break are rules not to keep.
	Break []Rule `json:"break"`
	// Program is called for artifacts. "" is this program itself, which then has to
	// call Main.
	Program string `json:"program"`
	// Log gets the runner's own log; nil is nowhere.
	Log io.Writer `json:"-"`
	// LogFile is where a process of its own logs.
	LogFile string `json:"log_file"`
}

// Entry is one [[runners]].
type Entry struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Token    string `json:"token"`
	Executor string `json:"executor"` // shell, docker, custom

	BuildsDir string `json:"builds_dir"`
	CacheDir  string `json:"cache_dir"`
	// Limit is how many jobs at once, 0 as many as Concurrent.
	Limit int `json:"limit"`
	// RequestConcurrency is how many requests for jobs at once. 0: 1.
	RequestConcurrency int `json:"request_concurrency"`
	// CustomBuildDir allows GIT_CLONE_PATH; nil is the executor's default (section 3).
	CustomBuildDir *bool `json:"custom_build_dir"`
	// Environment are KEY=value before the job's variables.
	Environment []string `json:"environment"`
	// FeatureFlags beat the job's variables.
	FeatureFlags map[string]bool `json:"feature_flags"`
	CloneURL     string          `json:"clone_url"`
	// OutputLimit is in KiB. 0: 4 MiB.
	OutputLimit int `json:"output_limit"`
	// User runs the jobs of a shell executor by su.
	User string `json:"user"`
	// GracefulKill and ForceKill are 10 min and 10 s if 0 (section 5).
	GracefulKill time.Duration `json:"graceful_kill"`
	ForceKill    time.Duration `json:"force_kill"`
	// UnhealthyLimit is 3 if 0, UnhealthyInterval 60 min (1.1).
	UnhealthyLimit    int           `json:"unhealthy_limit"`
	UnhealthyInterval time.Duration `json:"unhealthy_interval"`
	// FinalRetries is job_status_final_update_retry_limit, 10 if 0.
	FinalRetries int `json:"final_retries"`

	Docker *Docker `json:"docker"`
	Custom *Custom `json:"custom"`

	// Break are rules not to keep, in all of the process.
	Break []Rule `json:"break"`
}

// Docker is [runners.docker].
type Docker struct {
	Image       string   `json:"image"`
	HelperImage string   `json:"helper_image"`
	Volumes     []string `json:"volumes"`
	NetworkMode string   `json:"network_mode"`
	Host        string   `json:"host"` // of the daemon, "" is docker's own default
}

// Custom is [runners.custom].
type Custom struct {
	ConfigExec, PrepareExec, RunExec, CleanupExec string
	ConfigArgs, PrepareArgs, RunArgs, CleanupArgs []string
}

// Rule is one that a real runner keeps.
type Rule string

// The rules that can be broken.
const (
	CallSix Rule = "1.0 state=running is sent at once, always"
	// Runners of 18 break this one: they drop the job as if it had been canceled at once.
	CancelingSaid Rule = "1.0 a job that is canceled gracefully at its first word is reported"
	RetryStatus   Rule = "1.0 some statuses are tried again within a call"
	BodyToken     Rule = "1.0 the token stands in body and header"
	JSONOnly      Rule = "1.0 a job must come as application/json"
	LastUpdate    Rule = "1.1 last_update is sent back"
	Unhealthy     Rule = "1.1 three 403 stop an entry"
	PatchSize     Rule = "1.0 a patch has 1 MiB at most"
	ResendAt      Rule = "1.0 after 416 it is sent from where GitLab says"
	ForcedTouch   Rule = "1.5 a silent job is touched"
	AllTrace      Rule = "1.4 all of the log goes before the final report"
	FinalRetry    Rule = "1.4 a final report without an answer is sent again"
	FinalOnce     Rule = "1.4 a final report that counted is not sent again"
	Resend412     Rule = "1.4 after 412 all of the log is sent again"
	Wait202       Rule = "1.4 after 202 it asks again"
	Quiet         Rule = "1.4 nothing is sent while a final report is under way"
	AbortOn403    Rule = "1.5 403 ends the job"
	CancelGraces  Rule = "1.5 canceling runs after_script"
	AbortFinal    Rule = "1.4 an aborted job is reported too"
	InsideBuilds  Rule = "3 GIT_CLONE_PATH lies in builds_dir"
	CustomDir     Rule = "3 GIT_CLONE_PATH needs custom_build_dir"
	LastWins      Rule = "2 the last of several variables wins"
	RawVariables  Rule = "2 raw variables are not expanded"
	CheckoutForce Rule = "3 checkout is forced"
	TmpBeside     Rule = "3 the .tmp directory lies beside the project"
	CleanupFirst  Rule = "1.4 the executor has cleaned up before the final report"
	JobTimeout    Rule = "2 the job's timeout is kept by the runner"
)

func (c *Config) broken(r Rule) bool { return slices.Contains(c.Break, r) }

// scaled is d as it is waited for.
func (c *Config) scaled(d time.Duration) time.Duration {
	if c.Scale <= 0 {
		return d
	}
	return time.Duration(float64(d) / c.Scale)
}
