package node

import (
	"errors"
	"sync"

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
}

// set gives an empty box its first machine.
func (b *stateBox) set(m *state.Machine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cur = &openMachine{m: m}
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
	b.mu.Lock()
	if b.cur == nil || b.closed {
		b.mu.Unlock()
		return errStopping()
	}
	cur := b.cur
	cur.readers.Add(1)
	b.mu.Unlock()
	defer cur.readers.Done()
	return fn(cur.m)
}

// replace opens the next machine for whoever comes, and closes the one before
// when its last reader is done.
func (b *stateBox) replace(open func() (*state.Machine, error)) error {
	next, err := open()
	if err != nil {
		return err
	}
	b.mu.Lock()
	old := b.cur
	b.cur = &openMachine{m: next}
	b.mu.Unlock()
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
	old.readers.Wait()
	return errors.Join(old.m.Store().Flush(), old.m.Store().Close())
}
