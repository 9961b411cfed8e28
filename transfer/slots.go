package transfer

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// slots bounds how many seeds are served at a time. The queue before them is
// bounded in length and in time.
type slots struct {
	free     chan struct{}
	queue    int64
	deadline time.Duration
	waiting  atomic.Int64
}

func newSlots(n, queue int, deadline time.Duration) *slots {
	s := &slots{free: make(chan struct{}, n), queue: int64(queue), deadline: deadline}
	for range n {
		s.free <- struct{}{}
	}
	return s
}

// try takes a slot that is free now.
func (s *slots) try() bool {
	select {
	case <-s.free:
		return true
	default:
		return false
	}
}

// acquire takes a slot, waiting for one if it must. fault.Unreachable says that
// the queue is full, fault.Timeout that no slot came free: both mean that
// another member, or a later call, may do.
func (s *slots) acquire(ctx context.Context) error {
	const op = "wait for a seed slot"
	if s.try() {
		return nil
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.queue {
		return fault.Newf(fault.Unreachable, op, "%d seeds are being served and %d wait", cap(s.free), s.queue).
			WithHint("take another member as source, or try again when a seed is done")
	}
	timer := time.NewTimer(s.deadline)
	defer timer.Stop()
	select {
	case <-s.free:
		return nil
	case <-timer.C:
		return fault.Newf(fault.Timeout, op, "none of %d came free in %s", cap(s.free), s.deadline).
			WithHint("take another member as source, or try again when a seed is done")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slots) release() { s.free <- struct{}{} }

// state says how many slots there are, are free, and are waited for.
func (s *slots) state() (all, free, waiting int) {
	return cap(s.free), len(s.free), int(s.waiting.Load())
}
