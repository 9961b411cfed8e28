// Package failstop is the file system that Pebble writes a database of ours
// through. At the first failure of an operation that changes the database's
// files it trips a Latch, and from then on it changes nothing: whatever Pebble
// asks for is dropped and reported as done, as if the power had gone at the
// failed operation. So a failed fsync can not be followed by one that
// "succeeds".
//
// Pebble is not told because it can not take it: a failed rotation of its
// write-ahead log unlocks a mutex twice, which no recover can stop; a failed
// move of a marker panics, mostly in a goroutine of Pebble's; a failed flush is
// retried in a busy loop, and in the end commits wait for it for ever. Nothing
// may be acknowledged on the strength of a dropped write: the owner of the
// database looks at the Latch after every call of Pebble's that writes.
package failstop

import "sync/atomic"

// Latch remembers the first failure. There is no way back.
type Latch struct {
	describe func(cause error) error
	tell     func(first error)
	first    atomic.Pointer[failure]
}

type failure struct{ err error }

// NewLatch gives a latch that has not tripped. describe makes of a cause what
// everyone will be given; tell hears of the first failure, once, and may be
// nil. Both may be called from any goroutine, with Pebble's locks held: they
// must not call Pebble, nor block.
func NewLatch(describe func(cause error) error, tell func(first error)) *Latch {
	return &Latch{describe: describe, tell: tell}
}

// Fail trips the latch and gives the first failure, which may not be cause's.
func (l *Latch) Fail(cause error) error {
	if l.Err() == nil && l.first.CompareAndSwap(nil, &failure{l.describe(cause)}) && l.tell != nil {
		l.tell(l.Err())
	}
	return l.Err()
}

// Err gives the failure that tripped the latch, or nil.
func (l *Latch) Err() error {
	if f := l.first.Load(); f != nil {
		return f.err
	}
	return nil
}

// do runs a changing operation unless the latch has tripped. It never fails.
func (l *Latch) do(op func() error) {
	if l.Err() != nil {
		return
	}
	if err := op(); err != nil {
		_ = l.Fail(err)
	}
}
