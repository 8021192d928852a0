package pack

import (
	"context"
	"fmt"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// SampleRate encodes a sample of m's files, maxBytes or a little less, and throws
// the packs away. It returns how many plain bytes per second that took with all
// cores and how many stored bytes came of each plain one. Both are 0 if no file of m
// can be read here.
func SampleRate(ctx context.Context, m *snapshot.Manifest, maxBytes int64) (plainPerSec, ratio float64, err error) {
	o, err := EncoderOptions{Key: []byte("sample"), discard: true}.withDefaults()
	if err != nil {
		return 0, 0, err
	}
	start := o.Now()
	e := newEncoder(o)
	defer e.close()
	changes, most := sample(m, maxBytes)
	if err := e.plan(changes); err != nil {
		return 0, 0, fmt.Errorf("sample: %w", err)
	}
	for i := range e.files { // one each: names of hard links are not sampled
		e.files[i].with().most = most[i]
	}
	if err := e.run(ctx); err != nil {
		return 0, 0, fmt.Errorf("sample: %w", err)
	}
	took := o.Now().Sub(start)
	if e.stats.Plain == 0 || took <= 0 {
		return 0, 0, nil
	}
	return float64(e.stats.Plain) / (float64(took) / float64(time.Second)),
		float64(e.packs.stored) / float64(e.stats.Plain), nil
}

// sample takes every n-th file, so that all parts of the tree are in it, and of
// files that are larger than the sample the beginning.
func sample(m *snapshot.Manifest, maxBytes int64) (out []snapshot.Change, most []int64) {
	can := func(e *snapshot.Entry) bool {
		return e.Type == snapshot.TypeFile && e.Source != "" && e.Link == "" && e.Size > 0
	}
	var all int64
	for i := range m.Entries {
		if e := &m.Entries[i]; can(e) {
			all += e.Size
		}
	}
	var seen, taken int64
	for i := range m.Entries {
		e := m.Entries[i]
		if !can(&e) || taken >= maxBytes {
			continue
		}
		// Stay on the line from nothing to maxBytes: a file is taken when the
		// sample lags behind it.
		share := min(1, float64(maxBytes)/float64(all))
		if seen += e.Size; float64(taken) >= float64(seen)*share {
			continue
		}
		n := min(e.Size, max(maxBytes-taken, 1))
		taken += n
		e.Chunks = nil
		out = append(out, snapshot.Change{Entry: e})
		most = append(most, n)
	}
	return out, most
}
