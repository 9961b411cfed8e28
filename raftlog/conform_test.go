package raftlog

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/ident"
)

// subject is a log under the conformance suite.
type subject interface {
	Term(i uint64) (uint64, error)
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error)
	HardState() *raftpb.HardState
	BytesAfter(i uint64) uint64
	Append(b Batch, sync bool) error
	Truncate(i uint64) error
	Reopen() error
}

// op is one step of the suite. Its numbers are taken modulo what is possible
// when it runs, so that any sequence is a valid one.
type op struct {
	kind    int
	a, b, c uint64
}

const (
	opAppend = iota
	opRepeat
	opHard
	opGroup
	opTruncate
	opReset
	opReopen
	opKinds
)

func opsGen(n int) *rapid.Generator[[]op] {
	one := rapid.Custom(func(t *rapid.T) op {
		// Weighted: resets and reopenings end whatever was built up.
		kind := rapid.SampledFrom([]int{opAppend, opAppend, opAppend, opRepeat, opHard, opHard, opGroup,
			opTruncate, opTruncate, opReset, opReopen}).Draw(t, "kind")
		num := rapid.Uint64Range(0, 1000)
		return op{kind: kind, a: num.Draw(t, "a"), b: num.Draw(t, "b"), c: num.Draw(t, "c")}
	})
	return rapid.SliceOfN(one, 1, n)
}

// conform runs ops on s and on raft.MemoryStorage and gives the first
// difference between their answers.
func conform(s subject, ops []op) error {
	o := &oracle{mem: raft.NewMemoryStorage(), s: s}
	if err := o.compare(op{}); err != nil {
		return fmt.Errorf("at the start: %w", err)
	}
	for n, op := range ops {
		if err := o.step(op); err != nil {
			return fmt.Errorf("step %d %+v: %w", n, op, err)
		}
		if err := o.compare(op); err != nil {
			return fmt.Errorf("after step %d %+v: %w", n, op, err)
		}
	}
	return nil
}

type oracle struct {
	mem  *raft.MemoryStorage
	s    subject
	hard hardState
	fill byte // makes the data of each entry its own
}

func (o *oracle) bounds() (first, last uint64) {
	first, _ = o.mem.FirstIndex()
	last, _ = o.mem.LastIndex()
	return first, last
}

func (o *oracle) step(op op) error {
	first, last := o.bounds()
	switch op.kind {
	case opAppend:
		return o.append(o.fresh(op), op.c%2 == 0)
	case opGroup: // several Readys in one call
		ents := append(o.fresh(op), entry(0, 0, ""))
		prev := ents[len(ents)-2]
		ents[len(ents)-1] = entry(prev.GetTerm()+op.b%2, prev.GetIndex()+1, "group")
		return o.append(ents, true)
	case opRepeat: // what is committed already, and some that was dropped
		if last < first {
			return nil
		}
		ents, err := o.mem.Entries(first, last+1, math.MaxUint64)
		if err != nil {
			return err
		}
		if first > 1 {
			term, _ := o.mem.Term(first - 1)
			ents = append([]*raftpb.Entry{entry(term, first-1, "dropped")}, ents...)
		}
		return o.append(ents, op.a%2 == 0)
	case opHard:
		next := o.hard
		if up := op.a % 3; up > 0 {
			next.term, next.vote = next.term+up, op.c%4
		}
		next.commit += op.b % (last - next.commit + 1)
		o.hard = next
		return o.s.Append(Batch{HardState: next.proto()}, op.c%2 == 0)
	case opTruncate:
		if o.hard.commit < first {
			return nil
		}
		to := first + op.a%(o.hard.commit-first+1)
		return errors.Join(o.mem.Compact(to), o.s.Truncate(to))
	case opReset:
		pos := ident.Position{Index: o.hard.commit + 1 + op.a%7, Term: max(o.hard.term, 1) + op.b%2}
		next := hardState{term: pos.Term, commit: pos.Index}
		if next.term == o.hard.term {
			next.vote = o.hard.vote
		}
		o.hard = next
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &pos.Index, Term: &pos.Term}}
		return errors.Join(o.mem.ApplySnapshot(snap),
			o.s.Append(Batch{Reset: &Reset{Position: pos, State: op.c}, HardState: o.hard.proto()}, true))
	case opReopen:
		return o.s.Reopen()
	}
	return nil
}

