package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

const (
	// mostTogether bounds the keep-alives of one request to the leader.
	mostTogether = 1000
	// askAlone is answered for a lease whose keep-alive would hold up the others'.
	askAlone = -1
)

// together forwards keep-alives to one leader. One request is out at a time; those
// that come meanwhile go with the next one. It has no goroutine: a caller whose turn
// it is asks for all who wait. An old leader may be silent: nobody stays with it when
// it is over, and who asks the next one has another together.
type together struct {
	over context.Context // the leadership

	mu      sync.Mutex
	busy    bool // somebody has the turn
	waiting []*forwarded
}

// forwarded is a keep-alive that waits. ttl and err are there when done is closed.
type forwarded struct {
	id   int64
	turn chan struct{} // closed when its caller is to ask
	done chan struct{}
	ttl  int64
	err  error
}

// keepAlive gives the lease's time to live in seconds, 0 when there is no such
// lease, askAlone when it has to be asked for alone.
func (t *together) keepAlive(ctx context.Context, c chainfirev1.LeasesClient, id int64, patience time.Duration) (ttl int64, err error) {
	f := &forwarded{id: id, turn: make(chan struct{}), done: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, f)
	if !t.busy {
		t.next()
	}
	t.mu.Unlock()
	select {
	case <-f.done:
		return f.ttl, f.err
	case <-ctx.Done():
		t.leave(f)
		return 0, status.FromContextError(ctx.Err()).Err()
	case <-t.over.Done():
		t.leave(f)
		return 0, status.FromContextError(t.over.Err()).Err()
	case <-f.turn:
	}
	t.mu.Lock()
	n := min(len(t.waiting), mostTogether)
	all := slices.Clone(t.waiting[:n]) // f is the first
	t.waiting = t.waiting[n:]
	t.mu.Unlock()
	// Others wait for this call, so it outlives its caller, not the leadership.
	ctx, cancel := context.WithTimeout(t.over, patience)
	defer cancel()
	ask(ctx, c, all)
	t.mu.Lock()
	t.next()
	t.mu.Unlock()
	return f.ttl, f.err
}

// next gives the turn to whoever waits longest.
func (t *together) next() {
	if t.busy = len(t.waiting) > 0; t.busy {
		close(t.waiting[0].turn)
	}
}

// leave takes a caller out that waits no more, and hands on its turn.
func (t *together) leave(f *forwarded) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, f)
	if i < 0 {
		return // asked for by another
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	select {
	case <-f.turn:
		t.next()
	default:
	}
}

// ask makes one request for all.
func ask(ctx context.Context, c chainfirev1.LeasesClient, all []*forwarded) {
	req := &chainfirev1.KeepAliveRequest{}
	for _, f := range all {
		req.More = append(req.More, f.id)
	}
	res, err := c.KeepAlive(ctx, req)
	for i, f := range all {
		switch f.ttl = askAlone; {
		case err != nil:
			f.ttl, f.err = 0, err
		case len(res.GetMore()) == len(all):
			f.ttl = res.GetMore()[i]
		}
		close(f.done)
	}
}
