package raftlog

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Batch is one atomic change of the log. Its parts take effect in the order
// Reset, Entries, HardState.
type Batch struct {
	// Entries are contiguous; those the log holds from the first one's index
	// on are replaced. Entries at or below the truncation point are skipped.
	// They are kept and must not be changed afterwards.
	Entries []*raftpb.Entry
	// HardState replaces the one before; nil keeps it.
	HardState *raftpb.HardState
	Reset     *Reset
}

// Reset empties the log at a Raft snapshot: it goes on at Position.Index+1,
// the pointer names state-<State>, and Commit is raised to Position.Index.
// Term and Vote are kept.
type Reset struct {
	Position ident.Position
	State    uint64
}

// Append writes a batch; with sync it returns after the fsync, which makes
// all batches before it durable as well. Without, the batch may be lost in a
// crash, together with every one after it.
//
// A batch that would break a rule of Raft (a gap, a falling term, a committed
// entry replaced, a HardState that goes back) is refused. Any error is final:
// the log is broken, ErrBroken is in the chain of this and all later errors,
// and the member must stop.
func (l *Log) Append(b Batch, sync bool) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	p, err := l.s.plan(b)
	if err != nil {
		return l.latch.Fail(fault.New(fault.Refused, "append to raft log", err).At(l.dir))
	}
	pb := l.db.NewBatch()
	if err := p.write(pb, &l.s); err != nil {
		return l.latch.Fail(err)
	}
	start := time.Now()
	if err := l.commit(pb, &p.shape, sync); err != nil {
		return err
	}
	if sync && l.o.OnFsync != nil {
		l.o.OnFsync(time.Since(start))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.publish(&l.s)
	return nil
}

// Truncate drops the entries up to index and remembers the term there. An
// index above Commit is refused (the log stays usable); one that is gone
// already is fine. It is not synced: after a crash the entries may be back.
func (l *Log) Truncate(index uint64) error {
	const op = "truncate raft log"
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if index <= l.s.trunc.Index {
		return nil
	}
	if index > l.s.hard.commit {
		return fault.Newf(fault.Refused, op, "to %d, but committed only up to %d", index, l.s.hard.commit).At(l.dir)
	}
	term, err := l.s.term(index)
	if err != nil {
		return fault.New(fault.Refused, op, err).At(l.dir)
	}
	to := ident.Position{Term: term, Index: index}
	pb := l.db.NewBatch()
	if err := deleteRange(pb, l.s.first(), index+1); err != nil {
		return l.latch.Fail(err)
	}
	if err := l.commit(pb, &shape{trunc: to, hard: l.s.hard, state: l.s.state}, false); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.truncate(to)
	return nil
}

func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	return l.latch.Err()
}

// commit adds the records beside the entries, as they stand in s, and commits.
// Whatever fails breaks the log.
func (l *Log) commit(pb *pebble.Batch, s *shape, sync bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			l.stuck = true
			err = l.latch.Fail(fmt.Errorf("commit: panic: %v", r))
		}
	}()
	records := []struct {
		key   byte
		value []byte
	}{
		{keyFormat, encodeFormat()},
		{keyHard, encodeHard(s.hard)},
		{keyTrunc, encodeTrunc(s.trunc)},
		{keyState, encodeState(s.state)},
	}
	for _, r := range records {
		if err := pb.Set([]byte{r.key}, r.value, nil); err != nil {
			return l.latch.Fail(err)
		}
	}
	mode := pebble.NoSync
	if sync {
		mode = pebble.Sync
	}
	l.dirty = true
	if err := pb.Commit(mode); err != nil {
		return l.latch.Fail(err)
	}
	// The latch hears of failures by itself; Pebble believes all went well.
	if err := l.latch.Err(); err != nil {
		return err
	}
	return pb.Close()
}

// plan is a checked batch. Of its shape only trunc, hard and state are set.
type plan struct {
	shape
	reset   bool
	entries []*raftpb.Entry
	sizes   []uint64
}

// plan checks b against the log and says what will be written.
func (s *shape) plan(b Batch) (*plan, error) {
	p := &plan{shape: shape{trunc: s.trunc, hard: s.hard, state: s.state}}
	after := *s // what entries and HardState are checked against
	if b.Reset != nil {
		if err := p.planReset(b.Reset, s); err != nil {
			return nil, err
		}
		after = p.shape
	}
	last, lastTerm := after.last(), after.lastTerm()
	p.entries = b.Entries
	for len(p.entries) > 0 && p.entries[0].GetIndex() <= after.trunc.Index {
		p.entries = p.entries[1:]
	}
	if len(p.entries) > 0 {
		if err := p.planEntries(&after); err != nil {
			return nil, err
		}
		e := p.entries[len(p.entries)-1]
		last, lastTerm = e.GetIndex(), e.GetTerm()
	}
	if b.HardState != nil {
		next := hardOf(b.HardState)
		if b.Reset != nil {
			next.commit = max(next.commit, b.Reset.Position.Index)
		}
		if err := p.hard.follow(next); err != nil {
			return nil, err
		}
		p.hard = next
	}
	if p.hard.commit > last {
		return nil, fmt.Errorf("commit %d beyond the last entry %d", p.hard.commit, last)
	}
	if p.hard.term < lastTerm {
		return nil, fmt.Errorf("HardState of term %d behind an entry of term %d", p.hard.term, lastTerm)
	}
	return p, nil
}

