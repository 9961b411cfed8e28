package raftlog

import (
	"slices"
	"sort"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/ident"
)

// defaultRecent bounds the bytes of decoded entries kept in memory.
const defaultRecent = 8 << 20

// termRun says that the entries from first on have the given term, up to the
// next run.
type termRun struct {
	first, term uint64
}

// shape is what is known of the log without reading the store. It costs eight
// bytes an entry. Its properties:
//
//  1. trunc.Index <= hard.commit <= last()
//  2. len(ends) is the number of entries; ends never falls
//  3. runs rise strictly in first and in term, and begin at trunc.Index+1,
//     or are empty when the log is
//  4. recent is the end of the log, contiguous, ending at last() when not empty,
//     of at most recentMax bytes
type shape struct {
	trunc ident.Position
	hard  hardState
	state uint64

	ends []uint64 // ends[i]: bytes of all entries up to trunc.Index+1+i, counted from an arbitrary origin
	base uint64   // the same for trunc.Index

	runs []termRun

	recent     []*raftpb.Entry
	recentSize uint64
	recentMax  uint64
}

func (s *shape) first() uint64 { return s.trunc.Index + 1 }

func (s *shape) last() uint64 { return s.trunc.Index + uint64(len(s.ends)) }

// end is the byte count at the end of entry i, which is in [trunc, last].
func (s *shape) end(i uint64) uint64 {
	if i == s.trunc.Index {
		return s.base
	}
	return s.ends[i-s.trunc.Index-1]
}

// term answers as raft.Storage does.
func (s *shape) term(i uint64) (uint64, error) {
	switch {
	case i < s.trunc.Index:
		return 0, raft.ErrCompacted
	case i == s.trunc.Index:
		return s.trunc.Term, nil
	case i > s.last():
		return 0, raft.ErrUnavailable
	}
	n := sort.Search(len(s.runs), func(n int) bool { return s.runs[n].first > i })
	return s.runs[n-1].term, nil
}

func (s *shape) lastTerm() uint64 {
	if n := len(s.runs); n > 0 {
		return s.runs[n-1].term
	}
	return s.trunc.Term
}

// bytesAfter gives the stored size of the entries above i.
func (s *shape) bytesAfter(i uint64) uint64 {
	if i >= s.last() {
		return 0
	}
	return s.end(s.last()) - s.end(max(i, s.trunc.Index))
}

// limit gives the end (exclusive) of the longest range from lo, at most to
// hi, whose entries have no more than maxSize bytes; one entry at least.
func (s *shape) limit(lo, hi, maxSize uint64) uint64 {
	before := s.end(lo - 1)
	n := sort.Search(int(hi-lo), func(n int) bool { return s.end(lo+uint64(n))-before > maxSize })
	return lo + max(uint64(n), 1)
}

// push adds the next entry.
func (s *shape) push(term, size uint64, e *raftpb.Entry) {
	if s.lastRun() != term {
		s.runs = append(s.runs, termRun{first: s.last() + 1, term: term})
	}
	s.ends = append(s.ends, s.end(s.last())+size)
	s.recent = append(s.recent, e)
	s.recentSize += size
	for s.recentSize > s.recentMax {
		i := s.recentFirst()
		s.recentSize -= s.end(i) - s.end(i-1)
		s.recent[0] = nil
		s.recent = s.recent[1:]
	}
}

// lastRun is the term of the last run, 0 without one: no entry has term 0.
func (s *shape) lastRun() uint64 {
	if n := len(s.runs); n > 0 {
		return s.runs[n-1].term
	}
	return 0
}

// recentFirst is the index of the first entry kept decoded, last()+1 when
// none is.
func (s *shape) recentFirst() uint64 { return s.last() + 1 - uint64(len(s.recent)) }

// cut removes the entries from index on; index > trunc.Index.
func (s *shape) cut(index uint64) {
	if index > s.last() {
		return
	}
	if keep := s.recentFirst(); index <= keep {
		s.recent, s.recentSize = nil, 0
	} else {
		n := index - keep
		s.recentSize = s.end(index-1) - s.end(keep-1)
		// Readers may hold the same array: give appends a new one.
		s.recent = s.recent[:n:n]
	}
	s.ends = s.ends[:index-s.first()]
	for len(s.runs) > 0 && s.runs[len(s.runs)-1].first >= index {
		s.runs = s.runs[:len(s.runs)-1]
	}
}

// truncate removes the entries up to p, which is in the log.
func (s *shape) truncate(p ident.Position) {
	if n := int(p.Index + 1 - min(s.recentFirst(), p.Index+1)); n > 0 {
		s.recentSize = s.end(s.last()) - s.end(p.Index)
		s.recent = slices.Clone(s.recent[n:])
	}
	s.base = s.end(p.Index)
	n := int(p.Index - s.trunc.Index)
	if rest := s.ends[n:]; len(rest) < n {
		s.ends = slices.Clone(rest)
	} else {
		s.ends = rest
	}
	s.trunc = p
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].first > p.Index+1 })
	if len(s.ends) == 0 {
		s.runs = nil
		return
	}
	s.runs = slices.Clone(s.runs[i-1:])
	s.runs[0].first = p.Index + 1
}

// reset empties the log at p.
func (s *shape) reset(p ident.Position) {
	*s = shape{trunc: p, hard: s.hard, state: s.state, recentMax: s.recentMax}
}
