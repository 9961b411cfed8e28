package node

import (
	"context"
	"errors"
	"sync"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
)

// stateBox holds the current state machine. A Raft snapshot replaces it (S8).
// Whoever reads holds the machine it began with open, and nobody waits for a
// reader but the one who closes that machine: the Ready loop, which looks at
// cached copies at every tick, never does.
type stateBox struct {
	mu     sync.Mutex
	cur    *openMachine
	closed bool
}

// openMachine is a machine and the readers that keep it open.
type openMachine struct {
	m       *state.Machine
	readers sync.WaitGroup
	leaves  chan struct{} // closed when it is to be closed
}

func opened(m *state.Machine) *openMachine { return &openMachine{m: m, leaves: make(chan struct{})} }

// set gives an empty box its first machine.
func (b *stateBox) set(m *state.Machine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cur = opened(m)
}

// machine gives the current machine to the apply worker, the only one that
// replaces it, and to readers of its cached copies, which stay valid after it
// is closed. nil before the first.
func (b *stateBox) machine() *state.Machine {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur == nil {
		return nil
	}
	return b.cur.m
}

// read runs fn while the machine can not be closed.
func (b *stateBox) read(fn func(*state.Machine) error) error {
	cur := b.enter()
	if cur == nil {
		return errStopping()
	}
	defer cur.readers.Done()
	return fn(cur.m)
}

// enter keeps the current machine open until the reader says that it is done;
// nil when there is none.
func (b *stateBox) enter() *openMachine {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur == nil || b.closed {
		return nil
	}
	b.cur.readers.Add(1)
	return b.cur
}

// readLong is read for what may take long: the context that fn gets ends also
// when the machine is to be closed, which a Raft snapshot waits for.
func (b *stateBox) readLong(ctx context.Context, fn func(context.Context, *state.Machine) error) error {
	cur := b.enter()
	if cur == nil {
		return errStopping()
	}
	defer cur.readers.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		select {
		case <-cur.leaves:
			cancel(errReplaced)
		case <-ended:
		}
	}()
	err := fn(ctx, cur.m)
	close(ended)
	<-followed
	if err != nil && context.Cause(ctx) == errReplaced {
		return fault.New(fault.Unreachable, "read state", errReplaced).WithHint("ask again")
	}
	return err
}

var errReplaced = errors.New("this member's state was replaced meanwhile")

// replace opens the next machine for whoever comes, and closes the one before
// when its last reader is done.
func (b *stateBox) replace(open func() (*state.Machine, error)) error {
	next, err := open()
	if err != nil {
		return err
	}
	b.mu.Lock()
	old := b.cur
	b.cur = opened(next)
	b.mu.Unlock()
	close(old.leaves)
	old.readers.Wait()
	return old.m.Store().Close()
}

// close ends all reading; the store is flushed first.
func (b *stateBox) close() error {
	b.mu.Lock()
	old := b.cur
	if old == nil || b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(old.leaves)
	old.readers.Wait()
	return errors.Join(old.m.Store().Flush(), old.m.Store().Close())
}