func (p *plan) planReset(r *Reset, s *shape) error {
	if r.Position.Index == 0 || r.Position.Term == 0 {
		return fmt.Errorf("reset to position %v", r.Position)
	}
	if r.Position.Index < s.hard.commit {
		return fmt.Errorf("reset to %v behind commit %d", r.Position, s.hard.commit)
	}
	p.reset = true
	p.trunc, p.state = r.Position, r.State
	p.hard.commit = r.Position.Index
	return nil
}

// planEntries checks that the entries continue the log after, or replace an
// end of it that is not committed.
func (p *plan) planEntries(after *shape) error {
	first := p.entries[0].GetIndex()
	if first > after.last()+1 {
		return fmt.Errorf("entry %d after %d leaves a gap", first, after.last())
	}
	term, err := after.term(first - 1)
	if err != nil {
		return err
	}
	p.sizes = make([]uint64, len(p.entries))
	for i, e := range p.entries {
		if e.GetIndex() != first+uint64(i) {
			return fmt.Errorf("entry %d where %d should be", e.GetIndex(), first+uint64(i))
		}
		if e.GetTerm() < term || e.GetTerm() == 0 {
			return fmt.Errorf("entry %d has term %d after term %d", e.GetIndex(), e.GetTerm(), term)
		}
		term = e.GetTerm()
		if e.GetIndex() <= after.hard.commit {
			if old, err := after.term(e.GetIndex()); err != nil || old != term {
				return fmt.Errorf("committed entry %d of term %d replaced by one of term %d", e.GetIndex(), old, term)
			}
		}
		p.sizes[i] = uint64(proto.Size(e))
	}
	if last := p.entries[len(p.entries)-1].GetIndex(); last < after.hard.commit {
		return fmt.Errorf("log cut at %d, committed up to %d", last, after.hard.commit)
	}
	return nil
}

// follow says whether next may come after h.
func (h hardState) follow(next hardState) error {
	switch {
	case next.term < h.term:
		return fmt.Errorf("HardState goes back from term %d to %d", h.term, next.term)
	case next.commit < h.commit:
		return fmt.Errorf("HardState goes back from commit %d to %d", h.commit, next.commit)
	case next.term == h.term && h.vote != 0 && next.vote != h.vote:
		return fmt.Errorf("vote changed from %x to %x in term %d", h.vote, next.vote, h.term)
	}
	return nil
}

// write puts the entries into the batch, and deletes what they replace.
func (p *plan) write(pb *pebble.Batch, s *shape) error {
	if p.reset {
		if err := pb.DeleteRange([]byte{keyEntry}, []byte{keyEnd}, nil); err != nil {
			return err
		}
	}
	for i, e := range p.entries {
		op := pb.SetDeferred(entryKeySize, int(p.sizes[i]))
		appendEntryKey(op.Key[:0], e.GetIndex())
		value, err := proto.MarshalOptions{}.MarshalAppend(op.Value[:0], e)
		if err != nil {
			return err
		}
		if uint64(len(value)) != p.sizes[i] {
			return fmt.Errorf("entry %d changed while it was written", e.GetIndex())
		}
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if n := len(p.entries); n > 0 && !p.reset {
		return deleteRange(pb, p.entries[n-1].GetIndex()+1, s.last()+1)
	}
	return nil
}

// publish brings the shape of the log up to the plan.
func (p *plan) publish(s *shape) {
	if p.reset {
		s.reset(p.trunc)
	}
	if len(p.entries) > 0 {
		s.cut(p.entries[0].GetIndex())
	}
	for i, e := range p.entries {
		s.push(e.GetTerm(), p.sizes[i], e)
	}
	s.hard, s.state = p.hard, p.state
}

// deleteRange deletes the entries in [lo, hi).
func deleteRange(pb *pebble.Batch, lo, hi uint64) error {
	if lo >= hi {
		return nil
	}
	return pb.DeleteRange(appendEntryKey(nil, lo), appendEntryKey(nil, hi), nil)
}
