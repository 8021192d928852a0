package gitlab

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A slot that is offered anew is asked for at once: its runner has just ended a job,
// and what was said to the ones before it is old.
func TestNewOfferAsksAtOnce(t *testing.T) {
	s := newServer(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	b := &stub{}
	free := func(n int) { b.set(func(w *Work) { w.Wants = s.want(n, "a") }) }
	serve(t, b, func(o *Options) { o.Interval = time.Hour })
	free(1)
	until(t, func() bool { return s.asked() == 1 })
	free(2)
	until(t, func() bool { return s.asked() == 2 })
	free(1)
	time.Sleep(2 * newOffer)
	require.Equal(t, 2, s.asked(), "a slot that is taken is no offer")
	free(2)
	until(t, func() bool { return s.asked() == 3 })
}
