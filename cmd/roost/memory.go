package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapRoom is what may be allocated between two collections while little is in use.
const heapRoom = 32 << 20

// saveMemory makes the collector begin when the heap has grown by half, not when it is
// twice as large: of a tree with millions of names that is a hundred megabytes, for a
// hundredth of the time. While little is in use it lets heapRoom be allocated first,
// since a collection each few megabytes is a tenth of the time of saving a small tree.
// GOGC, if it is set, says otherwise.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		keepRoom(growth(liveHeap()))
	}
}

// keepRoom says by how much the heap may grow, and says it anew behind each collection,
// which finds what this leaves behind for it. If it is not as it was left then, somebody
// else says it from there on.
func keepRoom(percent int) {
	debug.SetGCPercent(percent)
	runtime.SetFinalizer(&struct{ _ [16]byte }{}, func(any) {
		if told("/gc/gogc:percent") == uint64(percent) {
			keepRoom(growth(liveHeap()))
		}
	})
}

// growth is the percentage for a heap of live bytes.
func growth(live uint64) int { return int(max(50, 100*heapRoom/max(live, 1<<20))) }

// liveHeap is what the last collection left.
func liveHeap() uint64 { return told("/gc/heap/live:bytes") }

// told is what the runtime says of itself.
func told(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	if metrics.Read(s); s[0].Value.Kind() != metrics.KindUint64 {
		return heapRoom
	}
	return s[0].Value.Uint64()
}
