package tree

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

type list = []string

// mergeCases are trees as mk reads them; jobs are named a, b, c. Where want is nil
// the merge must end with exactly conflicts ("kind path job job").
var mergeCases = []struct {
	name      string
	base      list // nil: no base
	parents   []list
	o         MergeOptions
	want      list
	conflicts list
	diverged  int
}{
	{name: "nobody changed", base: list{"f=1"}, parents: []list{{"f=1"}, {"f=1"}}, want: list{"f=1"}},
	{name: "one modified", base: list{"f=1", "g=1"}, parents: []list{{"f=1", "g=1"}, {"f=2 @5", "g=1"}}, want: list{"f=2 @5", "g=1"}},
	{name: "one added", base: list{"f=1"}, parents: []list{{"f=1"}, {"f=1", "d/g=1"}}, want: list{"d/", "d/g=1", "f=1"}},
	{name: "one deleted", base: list{"f=1", "g=1"}, parents: []list{{"f=1"}, {"f=1", "g=1"}}, want: list{"f=1"}},
	{name: "one deleted a directory", base: list{"d/e/f=1", "g=1"}, parents: []list{{"g=1"}, {"d/e/f=1", "g=1"}}, want: list{"g=1"}},
	{name: "one changed the mode", base: list{"f=1"}, parents: []list{{"f=1 0755"}, {"f=1"}}, want: list{"f=1 0755"}},
	{name: "one changed the owner", base: list{"f=1"}, parents: []list{{"f=1"}, {"f=1 #7"}}, want: list{"f=1 #7"}},
	{name: "one changed an attribute", base: list{"f=1 k:v"}, parents: []list{{"f=1 k:v"}, {"f=1"}}, want: list{"f=1"}},
	{name: "one changed a target", base: list{"l->x"}, parents: []list{{"l->x"}, {"l->y"}}, want: list{"l->y"}},
	{name: "one touched", base: list{"f=1"}, parents: []list{{"f=1"}, {"f=1 @5"}}, want: list{"f=1 @5"}},
	{name: "disjoint changes", base: list{"f=1", "g=1", "h=1"}, parents: []list{{"f=2", "g=1", "h=1"}, {"f=1", "g=2"}}, want: list{"f=2", "g=2"}},
	{name: "adds in one directory", base: list{"d/f=1"}, parents: []list{{"d/ @2", "d/f=1", "d/a=1"}, {"d/ @3", "d/f=1", "d/b=1"}}, want: list{"d/ @2", "d/a=1", "d/b=1", "d/f=1"}},
	{name: "both made a directory", base: list{}, parents: []list{{"d/ @2", "d/a=1"}, {"d/ @3", "d/b=1"}}, want: list{"d/ @2", "d/a=1", "d/b=1"}},
	{name: "three parents", base: list{"f=1"}, parents: []list{{"f=1", "a=1"}, {"f=1", "b=1"}, {"f=1", "c=1"}}, want: list{"a=1", "b=1", "c=1", "f=1"}},
	{name: "no base", parents: []list{{"a=1", "f=1"}, {"b=1", "f=1"}}, want: list{"a=1", "b=1", "f=1"}},

	{name: "same content", base: list{"f=1"}, parents: []list{{"f=2 @5"}, {"f=2 @5"}}, want: list{"f=2 @5"}},
	{name: "same content, other time: the first's", base: list{"f=1"}, parents: []list{{"f=2 @7"}, {"f=2 @5"}}, want: list{"f=2 @7"}, diverged: 1},
	{name: "both touched: the first's", base: list{"f=1"}, parents: []list{{"f=1 @3"}, {"f=1 @5"}, {"f=1"}}, want: list{"f=1 @3"}, diverged: 1},
	{name: "touched and modified: the content", base: list{"f=1"}, parents: []list{{"f=1 @7"}, {"f=2 @5"}}, want: list{"f=2 @5"}},
	{name: "touched and deleted: deleted", base: list{"f=1"}, parents: []list{{"f=1 @7"}, {}}, want: list{}},
	{name: "both deleted", base: list{"d/f=1"}, parents: []list{{}, {}}, want: list{}},
	{name: "both added the same symlink", base: list{}, parents: []list{{"l->x"}, {"l->x"}}, want: list{"l->x"}},
	{name: "both turned it into the same", base: list{"d/f=1"}, parents: []list{{"d=1"}, {"d=1"}}, want: list{"d=1"}},
	{name: "directory changed by one, its time by the other", base: list{"d/f=1"}, parents: []list{{"d/ @5", "d/f=1", "d/g=1"}, {"d/ 0700", "d/f=1"}}, want: list{"d/ @5 0700", "d/f=1", "d/g=1"}},

	{name: "modify/modify", base: list{"f=1"}, parents: []list{{"f=2"}, {"f=3"}}, conflicts: list{"modify/modify f a b"}},
	{name: "modify/modify by mode", base: list{"f=1"}, parents: []list{{"f=1 0755"}, {"f=1 0700"}}, conflicts: list{"modify/modify f a b"}},
	{name: "mode and content", base: list{"f=1"}, parents: []list{{"f=1 0755"}, {"f=2"}}, conflicts: list{"modify/modify f a b"}},
	{name: "add/add", base: list{}, parents: []list{{"f=2"}, {"f=3"}}, conflicts: list{"modify/modify f a b"}},
	{name: "add/add of directories with other modes", base: list{}, parents: []list{{"d/"}, {"d/ 0700"}}, conflicts: list{"modify/modify d a b"}},
	{name: "targets", base: list{"l->x"}, parents: []list{{"l->y"}, {"l->z"}}, conflicts: list{"modify/modify l a b"}},
	{name: "modify/delete", base: list{"f=1"}, parents: []list{{}, {"f=3"}}, conflicts: list{"modify/delete f a b"}},
	{name: "modify in a deleted directory", base: list{"d/f=1", "d/g=1"}, parents: []list{{}, {"d/f=3", "d/g=1"}}, conflicts: list{"modify/delete d/f a b"}},
	{name: "chmod of a deleted directory", base: list{"d/f=1"}, parents: []list{{"d/ 0700", "d/f=1"}, {}}, conflicts: list{"modify/delete d a b"}},
	{name: "type change", base: list{"f=1"}, parents: []list{{"f->x"}, {"f=2"}}, conflicts: list{"type_change f a b"}},
	{name: "type change, added", base: list{}, parents: []list{{"f/g=1"}, {"f=2"}}, conflicts: list{"type_change f a b"}},
	{name: "file became a directory, and was modified", base: list{"f=1"}, parents: []list{{"f/g=1"}, {"f=2"}}, conflicts: list{"type_change f a b"}},
	{name: "file became a directory, and was deleted", base: list{"f=1"}, parents: []list{{"f/g=1"}, {}}, conflicts: list{"modify/delete f a b"}},
	{name: "directory became a file", base: list{"d/f=1", "d/g=1"}, parents: []list{{"d=1"}, {"d/f=1", "d/g=1"}}, want: list{"d=1"}},
	{name: "directory became a file, others only deleted in it", base: list{"d/f=1", "d/g=1"}, parents: []list{{"d=1"}, {"d/f=1"}}, want: list{"d=1"}},
	{name: "directory became a file, and was changed inside", base: list{"d/e/f=1"}, parents: []list{{"d=1"}, {"d/e/f=2"}}, conflicts: list{"type_change d a b"}},
	{name: "directory became a file, and something was added", base: list{"d/f=1"}, parents: []list{{"d/f=1", "d/g=1"}, {"d=1"}}, conflicts: list{"type_change d a b"}},
	{name: "directory became a file, and was deleted", base: list{"d/f=1"}, parents: []list{{}, {"d=1"}}, conflicts: list{"modify/delete d a b"}},
	{name: "add in a deleted directory", base: list{"d/f=1"}, parents: []list{{"d/f=1", "d/g=1"}, {}}, conflicts: list{"add_in_a_deleted_directory d/g a b"}},
	{name: "add of a tree in a deleted directory is said once", base: list{"d/f=1"}, parents: []list{{}, {"d/f=1", "d/e/x=1", "d/e/y/z=1"}}, conflicts: list{"add_in_a_deleted_directory d/e a b"}},
	{name: "add deep in a deleted directory", base: list{"d/e/f=1"}, parents: []list{{}, {"d/e/f=1", "d/e/g=1"}}, conflicts: list{"add_in_a_deleted_directory d/e/g a b"}},
	{name: "add in an emptied directory", base: list{"d/f=1"}, parents: []list{{"d/f=1", "d/g=1"}, {"d/"}}, want: list{"d/", "d/g=1"}},
	{name: "renamed directory, other adds", base: list{"d/f=1"}, parents: []list{{"e/f=1"}, {"d/f=1", "d/g=1"}}, conflicts: list{"add_in_a_deleted_directory d/g a b"}},
	{
		name: "all conflicts are named, sorted", base: list{"a/x=1", "a-b=1", "c=1", "d/e=1"},
		parents:   []list{{"a/x=2", "a-b=2", "c=2"}, {"a/x=3", "a-b=3", "d/e=1", "d/n=1"}, {"a/x=2", "a-b=1", "c=3", "d/e=1"}},
		conflicts: list{"modify/modify a/x a b", "modify/modify a-b a b", "modify/delete c a b", "add_in_a_deleted_directory d/n a b"},
	},
	{name: "the first two that disagree are named", base: list{"f=1"}, parents: []list{{"f=1"}, {"f=2"}, {"f=2"}, {"f=3"}}, conflicts: list{"modify/modify f b d"}},

	{name: "order", base: list{"f=1", "g=1"}, parents: []list{{"f=1", "g=1"}, {"f=2"}, {"f=3", "g=4"}}, o: MergeOptions{Order: true}, want: list{"f=2"}},
	{name: "order, first deleted the directory", base: list{"d/f=1", "d/g=1"}, parents: []list{{}, {"d/f=3", "d/g=1", "d/n=1"}}, o: MergeOptions{Order: true}, want: list{}},
	{name: "order, second deleted the directory", base: list{"d/f=1", "d/g=1"}, parents: []list{{"d/ @7", "d/f=3", "d/g=1", "d/n/x=1"}, {}}, o: MergeOptions{Order: true}, want: list{"d/ @7", "d/f=3", "d/n/", "d/n/x=1"}},
	{name: "order, first made a file of it", base: list{"d/f=1"}, parents: []list{{"d=1"}, {"d/f=2", "d/g=1"}}, o: MergeOptions{Order: true}, want: list{"d=1"}},
	{name: "order, second made a file of it", base: list{"d/f=1"}, parents: []list{{"d/f=2", "d/g=1"}, {"d=1"}}, o: MergeOptions{Order: true}, want: list{"d/", "d/f=2", "d/g=1"}},
	{name: "order, file became a directory or was deleted", base: list{"f=1"}, parents: []list{{}, {"f/g=1"}}, o: MergeOptions{Order: true}, want: list{}},
	{name: "order, both added", base: list{}, parents: []list{{"f=1"}, {"f/g=1"}}, o: MergeOptions{Order: true}, want: list{"f=1"}},
	{name: "order, add in a deleted directory by two", base: list{"d/f=1"}, parents: []list{{"d/f=1", "d/n=1"}, {"d/f=1", "d/n=2"}, {}}, o: MergeOptions{Order: true}, want: list{"d/", "d/n=1"}},

	{name: "prefer", base: list{"f=1", "g=1"}, parents: []list{{"f=2", "g=2"}, {"f=3", "g=3"}}, o: MergeOptions{Prefer: []Prefer{{"f", "b"}, {"g", "nobody"}, {"*", "a"}}}, want: list{"f=3", "g=2"}},
	{name: "prefer a directory", base: list{"d/e/f=1"}, parents: []list{{"d/e/f=2"}, {"d/e/f=3"}}, o: MergeOptions{Prefer: []Prefer{{"d", "b"}}}, want: list{"d/", "d/e/", "d/e/f=3"}},
	{name: "prefer who deleted", base: list{"f=1"}, parents: []list{{"f=2"}, {}}, o: MergeOptions{Prefer: []Prefer{{"**", "b"}}}, want: list{}},
	{name: "prefer who did not touch it", base: list{"f=1"}, parents: []list{{"f=2"}, {"f=3"}, {"f=1"}}, o: MergeOptions{Prefer: []Prefer{{"f", "c"}}}, want: list{"f=1"}},
	{name: "prefer decides conflicts only", base: list{"f=1", "g=1"}, parents: []list{{"f=2", "g=1"}, {"f=1", "g=1"}}, o: MergeOptions{Prefer: []Prefer{{"**", "b"}}}, want: list{"f=2", "g=1"}},
	{name: "prefer before order", base: list{"f=1", "g=1"}, parents: []list{{"f=2", "g=2"}, {"f=3", "g=3"}}, o: MergeOptions{Order: true, Prefer: []Prefer{{"f", "b"}}}, want: list{"f=3", "g=2"}},
	{name: "prefer leaves the rest in conflict", base: list{"f=1", "g=1"}, parents: []list{{"f=2", "g=2"}, {"f=3", "g=3"}}, o: MergeOptions{Prefer: []Prefer{{"f", "b"}}}, conflicts: list{"modify/modify g a b"}},

	{name: "atomic: one changed", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=2"}, {"o/a=1", "o/b=1", "x=1"}}, o: MergeOptions{Atomic: list{"o/**"}}, want: list{"o/", "o/a=2", "x=1"}},
	{name: "atomic: two changed, disjoint", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=2", "o/b=1"}, {"o/a=1", "o/b=2"}}, o: MergeOptions{Atomic: list{"o/**"}}, conflicts: list{"atomic_subtree_changed_twice o a b"}},
	{name: "atomic: same name without the glob", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=2", "o/b=1"}, {"o/a=1", "o/b=2"}}, want: list{"o/", "o/a=2", "o/b=2"}},
	{name: "atomic: two made it alike", base: list{}, parents: []list{{"o/ @2", "o/a=2 @2"}, {"o/ @3", "o/a=2 @3"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"o/ @2", "o/a=2 @2"}, diverged: 1},
	{name: "atomic: touched and changed", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=1 @5", "o/b=1"}, {"o/a=1", "o/b=2"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"o/", "o/a=1", "o/b=2"}},
	{name: "atomic: deleted and changed", base: list{"o/a=1"}, parents: []list{{}, {"o/a=2"}}, o: MergeOptions{Atomic: list{"o"}}, conflicts: list{"atomic_subtree_changed_twice o a b"}},
	{name: "atomic: deleted by one", base: list{"o/a=1", "x=1"}, parents: []list{{"x=1"}, {"o/a=1", "x=2"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"x=2"}},
	{name: "atomic: order takes the whole of the first", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=1", "o/b=1", "x=1"}, {"o/a=2", "o/b=1"}, {"o/a=1", "o/b=2", "o/c=1"}}, o: MergeOptions{Atomic: list{"o"}, Order: true}, want: list{"o/", "o/a=2", "o/b=1", "x=1"}},
	{name: "atomic: prefer", base: list{"o/a=1", "o/b=1"}, parents: []list{{"o/a=2", "o/b=1"}, {"o/a=1", "o/b=2", "o/c=1"}}, o: MergeOptions{Atomic: list{"o"}, Prefer: []Prefer{{"o/**", "b"}}}, want: list{"o/", "o/a=1", "o/b=2", "o/c=1"}},
	{name: "atomic: at any depth", base: list{"p/target/a=1", "p/target/b=1"}, parents: []list{{"p/target/a=2", "p/target/b=1"}, {"p/target/a=1", "p/target/b=2"}}, o: MergeOptions{Atomic: list{"**/target/**"}}, conflicts: list{"atomic_subtree_changed_twice p/target a b"}},
	{name: "atomic: ninja", base: list{"o/.ninja_deps=1", "o/b=1"}, parents: []list{{"o/.ninja_deps=1", "o/b=2"}, {"o/.ninja_deps=1", "o/b=1", "o/c=1"}}, conflicts: list{"atomic_subtree_changed_twice o a b"}},
	{name: "atomic: cmake, made by one", base: list{"o/b=1"}, parents: []list{{"o/CMakeCache.txt=1", "o/b=1"}, {"o/b=1", "o/c=1"}}, conflicts: list{"atomic_subtree_changed_twice o a b"}},
	{name: "atomic: msbuild", base: list{"D/x.tlog/CL.1.tlog=1"}, parents: []list{{"D/x.tlog/CL.1.tlog=1", "D/a.obj=1"}, {"D/x.tlog/CL.1.tlog=1", "D/b.obj=1"}}, conflicts: list{"atomic_subtree_changed_twice D a b"}},
	{name: "atomic: unity", base: list{"Library/ArtifactDB=1"}, parents: []list{{"Library/ArtifactDB=1", "Library/x=1"}, {"Library/ArtifactDB=1", "Library/y=1"}}, conflicts: list{"atomic_subtree_changed_twice Library a b"}},
	{name: "atomic: the outermost counts", base: list{"o/.ninja_deps=1", "o/p/CMakeCache.txt=1"}, parents: []list{{"o/.ninja_deps=1", "o/p/CMakeCache.txt=2"}, {"o/.ninja_deps=2", "o/p/CMakeCache.txt=1"}}, conflicts: list{"atomic_subtree_changed_twice o a b"}},
	{name: "atomic: in a deleted directory", base: list{"q/o/a=1"}, parents: []list{{}, {"q/o/a=2"}}, o: MergeOptions{Atomic: list{"q/o"}, Prefer: []Prefer{{"q/o", "b"}}}, want: list{"q/", "q/o/", "q/o/a=2"}},
	{name: "atomic: all", base: list{"x=1", "y=1"}, parents: []list{{"x=2", "y=1"}, {"x=1", "y=2"}}, o: MergeOptions{Atomic: list{"**"}}, conflicts: list{"atomic_subtree_changed_twice  a b"}},

	{name: "caches: first wins", base: list{"c/k=1"}, parents: []list{{"c/k=1", "c/n=1", "c/m=1"}, {"c/k=2", "c/n=2"}, {"c/k=3"}}, o: MergeOptions{Caches: list{"c/**"}}, want: list{"c/", "c/k=2", "c/m=1", "c/n=1"}},
	{name: "caches: what is there wins over what was deleted", base: list{"c/k=1", "c/l=1"}, parents: []list{{"c/l=1"}, {"c/k=2", "c/l=1"}}, o: MergeOptions{Caches: list{"c/**"}}, want: list{"c/", "c/k=2", "c/l=1"}},
	{name: "caches: trimmed", base: list{"c/k=1", "c/l=1"}, parents: []list{{"c/l=1"}, {"c/k=1", "c/l=1"}}, o: MergeOptions{Caches: list{"c/**"}}, want: list{"c/", "c/l=1"}},
	{name: "caches: added in a directory that one deleted", base: list{"c/00/k=1"}, parents: []list{{"c/"}, {"c/00/k=1", "c/00/n=1"}}, o: MergeOptions{Caches: list{"c"}}, want: list{"c/", "c/00/", "c/00/n=1"}},
	{name: "caches: times are not counted", base: list{"c/k=1"}, parents: []list{{"c/k=1 @3"}, {"c/k=1 @2"}}, o: MergeOptions{Caches: list{"c"}}, want: list{"c/", "c/k=1 @3"}},
	{name: "caches: a glob of files", base: list{"a.bin=1", "a.txt=1"}, parents: []list{{"a.bin=2", "a.txt=1"}, {"a.bin=3", "a.txt=1"}}, o: MergeOptions{Caches: list{"*.bin"}}, want: list{"a.bin=2", "a.txt=1"}},
	{name: "caches: other directories conflict", base: list{"c/k=1", "d/k=1"}, parents: []list{{"c/k=2", "d/k=2"}, {"c/k=3", "d/k=3"}}, o: MergeOptions{Caches: list{"c/**"}}, conflicts: list{"modify/modify d/k a b"}},

	{name: "folds: two names of one file", base: list{"f=1"}, parents: []list{{"f=1", "d/Name=1"}, {"f=1", "d/name=1"}}, o: MergeOptions{Folds: true, Order: true}, conflicts: list{"names_that_differ_in_case_alone d/Name|d/name a b"}},
	{name: "folds: not asked for", base: list{}, parents: []list{{"Name=1"}, {"name=1"}}, want: list{"Name=1", "name=1"}},
	{name: "folds: a directory is said once", base: list{}, parents: []list{{"Build/a=1", "Build/b=1"}, {"build/A=1", "build/c=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"names_that_differ_in_case_alone Build|build a b"}},
	{name: "folds: a directory and a file", base: list{}, parents: []list{{"x/a=1"}, {"X=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"names_that_differ_in_case_alone X|x b a"}},
	{name: "folds: renamed by one", base: list{"name=1", "b=1"}, parents: []list{{"Name=1", "b=1"}, {"name=1", "b=2"}}, o: MergeOptions{Folds: true}, want: list{"Name=1", "b=2"}},
	{name: "folds: renamed by both", base: list{"name=1"}, parents: []list{{"Name=1"}, {"NAME=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"names_that_differ_in_case_alone NAME|Name b a"}},
	{name: "folds: renamed by one, kept by the policy", base: list{"name=1"}, parents: []list{{"Name=1"}, {"name=2"}}, o: MergeOptions{Folds: true, Prefer: []Prefer{{"name", "b"}}}, conflicts: list{"names_that_differ_in_case_alone Name|name a b"}},
	{name: "folds: both are one parent's", base: list{"f=1"}, parents: []list{{"f=1", "N=1", "n=1"}, {"f=2"}}, o: MergeOptions{Folds: true}, want: list{"N=1", "f=2", "n=1"}},
	{name: "folds: runes", base: list{}, parents: []list{{"Ärger/x=1", "σ=1", "straße=1"}, {"ärger/x=1", "ς=1", "strasse=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"names_that_differ_in_case_alone Ärger|ärger a b", "names_that_differ_in_case_alone ς|σ b a"}},
	{name: "folds: no UTF-8", base: list{}, parents: []list{{"\xc4A=1", "\xef=1"}, {"\xc4a=1", "\xe4=1", "\uFFFD=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"names_that_differ_in_case_alone \xc4A|\xc4a a b"}},
	{name: "folds: other conflicts come first", base: list{"f=1"}, parents: []list{{"f=2", "N=1"}, {"f=3", "n=1"}}, o: MergeOptions{Folds: true}, conflicts: list{"modify/modify f a b"}},

	{name: "links: made by one", base: list{"a=1", "b=1"}, parents: []list{{"a=1", "b=1"}, {"a=1 &g", "b=1", "c=1 &g"}}, want: list{"a=1 &a", "b=1", "c=1 &a"}},
	{name: "links: cut by one", base: list{"a=1 &g", "b=1 &g"}, parents: []list{{"a=1 &g", "b=1 &g"}, {"a=1", "b=1"}}, want: list{"a=1", "b=1"}},
	{name: "links: first name deleted by one, new name by other", base: list{"a=1 &g", "b=1 &g", "c=1 &g"}, parents: []list{{"b=1 &g", "c=1 &g"}, {"a=1 &g", "b=1 &g", "c=1 &g", "d=1 &g"}}, want: list{"b=1 &b", "c=1 &b", "d=1 &b"}},
	{name: "links: all other names deleted", base: list{"a=1 &g", "b=1 &g"}, parents: []list{{"b=1"}, {"a=1 &g", "b=1 &g", "c=1"}}, want: list{"b=1", "c=1"}},
	{name: "links: changed through by one", base: list{"a=1 &g", "b=1 &g"}, parents: []list{{"a=2 &g", "b=2 &g"}, {"a=1 &g", "b=1 &g"}}, want: list{"a=2 &a", "b=2 &a"}},
	{name: "links: the same name, another file", base: list{"a=1 &g", "b=1 &g"}, parents: []list{{"a=2 &h", "b=1", "c=2 &h"}, {"a=1 &g", "b=1 &g"}}, want: list{"a=2 &a", "b=1", "c=2 &a"}},
	{name: "links: two groups of two parents", base: list{}, parents: []list{{"a=1 &g", "b=1 &g"}, {"c=1 &g", "d=1 &g"}}, want: list{"a=1 &a", "b=1 &a", "c=1 &c", "d=1 &c"}},
	{name: "links: both made the same", base: list{}, parents: []list{{"a=1 &g", "b=1 &g"}, {"a=1 &g", "b=1 &g"}}, want: list{"a=1 &a", "b=1 &a"}},
	{name: "links: grown by both", base: list{"a=1"}, parents: []list{{"a=1 &g", "b=1 &g"}, {"a=1 &g", "c=1 &g"}}, want: list{"a=1 &a", "b=1 &a", "c=1 &a"}},
	{name: "links: from outside into an atomic subtree", base: list{"o/a=1"}, parents: []list{{"o/a=1", "y=1"}, {"o/a=1 &g", "x=1 &g"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"o/", "o/a=1 &o/a", "x=1 &o/a", "y=1"}},
	{name: "links: an atomic subtree that did not change", base: list{"o/a=1 &g", "q=1 &g"}, parents: []list{{"o/a=1 &g", "q=1 &g", "y=1"}, {"o/a=1 &g", "x=1 &g"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"o/", "o/a=1 &o/a", "x=1 &o/a", "y=1"}},
	{name: "links: in an atomic subtree", base: list{"o/a=1"}, parents: []list{{"o/a=1", "x=1"}, {"o/a=1 &g", "o/b=1 &g"}}, o: MergeOptions{Atomic: list{"o"}}, want: list{"o/", "o/a=1 &o/a", "o/b=1 &o/a", "x=1"}},
}

func TestMerge(t *testing.T) {
	for _, c := range mergeCases {
		t.Run(c.name, func(t *testing.T) {
			var base *snapshot.Manifest
			if c.base != nil {
				base = mk(t, c.base...)
			}
			var parents []party
			for i, p := range c.parents {
				parents = append(parents, party{Job: string(rune('a' + i)), Tree: mk(t, p...)})
			}
			checkMerge(t, base, parents, c.o, c.want, c.conflicts, c.diverged)

			// The same without hashes: contents are asked for, the outcome is the same.
			if base != nil {
				base = unhashed(base, "base")
			}
			for i := range parents {
				parents[i].Tree = likeBase(base, unhashed(parents[i].Tree, parents[i].Job))
			}
			o := c.o
			o.Same = func(a, b *snapshot.Entry) (bool, error) { return text(a) == text(b), nil }
			checkMerge(t, base, parents, o, c.want, c.conflicts, c.diverged)
		})
	}
}

// likeBase gives unchanged files the Source that base has, as a view does.
func likeBase(base, m *snapshot.Manifest) *snapshot.Manifest {
	if base != nil {
		for i := range m.Entries {
			e := &m.Entries[i]
			if b, ok := base.Find(e.Path); ok && text(b) == text(e) && b.MTime == e.MTime {
				e.Source = b.Source
			}
		}
	}
	return m
}

func checkMerge(t *testing.T, base *snapshot.Manifest, parents []party, o MergeOptions, want, conflicts list, diverged int) {
	t.Helper()
	got, err := mergeTrees(base, parents, o)
	if want == nil {
		var ce *snapshot.ConflictError
		require.ErrorAs(t, err, &ce)
		var found list
		for _, c := range ce.Conflicts {
			where := c.Path
			if c.Other != "" {
				where += "|" + c.Other
			}
			found = append(found, fmt.Sprintf("%s %s %s %s", strings.ReplaceAll(string(c.Kind), " ", "_"), where, c.Jobs[0], c.Jobs[1]))
		}
		require.Equal(t, conflicts, found)
		return
	}
	require.NoError(t, err)
	require.NoError(t, Validate(got.Tree))
	require.Equal(t, want, show(got.Tree))
	require.Equal(t, diverged, got.MTimeDivergence)
}

// TestMergeAsksLittle: content is compared only where several parents changed a
// path, could be alike, and did not get the very same file.
func TestMergeAsksLittle(t *testing.T) {
	base := unhashed(mk(t, "a=1", "b=1", "c=1", "d=1", "e=1", "o/x=1", "o/y=1"), "base")
	x := likeBase(base, unhashed(mk(t, "a=2 @2", "b=2 @2", "c=2 @2", "d=22 @2", "e=1 @2", "o/x=2 @2", "o/y=1"), "x"))
	y := likeBase(base, unhashed(mk(t, "a=1", "b=2 @2", "c=3 @2", "d=2 @2", "e=1 @3", "o/x=1", "o/y=1"), "y"))
	b, _ := y.Find("b")
	bx, _ := x.Find("b")
	*b = *bx // the same sealed file, inherited by both
	var asked list
	o := MergeOptions{Order: true, Atomic: list{"o"}, Same: func(p, q *snapshot.Entry) (bool, error) {
		require.Equal(t, p.Path, q.Path)
		asked = append(asked, p.Path)
		return text(p) == text(q), nil
	}}
	_, err := mergeTrees(base, []party{{"x", x}, {"y", y}}, o)
	require.NoError(t, err)
	require.Equal(t, list{"c", "c", "c", "d", "e", "e"}, asked)

	broken := errors.New("broken disk")
	o.Same = func(*snapshot.Entry, *snapshot.Entry) (bool, error) { return false, broken }
	_, err = mergeTrees(base, []party{{"x", x}, {"y", y}}, o)
	require.ErrorIs(t, err, broken)
}

func TestMergeRefusesNonsense(t *testing.T) {
	_, err := mergeTrees(nil, nil, MergeOptions{})
	require.Error(t, err)
	_, err = mergeTrees(nil, []party{{"a", nil}}, MergeOptions{})
	require.ErrorContains(t, err, `"a"`)
	_, err = mergeTrees(nil, []party{{"a", mk(t)}, {"b", &snapshot.Manifest{}}}, MergeOptions{})
	require.ErrorContains(t, err, `"b"`)
}
