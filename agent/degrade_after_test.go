package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
)

// TestDegradationAfter: each durability meets each fault after the last
// command. What was promised no more than locally stays green, without an output;
// what was promised to be durable fails.
func TestDegradationAfter(t *testing.T) {
	broken := errors.New("the disk is gone")
	for i, fault := range []struct {
		name   string
		leave  func(t *testing.T, view string)
		store  *storeFault
		down   func(m, p string) bool
		code   api.Code
		failed map[string]bool
		output bool // of those that don't fail
	}{
		{
			name: "none", failed: map[string]bool{}, output: true,
		},
		{
			name: "seal", store: &storeFault{seal: broken}, code: api.SealFailed,
			failed: map[string]bool{"synced": true, "durable": true},
		},
		{
			name: "what can't be sealed", code: api.SealUnsupported,
			leave:  func(t *testing.T, v string) { require.NoError(t, makeDevice(filepath.Join(v, "dev"))) },
			failed: map[string]bool{"synced": true, "durable": true},
		},
		{
			name: "upload", down: func(m, p string) bool { return m == "PUT" && strings.HasPrefix(p, "/v1/blobs") }, output: true,
			failed: map[string]bool{"durable": true},
		},
	} {
		for j, durability := range []string{"local", "synced", "durable"} {
			if testing.Short() && (i+j)%3 != 0 { // a sample
				continue
			}
			t.Run(durability+", "+fault.name, func(t *testing.T) {
				if fault.code == api.SealUnsupported {
					testenv.Require(t, testenv.Root) // to make a device
				}
				d := newDegrading(t)
				c := ext("job")
				c.External.Durability = durability
				at, w := d.open(1, c)
				require.NoError(t, os.WriteFile(filepath.Join(w.View, "out"), []byte("out"), 0o644))
				if fault.leave != nil {
					fault.leave(t, w.View)
				}
				d.store.fault.Store(fault.store)
				d.f.edit(func() { d.f.down = fault.down })
				defer d.f.edit(func() { d.f.down = nil })
				s, err := d.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: 2 * time.Second})
				require.NoError(t, err)
				fin := d.f.finished(at)
				require.Equal(t, s.Output, fin.Output)
				if fault.failed[durability] {
					require.True(t, s.Failed)
					require.NotEmpty(t, s.Reason)
					require.Empty(t, s.Output)
					require.Equal(t, api.StatusFailed, fin.Status)
					require.Equal(t, api.FailDurable, fin.Code)
					require.True(t, fin.Infrastructure)
					require.Contains(t, strings.Join(s.Lines, "\n"), "JOB FAILED")
				} else {
					require.False(t, s.Failed, s.Reason)
					require.Equal(t, api.StatusSuccess, fin.Status)
					require.Equal(t, fault.output, s.Output != "")
					require.Equal(t, fault.code, fin.Code)
					if durability == "durable" {
						require.True(t, d.f.layers[s.Output].Durable)
					}
				}
				d.f.edit(func() { d.f.down = nil })
				d.end()
				requireNoViews(t, d.host)
			})
		}
	}
}
