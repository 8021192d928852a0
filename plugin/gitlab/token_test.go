package gitlab

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOldTokenHeader: runners of 17 name the token of an update otherwise than that of
// the log, as a real 17.5 was seen to.
func TestOldTokenHeader(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://x/slot1/api/v4/jobs/5", nil)
	require.NoError(t, err)
	require.Empty(t, tokenOf(r))
	r.Header.Set("Private-Token", "old")
	require.Equal(t, "old", tokenOf(r))
	r.Header.Set("Job-Token", "new")
	require.Equal(t, "new", tokenOf(r))

	h := newHouse(t)
	run, _ := began(t, h, "5")
	resp, _, err := run.do(t.Context(), http.MethodPut, "jobs/5", "", []byte(`{"token":"`+jobToken+`5","state":"running"}`), "Private-Token", jobToken+"5", "Job-Token", "")
	require.NoError(t, err)
	require.NotEqual(t, http.StatusForbidden, resp.StatusCode)
}
