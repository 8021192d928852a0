package pipeline

import "slices"

// Words of the top level that name no job.
var (
	globalKeys = []string{"stages", "variables", "default", "before_script", "after_script"}

	// globalLater maps words that GitLab knows, and we don't do yet, to what to do.
	globalLater = map[string]string{
		"include":        "put the included text into the file",
		"workflow":       "remove it; every submitted file is run",
		"image":          "jobs run on the host itself; select hosts by tags",
		"services":       "start what the job needs in its script",
		"cache":          "a workspace starts from the last one; name shared stores in workspace: {caches: [...]}",
		"spec":           "remove the header",
		"types":          "call it stages",
		"resource_group": "there is no lock on pipelines yet",
	}

	// reserved are words that can't name a job because they mean something else to
	// GitLab, wherever they stand.
	reserved = []string{
		"true", "false", "nil", "image", "services", "stages", "types", "before_script",
		"after_script", "variables", "cache", "include", "default", "workflow", "spec",
	}
)

// Keys of a job.
var (
	jobKeys = []string{
		"stage", "script", "before_script", "after_script", "variables", "needs", "extends", "tags",
		"timeout", "allow_failure", "when", "parallel", "retry", "workspace",
	}

	jobLater = map[string]string{
		"artifacts":           "the workspace carries files from job to job; see workspace",
		"cache":               "a workspace starts from the last one; name shared stores in workspace: {caches: [...]}",
		"coverage":            "remove it",
		"dependencies":        "say whose files the job starts with by workspace: {inherit: [...]}",
		"environment":         "remove it",
		"except":              "remove it, or the job",
		"hooks":               "use before_script",
		"id_tokens":           "remove it",
		"identity":            "remove it",
		"image":               "jobs run on the host itself; select hosts by tags",
		"inherit":             "repeat the keys in the job; for files see workspace: {inherit: ...}",
		"interruptible":       "remove it",
		"manual_confirmation": "remove it",
		"only":                "remove it, or the job",
		"pages":               "remove it",
		"publish":             "remove it",
		"requires":            "it belongs to stages; use needs in jobs",
		"release":             "make the release in a script",
		"resource_group":      "there are no locks yet; within a pipeline let the jobs need one another",
		"rules":               "remove it, or the job",
		"run":                 "use script",
		"secrets":             "remove it",
		"services":            "start what the job needs in its script",
		"start_in":            "remove it",
		"trigger":             "run the other pipeline on its own",
	}

	defaultKeys  = []string{"before_script", "after_script", "tags", "timeout", "retry", "workspace"}
	defaultLater = []string{"artifacts", "cache", "hooks", "id_tokens", "identity", "image", "interruptible", "services"}
)

// Keys of needs, of a variable and of workspace.
var (
	needKeys  = []string{"job", "workspace", "optional"}
	needLater = map[string]string{
		"artifacts": "say workspace: true or false",
		"parallel":  `name the instances: "job 1/3"`,
		"pipeline":  "remove it",
		"project":   "remove it",
		"ref":       "remove it",
	}

	retryKeys  = []string{"max", "when"}
	retryLater = map[string]string{"exit_codes": "every failure is tried again"}

	workspaceKeys  = []string{"inherit", "commit", "mode", "on_conflict", "prefer", "atomic", "caches"}
	workspaceLater = map[string]string{
		"generation":     "change the project's name to start anew",
		"inherit_failed": "a job after a failed one starts with what that one started with",
		"map":            "write to a directory of the instance: out/$CI_NODE_INDEX",
		"never_upload":   "keep such files outside of the workspace",
		"publish_seed":   "remove it; all pipelines of a project share one zone",
		"resume":         "remove it",
	}
)

// elsewhere maps keys that people put into a job to where they belong.
var elsewhere = map[string]string{
	"stages":   "it belongs to the top level; the stage of a job is stage",
	"default":  "it belongs to the top level",
	"include":  "it belongs to the top level, and is not supported yet",
	"workflow": "it belongs to the top level, and is not supported yet",

	"inherits":    "it belongs to workspace: {inherit: ...}",
	"commit":      "it belongs to workspace: {commit: ...}",
	"mode":        "it belongs to workspace: {mode: ...}",
	"on_conflict": "it belongs to workspace: {on_conflict: ...}",
	"prefer":      "it belongs to workspace: {prefer: ...}",
	"atomic":      "it belongs to workspace: {atomic: ...}",
	"caches":      "it belongs to workspace: {caches: ...}",
}

func known(keys []string, key string) bool { return slices.Contains(keys, key) }
