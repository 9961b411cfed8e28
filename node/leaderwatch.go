package node

import (
	"context"
	"sync"
	"time"

	"github.com/chainfire/cfseed/node/raftloop"
)

// leaderWatch lets goroutines wait for a change of leader.
type leaderWatch struct {
	mu      sync.Mutex
	role    raftloop.Role
	changed chan struct{} // closed and replaced at each change
}

func newLeaderWatch() *leaderWatch { return &leaderWatch{changed: make(chan struct{})} }

func (l *leaderWatch) set(r raftloop.Role) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.role = r
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leaderWatch) current() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.role.Leader
}

// wait returns at the next change, after d, or when ctx ends.
func (l *leaderWatch) wait(ctx context.Context, d time.Duration) {
	l.mu.Lock()
	changed := l.changed
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *leaderWatch) term() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.role.Term
}
