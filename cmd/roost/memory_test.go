package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHeapGrowsByHalfOrByItsRoom(t *testing.T) {
	require.Equal(t, 50, growth(10*heapRoom))
	require.Equal(t, 50, growth(2*heapRoom))
	require.Equal(t, 100, growth(heapRoom))
	require.Equal(t, 400, growth(heapRoom/4))
	require.Equal(t, 100*heapRoom>>20, growth(0), "never more than the room")
	require.Equal(t, 50, growth(math.MaxUint64))
}

// Each collection sets it anew, until somebody else does.
func TestSaveMemoryGoesOn(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	t.Setenv("GOGC", "")
	percent := func() int { return int(told("/gc/gogc:percent")) }
	saveMemory()
	first := percent()
	require.Greater(t, first, 50)
	held := make([]byte, 4*heapRoom)
	require.Eventually(t, func() bool { runtime.GC(); return percent() == 50 }, time.Minute, time.Millisecond)
	runtime.KeepAlive(held)
	require.Eventually(t, func() bool { runtime.GC(); return percent() > 50 }, time.Minute, time.Millisecond, "it is less again")
	debug.SetGCPercent(33)
	for range 5 {
		runtime.GC()
	}
	require.Equal(t, 33, percent())
}
