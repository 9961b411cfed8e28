package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// leaderOf answers keep-alives with ten times the ID, once it is let.
type leaderOf struct {
	chainfirev1.LeasesClient
	asked chan []int64
	let   chan error
	short bool // a leader that knows nothing of many at a time
}

func (l *leaderOf) KeepAlive(_ context.Context, req *chainfirev1.KeepAliveRequest, _ ...grpc.CallOption) (*chainfirev1.KeepAliveResponse, error) {
	l.asked <- req.GetMore()
	res := &chainfirev1.KeepAliveResponse{}
	for _, id := range req.GetMore() {
		if !l.short {
			res.More = append(res.More, 10*id)
		}
	}
	return res, <-l.let
}

func (t *together) waits() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// TestKeepAlivesTogether: what comes while a request is out goes with the next one,
// each gets its own answer, and who leaves holds up nobody.
func TestKeepAlivesTogether(t *testing.T) {
	const late = 20
	l := &leaderOf{asked: make(chan []int64), let: make(chan error)}
	all := together{over: t.Context()}
	var wg sync.WaitGroup
	start := func(ctx context.Context, id int64, want codes.Code) {
		wg.Go(func() {
			ttl, err := all.keepAlive(ctx, l, id, time.Minute)
			if status.Code(err) != want || (want == codes.OK && ttl != 10*id) {
				t.Errorf("lease %d: %d, %v", id, ttl, err)
			}
		})
	}
	start(t.Context(), 1, codes.OK)
	if got := <-l.asked; len(got) != 1 {
		t.Errorf("%d leases in the first request", len(got))
	}
	leaving, leave := context.WithCancel(t.Context())
	start(leaving, 100, codes.Canceled)
	waitFor(t, "the one that leaves", func() bool { return all.waits() == 1 })
	for id := range int64(late) {
		start(t.Context(), 2+id, codes.OK)
	}
	waitFor(t, "the others", func() bool { return all.waits() == late+1 })
	leave()
	waitFor(t, "one to leave", func() bool { return all.waits() == late })
	l.let <- nil
	if got := <-l.asked; len(got) != late {
		t.Errorf("%d leases in the second request", len(got))
	}
	l.let <- nil
	wg.Wait()
	if all.busy || len(all.waiting) != 0 {
		t.Error("somebody is left behind")
	}

	start(t.Context(), 1, codes.Unavailable)
	<-l.asked
	l.let <- status.Error(codes.Unavailable, "lost")
	wg.Wait()
	l.short = true
	wg.Go(func() {
		if ttl, err := all.keepAlive(t.Context(), l, 1, time.Minute); err != nil || ttl != askAlone {
			t.Errorf("of a leader that takes one at a time: %d, %v", ttl, err)
		}
	})
	<-l.asked
	l.let <- nil
	wg.Wait()
}

// TestTurnIsHandedOn: a caller that leaves as its turn comes gives it to the next.
func TestTurnIsHandedOn(t *testing.T) {
	l := &leaderOf{asked: make(chan []int64, 1), let: make(chan error, 1)}
	l.let <- nil
	gone := &forwarded{id: 1, turn: make(chan struct{}), done: make(chan struct{})}
	all := together{over: t.Context(), waiting: []*forwarded{gone}}
	all.next()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if ttl, err := all.keepAlive(t.Context(), l, 2, time.Minute); err != nil || ttl != 20 {
			t.Errorf("%d, %v", ttl, err)
		}
	}()
	waitFor(t, "the next", func() bool { return all.waits() == 2 })
	all.leave(gone)
	<-ended
	if got := <-l.asked; len(got) != 1 || got[0] != 2 || all.busy {
		t.Errorf("asked for %d, busy %t", got, all.busy)
	}
}
