package gitlabtest

import "slices"

// Rule is one that a server keeps. Options.Break names some not to keep, so that a
// test can show that it would notice.
type Rule string

// The rules that can be broken.
const (
	HandOutOnce    Rule = "1.0 a job is handed out once"
	FeaturesDecide Rule = "1.0 a job goes only to a runner that has the features for it"
	QueueValue     Rule = "1.1 nothing is looked up while the queue's value is the same"
	AckExpires     Rule = "1.2 a job that nobody acknowledges is given to somebody else"
	FinalOnce      Rule = "1.4 a job that ended takes no report"
	StatusHeader   Rule = "1.5 Job-Status tells of a cancel"
	AppendAtEnd    Rule = "1.0 a patch is taken only at the log's end"
	TokenExpiry    Rule = "7 a job's token expires"
)

// Breaks says that a rule is not kept.
func (o *Options) Breaks(r Rule) bool { return slices.Contains(o.Break, r) }
