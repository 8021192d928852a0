package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/roost-ci/roost/coordinator/api"
)

// Codes of problems. They are stable: people grep for them and programs branch on
// them. docs/pipeline.md says of each what it means.
const (
	// The file as YAML.
	YAMLSyntax       = "YAML_SYNTAX"
	YAMLSize         = "YAML_SIZE"
	YAMLDepth        = "YAML_DEPTH"
	YAMLAlias        = "YAML_ALIAS"
	YAMLMerge        = "YAML_MERGE"
	YAMLTag          = "YAML_TAG"
	YAMLKey          = "YAML_KEY"
	YAMLDocuments    = "YAML_DOCUMENTS"
	YAMLDuplicateKey = "YAML_DUPLICATE_KEY"

	// Keys and values.
	KeyUnknown   = "KEY_UNKNOWN"
	KeyEmpty     = "KEY_EMPTY" // a warning: the key has no value and is taken as absent
	KeyTwice     = "KEY_TWICE" // at the top level and below default
	Unsupported  = "UNSUPPORTED"
	ValueType    = "VALUE_TYPE"
	ValueInvalid = "VALUE_INVALID"

	// Jobs.
	JobsEmpty    = "JOBS_EMPTY"
	JobLimit     = "JOB_LIMIT"
	JobSize      = "JOB_SIZE"
	JobName      = "JOB_NAME"
	JobDuplicate = "JOB_DUPLICATE"
	JobForm      = "JOB_FORM"
	JobScript    = "JOB_SCRIPT"

	ExtendsUnknown = "EXTENDS_UNKNOWN"
	ExtendsCycle   = "EXTENDS_CYCLE"
	ExtendsDepth   = "EXTENDS_DEPTH"
	ExtendsSize    = "EXTENDS_SIZE"

	VariableName = "VARIABLE_NAME"
	VariableSize = "VARIABLE_SIZE"
	// VariableReserved is a warning: the value has no effect.
	VariableReserved = "VARIABLE_RESERVED"
	// VariableSelf is a warning: a value refers to the variable that it is of.
	VariableSelf = "VARIABLE_SELF"

	// Stages and needs.
	StageUnknown   = "STAGE_UNKNOWN"
	StageDuplicate = "STAGE_DUPLICATE"
	StageReserved  = "STAGE_RESERVED"
	StageForm      = "STAGE_FORM"
	NeedUnknown    = "NEED_UNKNOWN"
	NeedForward    = "NEED_FORWARD"
	NeedDuplicate  = "NEED_DUP"
	NeedCycle      = "NEED_CYCLE"
	NeedOverLimit  = "NEED_LIMIT"
	NeedForm       = "NEED_FORM"

	// Workspaces.
	InheritUnknown = "INHERIT_UNKNOWN" // names no job
	InheritWait    = "INHERIT_WAIT"    // names a job that this one does not wait for
	InheritNothing = "INHERIT_NOTHING" // names a job that leaves nothing
	InheritForm    = "INHERIT_FORM"
	PreferUnknown  = "PREFER_UNKNOWN" // names a job that is not inherited
	GlobInvalid    = "GLOB_INVALID"

	TooMany = "TOO_MANY" // the rest of the problems is left out
)

// maxProblems is how many problems are reported. A file with more is not read to
// its end by anybody, and each costs a search for the word that was meant.
const maxProblems = 100

// pos is a place in the file, in lines and characters from 1.
type pos struct{ line, col int }

// report collects problems, each of them once: a mistake in a template is the same
// mistake in every job that extends it.
type report struct {
	list   []api.Problem
	seen   map[reportKey]struct{}
	errors int
}

type reportKey struct {
	at   pos
	code string
}

// full reports whether more problems would be left out.
func (r *report) full() bool { return len(r.list) >= maxProblems }

func (r *report) errorf(at pos, code, format string, args ...any) {
	r.add(at, code, false, format, args...)
}

func (r *report) warnf(at pos, code, format string, args ...any) {
	r.add(at, code, true, format, args...)
}

func (r *report) add(at pos, code string, warning bool, format string, args ...any) {
	if !warning {
		r.errors++
	}
	if r.full() {
		return
	}
	at = pos{max(at.line, 1), max(at.col, 1)}
	key := reportKey{at, code}
	if _, ok := r.seen[key]; ok {
		return
	}
	if r.seen == nil {
		r.seen = make(map[reportKey]struct{})
	}
	r.seen[key] = struct{}{}
	r.list = append(r.list, api.Problem{
		Line: at.line, Column: at.col, Code: code, Warning: warning, Text: fmt.Sprintf(format, args...),
	})
	if r.full() {
		r.list = append(r.list, api.Problem{
			Line: at.line, Column: at.col, Code: TooMany, Warning: r.errors == 0,
			Text: fmt.Sprintf("there are more than %d problems; only those are shown", maxProblems),
		})
	}
}

// sorted returns the problems in the order of the file, the note that there are
// more at the end.
func (r *report) sorted() []api.Problem {
	slices.SortStableFunc(r.list, func(a, b api.Problem) int {
		return cmp.Or(
			boolCompare(a.Code == TooMany, b.Code == TooMany),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Code, b.Code),
		)
	})
	return r.list
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// show makes a name from the file fit for a sentence: as it is if it is short and
// can be printed, else quoted and cut.
func show(name string) string {
	const most = 80
	plain := name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= most
	for _, r := range name {
		plain = plain && unicode.IsPrint(r)
	}
	if plain {
		return name
	}
	return quote(name)
}

// quote is %q with a bound on the length.
func quote(s string) string {
	const most = 80
	if utf8.RuneCountInString(s) <= most {
		return strconv.Quote(s)
	}
	runes := []rune(s[:min(len(s), 4*most)])
	return strconv.Quote(string(runes[:min(len(runes), most)])) + "…"
}
