package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// idleTimer knows when a peer last showed progress: a message taken or given,
// or enough bytes on its connection.
type idleTimer struct {
	mu      sync.Mutex
	last    time.Time
	counter *byteCounter // may be nil
	seen    uint64
	paused  time.Time // since when; zero = it is not
	turns   int
}

func newIdleTimer(counter *byteCounter) *idleTimer {
	t := &idleTimer{counter: counter, last: time.Now()}
	if counter != nil {
		t.seen = counter.n.Load()
	}
	return t
}

// touch notes progress now.
func (t *idleTimer) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.paused = time.Now(), time.Time{}
}

// pause stops the clock while it is not the peer's turn; touch starts it again.
func (t *idleTimer) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop()
}

// stop stops the clock. t.mu is held.
func (t *idleTimer) stop() {
	if t.paused.IsZero() {
		t.paused = time.Now()
	}
}

// resume lets the clock go on as if it had not been paused.
func (t *idleTimer) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused.IsZero() {
		t.last, t.paused = t.last.Add(time.Since(t.paused)), time.Time{}
	}
}

// turn says that somebody waits for the peer, until over. Between turns the clock
// is stopped.
func (t *idleTimer) turn() {
	t.resume()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turns++
}

// over ends a turn.
func (t *idleTimer) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns--; t.turns == 0 {
		t.stop()
	}
}

// since is the time without progress.
func (t *idleTimer) since() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused.IsZero() {
		return 0
	}
	if t.counter != nil {
		if n := t.counter.n.Load(); n-t.seen >= noise {
			t.seen, t.last = n, time.Now()
		}
	}
	return time.Since(t.last)
}

// pollEvery is how often a watchdog with this limit looks, so that it is late
// by less than a tenth.
func pollEvery(limit time.Duration) time.Duration { return max(limit/20, time.Millisecond) }

// wait returns when done is closed (nil), when ctx ends (its cause), or with
// fault.Timeout when t shows no progress for limit.
func (t *idleTimer) wait(ctx context.Context, done <-chan struct{}, limit time.Duration, op string) error {
	tick := time.NewTicker(pollEvery(limit))
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if idle := t.since(); idle >= limit {
				return fault.Newf(fault.Timeout, op, "no progress for %s", limit)
			}
		}
	}
}
