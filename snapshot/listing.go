package snapshot

import (
	"math/bits"

	"github.com/chainfire/cfseed/snapshot/record"
)

// listing is the list of a table's records, and which of them a walk over the
// base has found.
type listing struct {
	hashes []uint64
	kinds  []uint8
	seqs   []uint64 // nil while all are 0
	found  bitSet

	slots []uint32 // a hash table of records, each with 1 added; 0: none
	shift int
}

// maxProbes is how many slots are looked at for a hash. Records that found none
// of them free are not looked for: a list made to collide costs no time.
const maxProbes = 32

// newListing makes room for a table's records, at most record.MaxRecords.
func newListing(records uint64) *listing {
	width := max(bits.Len64(records+records/2), 4)
	return &listing{
		hashes: make([]uint64, 0, records), kinds: make([]uint8, 0, records),
		slots: make([]uint32, 1<<width), shift: 64 - width,
	}
}

// slot is where the search for a hash begins.
func (l *listing) slot(hash uint64) int { return int(hash * 0x9e3779b97f4a7c15 >> l.shift) }

// add adds the next record of the list.
func (l *listing) add(r record.Listed) {
	i := len(l.hashes)
	l.hashes, l.kinds = append(l.hashes, r.Hash), append(l.kinds, r.Kind)
	if r.Seq != 0 && l.seqs == nil {
		l.seqs = make([]uint64, i, cap(l.hashes))
	}
	if l.seqs != nil {
		l.seqs = append(l.seqs, r.Seq)
	}
	for n, at := 0, l.slot(r.Hash); n < maxProbes; n++ {
		s := &l.slots[(at+n)&(len(l.slots)-1)]
		if *s == 0 {
			*s = uint32(i + 1)
			return
		}
	}
}

func (l *listing) seq(i int) uint64 {
	if l.seqs == nil {
		return 0
	}
	return l.seqs[i]
}

// find gives the first record after another that has a hash, -1 when there is
// none.
func (l *listing) find(hash uint64, after int) int {
	if next := after + 1; next < len(l.hashes) && l.hashes[next] == hash { // most go on where the last one was
		return next
	}
	for n, at := 0, l.slot(hash); n < maxProbes; n++ {
		s := l.slots[(at+n)&(len(l.slots)-1)]
		if s == 0 {
			return -1
		}
		if i := int(s - 1); i > after && l.hashes[i] == hash {
			return i // records of one hash are met in their order
		}
	}
	return -1
}

// matcher notes which records of a walk are those of a list, in the order of
// both.
type matcher struct {
	l    *listing
	used bitSet // records of the walk, counted from 0, that are found ones
	n    int    // records of the walk so far
	last pair   // the last one found
	prev pair   // the one before it
}

type pair struct{ listed, walked int }

func newMatcher(l *listing) *matcher {
	return &matcher{l: l, last: pair{-1, -1}, prev: pair{-1, -1}}
}

// see takes the next record of the walk. If a hash led too far ahead, what comes
// after it in the walk is before it in the list, and the jump is taken back.
func (m *matcher) see(hash uint64) {
	here := m.n
	m.n++
	i := m.l.find(hash, m.last.listed)
	if i < 0 && m.last.listed > m.prev.listed+1 {
		if i = m.l.find(hash, m.prev.listed); i >= 0 && i < m.last.listed {
			m.l.found.remove(m.last.listed)
			m.used.remove(m.last.walked)
			m.last = m.prev
		} else {
			return
		}
	}
	if i < 0 {
		return
	}
	m.l.found.add(i)
	m.used.add(here)
	m.prev, m.last = m.last, pair{i, here}
}

// bitSet is a set of small numbers.
type bitSet []uint64

func (s *bitSet) add(i int) {
	for i/64 >= len(*s) {
		*s = append(*s, 0)
	}
	(*s)[i/64] |= 1 << (i % 64)
}

func (s bitSet) remove(i int) { s[i/64] &^= 1 << (i % 64) }

func (s bitSet) has(i int) bool { return i/64 < len(s) && s[i/64]&(1<<(i%64)) != 0 }
