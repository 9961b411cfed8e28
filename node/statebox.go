package node

import (
	"errors"
	"sync"

	"github.com/chainfire/cfseed/internal/state"
)

// stateBox holds the current state machine. A Raft snapshot replaces it (S8);
// whoever reads holds it open meanwhile.
type stateBox struct {
	mu sync.RWMutex
	m  *state.Machine
}

// machine gives the current machine to the apply worker, the only one that
// replaces it, and to readers of its cached copies, which stay valid.
func (b *stateBox) machine() *state.Machine {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.m
}

// read runs fn while the machine can not be closed.
func (b *stateBox) read(fn func(*state.Machine) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.m == nil {
		return errStopping()
	}
	return fn(b.m)
}

// replace closes the machine and opens the next one.
func (b *stateBox) replace(open func() (*state.Machine, error)) error {
	next, err := open()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.m
	b.m = next
	return old.Store().Close()
}

// close ends all reading; the store is flushed first.
func (b *stateBox) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m == nil {
		return nil
	}
	old := b.m
	b.m = nil
	return errors.Join(old.Store().Flush(), old.Store().Close())
}
