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
	moves   map[snapshot.ID]bool // layers whose content is counted
	// Of the chain under way: what the host has with each snapshot that it has parts with.
	saved map[snapshot.ID]saving
}

// saving is what can be copied from one snapshot: Part has the sum of its parts, and of
// is the size of the layers of which they are.
type saving struct {
	Part
	of int64
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
		if m.several {
			if m.counted == nil {
				m.counted = map[snapshot.ID]bool{}
			}
			m.counted[l.ID] = true
		}
		for _, b := range l.Beside {
			content += m.beside(b)
		}
	}
	if len(c) > 0 {
		content = m.copied(&c[0], content)
	}
	return index + content
}

// copied is what of content is left to move to a host that copies what it has with one
// other snapshot, for the tree of tip.
func (m *moving) copied(tip *Layer, content int64) int64 {
	least, after := content, 0.0
	for _, s := range m.saved {
		// What the other's tree does not show any more of a layer moves, if tip's does.
		gone := s.of - s.Bytes
		if s.Tree > 0 && tip.Plain > 0 {
			gone = min(gone, max(tip.Plain-s.Tree, 0))
		}
		left := content - s.of + gone
		if left < least || left == least && s.After < after {
			least, after = left, s.After
		}
	}
	m.eta = math.Max(m.eta, after)
	if tip.Tree > 0 {
		least = min(least, tip.Tree)
	}
	return least
}

// layer counts the content of one layer, once.
func (m *moving) layer(l *Layer) int64 {
	if m.moves[l.ID] {
		return 0
	}
	if m.moves == nil {
		m.moves = map[snapshot.ID]bool{}
	}
	m.moves[l.ID] = true
	for _, p := range m.host.Parts[l.ID] {
		if m.saved == nil {
			m.saved = map[snapshot.ID]saving{}
		}
		s := m.saved[p.With]
		s.Bytes += min(p.Bytes, l.Bytes)
		s.of += l.Bytes
		s.After, s.Tree = math.Max(s.After, p.After), max(s.Tree, p.Tree)
		m.saved[p.With] = s
	}
	return l.Bytes
}

// beside counts what is missing of snapshots that a layer has content of.
func (m *moving) beside(c Chain) int64 {
	var sum int64
	for i := range c {
		if m.host.Has[c[i].ID] {
			break
		}
		sum += m.layer(&c[i])
	}
	return sum
}
