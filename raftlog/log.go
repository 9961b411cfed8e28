package raftlog

import (
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/failstop"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// ErrClosed is returned by a log that was closed.
var ErrClosed = errors.New("the Raft log is closed")

// ErrBroken is in the chain of every error of a log that failed once.
var ErrBroken = errors.New("the Raft log is broken")

// Log is an open Raft log. One goroutine appends; every method may be called
// from any goroutine. Entries handed out are shared and must not be changed.
type Log struct {
	dir   string
	o     Options
	db    *pebble.DB
	latch *failstop.Latch

	// wmu is held through a change, fsync included; mu only while shape is
	// looked at or replaced. A change is in the store before it is in shape.
	wmu    sync.Mutex
	closed bool // guarded by wmu and mu: written under both
	dirty  bool // guarded by wmu; something was written
	stuck  bool // guarded by wmu; Pebble panicked, it can not be closed

	mu sync.RWMutex
	s  shape

	// cmu is held for reading through a compaction, which can be long.
	cmu sync.RWMutex
}

// Open opens the log in dir, <data-dir>/raft, creating it when it is absent,
// and reads it through: a log with gaps, falling terms or a HardState that
// contradicts its entries is refused with fault.Corrupt.
func Open(dir string, o Options) (*Log, error) {
	latch := newLatch()
	db, err := openStore(dir, o, latch, false)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, o: o, db: db, latch: latch}
	if err := l.start(); err != nil {
		return nil, errors.Join(err, closeStore(db))
	}
	return l, nil
}

// start loads the shape, and writes the first batch of a new log.
func (l *Log) start() error {
	fresh, err := l.load()
	if err != nil {
		return err
	}
	if fresh {
		return l.commit(l.db.NewBatch(), &l.s, true)
	}
	return nil
}

// load reads the log through. fresh: the store holds nothing at all.
func (l *Log) load() (fresh bool, err error) {
	ld, err := load(l.db, l.o)
	if err == nil {
		err = l.latch.Err()
	}
	if err != nil {
		return false, openError(l.dir, err)
	}
	if len(ld.found) > 0 {
		err := corrupt("open raft log", errors.New(ld.found[0].Detail)).At(l.dir)
		l.o.corruption(err)
		return false, err
	}
	l.s = ld.s
	return ld.fresh, nil
}

// Close releases the log. It moves what is only in the write-ahead log to
// tables first, where any damage is noticed; a flipped bit near the end of a
// write-ahead log passes for a torn write. A broken log is closed without
// touching the disk and gives the failure that broke it. Closing twice is
// allowed.
func (l *Log) Close() error {
	l.cmu.Lock()
	defer l.cmu.Unlock()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.closed {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if l.stuck {
		return l.latch.Err()
	}
	var err error
	if l.dirty && l.latch.Err() == nil {
		err = l.db.Flush()
	}
	err = errors.Join(err, closeStore(l.db))
	if broken := l.latch.Err(); broken != nil {
		return broken
	}
	if err != nil {
		return fault.New(fault.CodeOf(err), "close raft log", err).At(l.dir)
	}
	return nil
}

// HardState gives a copy of the HardState of the last batch, nil when none
// was ever written.
func (l *Log) HardState() *raftpb.HardState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.hard.proto()
}

// FirstIndex is one above the truncation point.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.first(), nil
}

// LastIndex is the index of the last entry, the truncation point's when there
// is none.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.last(), nil
}

// Term gives the term of entry i, also of the truncation point.
// raft.ErrCompacted below that, raft.ErrUnavailable above the last entry.
func (l *Log) Term(i uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.term(i)
}

// State is the n of the current state-<n>.
func (l *Log) State() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.state
}

// BytesAfter gives the stored bytes of the entries above index. It reads
// memory only.
func (l *Log) BytesAfter(index uint64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.bytesAfter(index)
}

// TruncatedTo is the position below which, inclusive, entries were dropped;
// zero when none were.
func (l *Log) TruncatedTo() ident.Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.s.trunc
}

// Err gives the failure that broke the log, nil while it works.
func (l *Log) Err() error { return l.latch.Err() }
