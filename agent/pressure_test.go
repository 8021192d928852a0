package agent

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoom(t *testing.T) {
	const gib = int64(1) << 30
	r := Room{MaxBytes: 100 * gib}.withDefaults()
	disk := func(used, free int64) Disk {
		return Disk{Used: used * gib, Free: free * gib, Total: (used + free) * gib}
	}
	require.LessOrEqual(t, r.over(r.High, disk(900, 100), 90*gib), int64(0))
	require.InDelta(t, float64(20*gib), float64(r.over(r.High, disk(920, 80), 0)), 1000)
	require.Equal(t, 1*gib, r.over(r.High, Disk{}, 91*gib), "the budget counts where the disk is not known")
	require.Equal(t, 11*gib, r.over(r.Low, Disk{}, 91*gib))
	require.LessOrEqual(t, Room{}.withDefaults().over(90, Disk{}, 1<<60), int64(0), "no budget")

	require.Empty(t, r.full(disk(900, 100), 99*gib))
	require.Contains(t, r.full(disk(999, 1), 100*gib), "may have", "the budget is used up")
	require.Empty(t, r.full(disk(999, 1), 0), "1 GiB is enough on a large disk")
	require.NotEmpty(t, r.full(Disk{Used: 999 * gib, Free: gib - 1, Total: 1000 * gib}, 0))
	require.Empty(t, r.full(Disk{Used: 50 << 20, Free: 14 << 20, Total: 64 << 20}, 0), "a twentieth is enough on a small one")
	require.NotEmpty(t, r.full(Disk{Used: 62 << 20, Free: 2 << 20, Total: 64 << 20}, 0))
	require.NotEmpty(t, r.full(Disk{Total: gib, Free: gib, Inodes: 1000, InodesTotal: 1000}, 0))
	require.True(t, Disk{Inodes: 91, InodesTotal: 100}.crowded(90))
	require.False(t, Disk{}.crowded(90))
	require.Equal(t, Room{High: 50, Low: 40}, Room{High: 50, Low: 60}.marks())
}

func (r Room) marks() Room { r = r.withDefaults(); return Room{High: r.High, Low: r.Low} }
