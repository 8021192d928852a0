package view

import (
	"context"
	"path"
	"slices"
)

// Gatherer is an Imager that can bring the small files that a job left into one
// bundle, as those of a layer from elsewhere are: a file that an image leads to by
// name costs a look into its directory when it is opened, one in a bundle nothing.
type Gatherer interface {
	Imager
	TreeImager
	// Gather copies the small files of l's own directory into a bundle beside that,
	// reading each once. t is l's whole tree, hashed. It returns what ImageTree is to be
	// given, and t with the files' new places; l stays as it is. Nothing is
	// deleted. It is durable when it returns. On error nothing has changed:
	// syscall.ENOSPC says that the disk is too full to have the files twice for a
	// while. nil says that there is no use in it here.
	Gather(ctx context.Context, l *Layer, t Tree) (*Layer, Tree, error)
	// Prune deletes the files that l, whose image is made of what Gather returned,
	// has in its bundle too. Nothing may be shown that ReliesOn them, and nobody may
	// be reading them. It can be called again.
	Prune(ctx context.Context, l *Layer, t Tree) error
}

// SmallIn is how many files in o's own directory l's image leads to that could lie
// in a bundle of o instead.
func (l *Layer) SmallIn(o *Layer) int { return l.Small[path.Dir(o.Dir)] }

// ReliesOn reports whether l can't be shown without the small files in o's own
// directory. It says yes where it does not know.
func (l *Layer) ReliesOn(o *Layer) bool {
	if slices.Contains(l.Lowers, o.Dir) {
		return true
	}
	if l.Image != "" && l.Counted {
		return l.SmallIn(o) > 0
	}
	return slices.Contains(l.Data, path.Dir(o.Dir))
}
