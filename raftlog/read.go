package raftlog

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// errMoved says that the store does not hold what the shape promised: either
// a change is just under way, or the store is damaged.
var errMoved = errors.New("the log and its index differ")

// Entries gives the entries in [lo, hi), of at most maxSize bytes together
// but at least one. raft.ErrCompacted when lo was truncated,
// raft.ErrUnavailable when hi-1 is above the last entry, fault.Corrupt when
// the store holds other entries than asked for. The slice is the caller's, the
// entries are shared.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	ents, err := l.entries(lo, hi, maxSize)
	if !errors.Is(err, errMoved) {
		return ents, err
	}
	// Wait for the change under way, and look again.
	l.wmu.Lock()
	defer l.wmu.Unlock()
	ents, err = l.entries(lo, hi, maxSize)
	if errors.Is(err, errMoved) {
		err = l.damaged(err)
	}
	return ents, err
}

func (l *Log) entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := &l.s
	switch {
	case lo <= s.trunc.Index:
		return nil, raft.ErrCompacted
	case hi > s.last()+1, lo > hi, len(s.ends) == 0:
		return nil, raft.ErrUnavailable
	case lo == hi:
		return nil, nil
	}
	hi = s.limit(lo, hi, maxSize)
	ents := make([]*raftpb.Entry, 0, hi-lo)
	keep := s.recentFirst()
	if lo < keep {
		var err error
		if ents, err = l.read(ents, lo, min(hi, keep)); err != nil {
			return nil, err
		}
	}
	if hi > keep {
		ents = append(ents, s.recent[max(lo, keep)-keep:hi-keep]...)
	}
	return ents, nil
}

// read appends the entries in [lo, hi) as the store holds them, each with the
// index and term the shape says. mu is held.
func (l *Log) read(ents []*raftpb.Entry, lo, hi uint64) (_ []*raftpb.Entry, err error) {
	if l.closed {
		return nil, ErrClosed
	}
	defer func() {
		if r := recover(); r != nil {
			err = l.damaged(fmt.Errorf("read: panic: %v", r))
		}
	}()
	it, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: appendEntryKey(nil, lo), UpperBound: appendEntryKey(nil, hi),
	})
	if err != nil {
		return nil, l.readFailed(err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = l.readFailed(cerr)
		}
	}()
	next := lo
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, l.readFailed(err)
		}
		e, err := decodeEntry(it.Key(), value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMoved, err)
		}
		term, err := l.s.term(next)
		if err != nil || e.GetIndex() != next || e.GetTerm() != term {
			return nil, fmt.Errorf("%w: %d/%d where %d/%d should be", errMoved, e.GetTerm(), e.GetIndex(), term, next)
		}
		ents = append(ents, e)
		next++
	}
	if err := it.Error(); err != nil {
		return nil, l.readFailed(err)
	}
	if next != hi {
		return nil, fmt.Errorf("%w: entry %d is missing", errMoved, next)
	}
	return ents, nil
}

// readFailed is an error of Pebble on the way to an entry.
func (l *Log) readFailed(err error) error {
	if broken := l.latch.Err(); broken != nil {
		return broken // what Pebble sees of its files then means nothing
	}
	if pebble.IsCorruptionError(err) {
		return l.damaged(err)
	}
	return fault.New(fault.CodeOf(err), "read raft log", err).At(l.dir)
}

// damaged breaks the log for damage found in it.
func (l *Log) damaged(err error) error {
	if broken := l.latch.Err(); broken != nil {
		return broken
	}
	bad := corrupt("read raft log", err).At(l.dir)
	l.o.corruption(bad)
	return l.latch.Fail(bad)
}

// Reconcile compares the log with the position the state store has applied,
// once, before Raft starts. A state ahead of Commit raises Commit, synced: an
// entry is applied only when it is committed, so the HardState was merely
// older. A log that lacks the applied entry, or has another there, is refused
// with fault.Corrupt.
func (l *Log) Reconcile(applied ident.Position) error {
	const op = "compare raft log with state"
	l.mu.RLock()
	term, err := l.s.term(applied.Index)
	hard, trunc, last := l.s.hard, l.s.trunc, l.s.last()
	l.mu.RUnlock()
	switch {
	case errors.Is(err, raft.ErrCompacted):
		return corrupt(op, fmt.Errorf("state is at %v, entries up to %v were dropped", applied, trunc)).At(l.dir)
	case err != nil:
		return corrupt(op, fmt.Errorf("state is at %v, the log ends at %d", applied, last)).At(l.dir)
	case term != applied.Term:
		return corrupt(op, fmt.Errorf("state is at %v, the log has term %d there", applied, term)).At(l.dir)
	case applied.Index <= hard.commit:
		return nil
	}
	hard.commit = applied.Index
	return l.Append(Batch{HardState: hard.proto()}, true)
}

// Storage gives the log to the Raft library. conf is asked for the ConfState,
// which lives in the state store alone, and snap for the snapshot to send; it
// may say raft.ErrSnapshotTemporarilyUnavailable.
func (l *Log) Storage(conf func() (*raftpb.ConfState, error), snap func() (*raftpb.Snapshot, error)) raft.Storage {
	return storage{Log: l, conf: conf, snap: snap}
}

type storage struct {
	*Log
	conf func() (*raftpb.ConfState, error)
	snap func() (*raftpb.Snapshot, error)
}

// InitialState implements raft.Storage.
func (s storage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	cs, err := s.conf()
	if err != nil {
		return nil, nil, err
	}
	return s.HardState(), cs, nil
}

// Snapshot implements raft.Storage.
func (s storage) Snapshot() (*raftpb.Snapshot, error) { return s.snap() }
