package exec

import (
	"maps"
	"sort"
	"strings"
)

// shellArgs makes bash run the script that it finds at descriptor 3. The script
// is not its standard input, so a command that reads that can't eat it, and no
// argument, so it may be long and nobody reads it in a list of processes. eval
// keeps bash's own messages short ("bash: line 3: …").
var shellArgs = []string{
	"bash", "--noprofile", "--norc", "-eo", "pipefail", "-c",
	`IFS= read -r -d '' __roost <&3 || :; exec 3<&-; eval "unset __roost; $__roost"`, "bash",
}

// compose makes one script of a job's lines. Each is echoed before it runs, as
// GitLab's runner does it.
func compose(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		first, _, more := strings.Cut(strings.TrimRight(l, "\n"), "\n")
		if more {
			first += " # collapsed multi-line command"
		}
		b.WriteString("printf '%s\\n' " + quote("\x1b[32;1m$ "+first+"\x1b[0;m") + "\n")
		b.WriteString(l + "\n")
	}
	return b.String()
}

// note makes a line that prints text the way Roost's own lines look.
func note(text string) string {
	return "printf '%s\\n' " + quote("\x1b[0;36m"+text+"\x1b[0;m") + "\n"
}

// quote makes a word of s for a shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// env is the whole environment of a shell of the job.
func (r *run) env(more map[string]string) []string {
	u := r.a.user
	m := map[string]string{
		"PATH": r.a.o.Path, "HOME": r.at.home, "TMPDIR": r.at.tmp,
		"USER": u.Name, "LOGNAME": u.Name, "SHELL": r.a.o.Shell, "LANG": "C.UTF-8",
	}
	maps.Copy(m, r.job.Env)
	maps.Copy(m, more)
	// The mark is last so that the job's own variables can't take it away: it finds
	// the processes of a job whose supervisor is gone (Kill).
	m[markVar] = string(r.job.Attempt)
	return flatten(m)
}

// flatten makes a sorted environment, without what no environment can hold.
func flatten(m map[string]string) []string {
	env := make([]string, 0, len(m))
	for k, v := range m {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			continue
		}
		env = append(env, k+"="+v)
	}
	sort.Strings(env)
	return env
}

// markVar names a job's attempt in the environment of its processes.
const markVar = "ROOST_ATTEMPT_ID"
