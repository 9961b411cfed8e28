package raftlog

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// SeedState is what the log of a seeded node starts from.
type SeedState struct {
	Position ident.Position  // of the snapshot
	State    uint64          // it is installed as state-<State>
	Tail     []*raftpb.Entry // applied by the source, from Position.Index+1 on; may be empty
}

// Seed creates the log of a seeded node in dir: one that has never voted,
// knows the term at the snapshot's position and is empty, or holds the tail,
// after it; all of it committed. One synced batch. Seeding again with the same
// state is allowed; a log with anything else is refused with fault.NotEmpty.
func Seed(dir string, o Options, s SeedState) error {
	if s.Position.Index == 0 || s.Position.Term == 0 {
		return fault.Newf(fault.Usage, "seed raft log", "position %v", s.Position).At(dir)
	}
	start := shape{trunc: s.Position, state: s.State}
	start.hard = hardState{term: s.Position.Term, commit: s.Position.Index}
	return create("seed raft log", dir, o, start, s.Tail)
}

// Bootstrap creates the log of a founding member in dir: entries, of term 1
// and from index 1 on, all committed, and the pointer to state-<state>. One
// synced batch. Like Seed it may be repeated.
func Bootstrap(dir string, o Options, entries []*raftpb.Entry, state uint64) error {
	const op = "bootstrap raft log"
	if len(entries) == 0 {
		return fault.Newf(fault.Usage, op, "no entries").At(dir)
	}
	for _, e := range entries {
		if e.GetTerm() != 1 {
			return fault.Newf(fault.Usage, op, "entry %d has term %d", e.GetIndex(), e.GetTerm()).At(dir)
		}
	}
	return create(op, dir, o, shape{state: state}, entries)
}

// create writes start and entries, all committed, into an empty log.
func create(op, dir string, o Options, start shape, entries []*raftpb.Entry) error {
	p := &plan{shape: start, entries: entries}
	if len(entries) > 0 {
		if err := p.planEntries(&start); err != nil {
			return fault.New(fault.Refused, op, err).At(dir)
		}
		last := entries[len(entries)-1]
		p.hard = hardState{term: last.GetTerm(), commit: last.GetIndex()}
	}
	l, err := openEmpty(dir, o)
	if err != nil {
		return err
	}
	if !l.fresh {
		err = l.same(p)
	} else {
		pb := l.db.NewBatch()
		if err = p.write(pb, &start); err == nil {
			err = l.commit(pb, &p.shape, true)
		}
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return fault.New(fault.CodeOf(err), op, err).At(dir)
	}
	return nil
}

// seedling is a log that is being created.
type seedling struct {
	*Log
	fresh bool
}

// openEmpty opens a log without writing the first batch of a new one.
func openEmpty(dir string, o Options) (*seedling, error) {
	latch := newLatch()
	db, err := openStore(dir, o, latch, false)
	if err != nil {
		return nil, err
	}
	l := &seedling{Log: &Log{dir: dir, o: o, db: db, latch: latch}}
	if l.fresh, err = l.load(); err != nil {
		return nil, errors.Join(err, closeStore(db))
	}
	return l, nil
}

// same refuses a log that differs from the plan.
func (l *seedling) same(p *plan) error {
	differs := func(what string) error {
		return fault.Newf(fault.NotEmpty, "", "the log exists and its %s differs", what).
			WithHint("clear what an uncommitted install left, then start again")
	}
	s := &l.s
	switch {
	case s.trunc != p.trunc:
		return differs(fmt.Sprintf("truncation point %v", s.trunc))
	case s.hard != p.hard:
		return differs("HardState")
	case s.state != p.state:
		return differs("state pointer")
	case len(s.ends) != len(p.entries):
		return differs("length")
	case len(p.entries) == 0:
		return nil
	}
	ents, err := l.Entries(s.first(), s.last()+1, ^uint64(0))
	if err != nil {
		return err
	}
	for i, e := range ents {
		if !proto.Equal(e, p.entries[i]) {
			return differs(fmt.Sprintf("entry %d", e.GetIndex()))
		}
	}
	return nil
}
