package transfer

import (
	"math"
	"sync"
	"time"
)

// A sample is taken once so many bytes were sent or so much time was spent sending:
// many small blobs measure latency, and a sample must outlast one of them.
const (
	sampleBytes = 1 << 20
	sampleTime  = 2 * time.Second
	// meterMemory is the time of sending after which a sample has lost 63 % of its weight.
	meterMemory = 20 * time.Second
)

// meter is a moving average of bytes per second over the time in which at least one
// blob was being sent.
type meter struct {
	now func() time.Time

	mu     sync.Mutex // guards what follows
	active int
	since  time.Time // the time up to here is in busy, while active > 0
	busy   time.Duration
	bytes  int64
	avg    float64
}

func newMeter(now func() time.Time) *meter { return &meter{now: now} }

func (m *meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.active++; m.active == 1 {
		m.since = m.now()
	}
}

func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sampleLocked()
	m.active--
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += n
	m.sampleLocked()
}

// sampleLocked moves the average if there is enough to say something.
func (m *meter) sampleLocked() {
	if m.active > 0 {
		now := m.now()
		m.busy += max(now.Sub(m.since), 0)
		m.since = now
	}
	if m.busy <= 0 || (m.bytes < sampleBytes && m.busy < sampleTime) {
		return
	}
	r := float64(m.bytes) / m.busy.Seconds()
	w := 1 - math.Exp(-m.busy.Seconds()/meterMemory.Seconds())
	if m.avg == 0 {
		w = 1
	}
	m.avg += w * (r - m.avg)
	m.busy, m.bytes = 0, 0
}

// rate is 0 while unknown.
func (m *meter) rate() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.avg
}
