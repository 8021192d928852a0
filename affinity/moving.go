package affinity

import (
	"math"

	"github.com/roost-ci/roost/snapshot"
)

// moving adds up what a host has to fetch for the inputs of one job.
type moving struct {
	host    *Host
	eta     float64 // seconds until what is under way is there
	upload  []snapshot.ID
	several bool // there is more than one chain

	counted map[snapshot.ID]bool // layers of chains before
	// Of the chain under way: what each snapshot that the host has parts with saves, and
	// when the last of these is there.
	saved map[snapshot.ID]Part
}

// chain is what has to move for c.
func (m *moving) chain(c Chain) int64 {
	var index, content int64
	m.saved = nil
	for i := range c {
		l := &c[i]
		if m.host.Has[l.ID] || m.counted[l.ID] {
			break // it is there with all that it stands on
		}
		if s, ok := m.host.Coming[l.ID]; ok {
			m.eta = math.Max(m.eta, s)
			break
		}
		if !l.Durable {
			m.upload = append(m.upload, l.ID)
			continue
		}
		index += l.Index
		content += m.layer(l)
		for _, b := range l.Beside {
			content += m.beside(b)
		}
	}
	best := Part{}
	for _, p := range m.saved {
		if p.Bytes > best.Bytes || p.Bytes == best.Bytes && p.After < best.After {
			best = p
		}
	}
	if best.After > 0 {
		m.eta = math.Max(m.eta, best.After)
	}
	content = max(content-best.Bytes, 0)
	if len(c) > 0 && c[0].Tree > 0 {
		content = min(content, c[0].Tree)
	}
	return index + content
}

// layer counts the content of one layer.
func (m *moving) layer(l *Layer) int64 {
	for _, p := range m.host.Parts[l.ID] {
		if m.saved == nil {
			m.saved = map[snapshot.ID]Part{}
		}
		s := m.saved[p.With]
		s.Bytes += min(p.Bytes, l.Bytes)
		s.After = math.Max(s.After, p.After)
		m.saved[p.With] = s
	}
	if m.several {
		if m.counted == nil {
			m.counted = map[snapshot.ID]bool{}
		}
		m.counted[l.ID] = true
	}
	return l.Bytes
}

// beside counts what is missing of snapshots that a layer has content of.
func (m *moving) beside(c Chain) int64 {
	var sum int64
	for i := range c {
		if m.host.Has[c[i].ID] || m.counted[c[i].ID] {
			break
		}
		sum += m.layer(&c[i])
	}
	return sum
}
