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
	now     *leadership
}

func newLeaderWatch() *leaderWatch {
	return &leaderWatch{changed: make(chan struct{}), now: newLeadership(0)}
}

// leadership is one leader, for as long as this member knows no other one.
type leadership struct {
	leader uint64          // 0: none is known
	over   context.Context // ends when that changes, and when this member stops
	end    context.CancelFunc
	others together // keep-alives that are forwarded to it
}

func newLeadership(leader uint64) *leadership {
	l := &leadership{leader: leader}
	l.over, l.end = context.WithCancel(context.Background())
	l.others.over = l.over
	return l
}

// under gives a context that ends with the leadership, too.
func (l *leadership) under(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.over, cancel)
	return ctx, func() { stop(); cancel() }
}

// wait returns when the leadership is over, after d, or when ctx ends.
func (l *leadership) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.over.Done():
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *leaderWatch) set(r raftloop.Role) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.role = r; r.Leader != l.now.leader {
		l.now.end()
		l.now = newLeadership(r.Leader)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// stop ends the leadership that there is: nobody hears of another one.
func (l *leaderWatch) stop() { l.leadership().end() }

func (l *leaderWatch) leadership() *leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
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