// fresh makes entries that continue the log or replace its uncommitted end.
func (o *oracle) fresh(op op) []*raftpb.Entry {
	_, last := o.bounds()
	base := o.hard.commit + 1 + op.a%(last-o.hard.commit+1)
	term, _ := o.mem.Term(base - 1)
	var out []*raftpb.Entry
	for i := uint64(0); i <= op.b%5; i++ {
		if (op.c+i)%3 == 0 {
			term++
		}
		term = max(term, 1)
		e := entry(term, base+i, "")
		o.fill++
		if size := op.c * (i + 1) % 400; size > 0 {
			e.Data = make([]byte, size)
			e.Data[0], e.Data[size-1] = o.fill, o.fill
		} else {
			e.Data = nil
		}
		out = append(out, e)
	}
	return out
}

func (o *oracle) append(ents []*raftpb.Entry, sync bool) error {
	next := o.hard
	if term := ents[len(ents)-1].GetTerm(); term > next.term {
		next.term, next.vote = term, 0
	}
	o.hard = next
	return errors.Join(o.mem.Append(ents), o.s.Append(Batch{Entries: ents, HardState: next.proto()}, sync))
}

// compare asks both everything there is to ask.
func (o *oracle) compare(op op) error {
	first, last := o.bounds()
	gotFirst, err1 := o.s.FirstIndex()
	gotLast, err2 := o.s.LastIndex()
	if err := errors.Join(err1, err2); err != nil || gotFirst != first || gotLast != last {
		return fmt.Errorf("[%d, %d] %v, want [%d, %d]", gotFirst, gotLast, err, first, last)
	}
	if hs := hardOf(o.s.HardState()); hs != o.hard {
		return fmt.Errorf("HardState %+v, want %+v", hs, o.hard)
	}
	for i := first - min(first, 3); i <= last+2; i++ {
		want, wantErr := o.mem.Term(i)
		got, err := o.s.Term(i)
		if got != want || !errors.Is(err, wantErr) {
			return fmt.Errorf("Term(%d) = %d, %v, want %d, %v", i, got, err, want, wantErr)
		}
	}
	middle := first + op.a%(last-first+2)
	for _, lo := range []uint64{first - 1, first, middle, last, last + 1} {
		for _, hi := range []uint64{lo, lo + 1, middle, last, last + 1, last + 2} {
			if err := o.compareEntries(lo, hi); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *oracle) compareEntries(lo, hi uint64) error {
	first, last := o.bounds()
	if lo >= first && (hi > last+1 || hi < lo) {
		// The oracle panics where it is asked for what can not be there.
		if _, err := o.s.Entries(lo, hi, 0); !errors.Is(err, raft.ErrUnavailable) {
			return fmt.Errorf("Entries(%d, %d) of [%d, %d]: %v", lo, hi, first, last, err)
		}
		return nil
	}
	whole, err := o.mem.Entries(lo, min(hi, last+1), math.MaxUint64)
	if err == nil && lo < hi {
		var size uint64
		for _, e := range whole {
			size += uint64(proto.Size(e))
		}
		if hi == last+1 {
			if got := o.s.BytesAfter(lo - 1); got != size {
				return fmt.Errorf("BytesAfter(%d) = %d, want %d", lo-1, got, size)
			}
		}
	}
	sizes := []uint64{0, 1, math.MaxUint64}
	var sum uint64
	for _, e := range whole { // every boundary, and one byte to either side
		sum += uint64(proto.Size(e))
		sizes = append(sizes, sum-1, sum, sum+1)
	}
	for _, size := range sizes {
		want, wantErr := o.mem.Entries(lo, min(hi, last+1), size)
		got, err := o.s.Entries(lo, hi, size)
		if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) || len(got) != len(want) {
			return fmt.Errorf("Entries(%d, %d, %d): %d, %v, want %d, %v", lo, hi, size, len(got), err, len(want), wantErr)
		}
		for i := range want {
			if !proto.Equal(got[i], want[i]) {
				return fmt.Errorf("Entries(%d, %d, %d)[%d] = %v, want %v", lo, hi, size, i, got[i], want[i])
			}
		}
	}
	return nil
}

// real is a Log that can be closed and opened again.
type real struct {
	*Log
	o Options
}

func newReal(recent uint64) (*real, error) {
	o := memOptions()
	o.recentBytes = recent
	l, err := Open(testDir, o)
	return &real{Log: l, o: o}, err
}

func (r *real) Reopen() error {
	if err := r.Close(); err != nil {
		return err
	}
	l, err := Open(testDir, r.o)
	if err == nil {
		r.Log = l
	}
	return err
}

func TestConformsToMemoryStorage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// From no decoded entries to all of them.
		recent := rapid.SampledFrom([]uint64{1, 200, 1000, 1 << 20}).Draw(t, "recent")
		s, err := newReal(recent)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		if err := conform(s, opsGen(40).Draw(t, "ops")); err != nil {
			t.Fatal(err)
		}
	})
}
