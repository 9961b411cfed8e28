package node

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// silent is a leader that is asked and never answers.
type silent struct {
	chainfirev1.LeasesClient
	deaf chan struct{} // not nil: calls do not even end with their context until it is closed

	mu    sync.Mutex
	asked int
}

func (s *silent) until(ctx context.Context) error {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	if s.deaf != nil {
		<-s.deaf
	}
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func (s *silent) KeepAlive(ctx context.Context, _ *chainfirev1.KeepAliveRequest, _ ...grpc.CallOption) (*chainfirev1.KeepAliveResponse, error) {
	return nil, s.until(ctx)
}

func (s *silent) TimeToLive(ctx context.Context, _ *chainfirev1.TimeToLiveRequest, _ ...grpc.CallOption) (*chainfirev1.TimeToLiveResponse, error) {
	return nil, s.until(ctx)
}

// prompt is a leader that answers, or one that wants each lease asked for alone and
// is silent then.
type prompt struct {
	silent
	alone bool
}

func (p *prompt) KeepAlive(ctx context.Context, req *chainfirev1.KeepAliveRequest, _ ...grpc.CallOption) (*chainfirev1.KeepAliveResponse, error) {
	if p.alone && len(req.GetMore()) == 0 {
		return nil, p.until(ctx)
	}
	res := &chainfirev1.KeepAliveResponse{}
	for _, id := range req.GetMore() {
		if ttl := 10 * id; p.alone {
			res.More = append(res.More, askAlone)
		} else {
			res.More = append(res.More, ttl)
		}
	}
	return res, nil
}

func (p *prompt) TimeToLive(context.Context, *chainfirev1.TimeToLiveRequest, ...grpc.CallOption) (*chainfirev1.TimeToLiveResponse, error) {
	return &chainfirev1.TimeToLiveResponse{Ttl: 5}, nil
}

// leasesAt is a member's leases where others lead, by their clients.
func leasesAt(leaders map[uint64]chainfirev1.LeasesClient) *leases {
	leader := newLeaderWatch()
	s := newLeases(&backend{self: 1, core: &core{leader: leader, patience: 7 * time.Second, tick: time.Hour,
		inbox: newQueue[func(*replica.Replica) error](), done: make(chan struct{})}}, nil, leader)
	known := s.at
	s.at = func(ctx context.Context, leader uint64) (chainfirev1.LeasesClient, error) {
		if c := leaders[leader]; c != nil {
			return c, nil
		}
		return known(ctx, leader)
	}
	return s
}

const clients = 20

// TestSilentLeader: who waits for a leader that is silent asks the next one as soon
// as that is known, and nobody waits for those that do not.
func TestSilentLeader(t *testing.T) {
	direct, elected := []uint64{3}, []uint64{0, 3}
	for name, c := range map[string]struct {
		old  chainfirev1.LeasesClient
		then []uint64 // leads after 2
	}{
		"the next one is known at once":    {&silent{}, direct},
		"none is known for a while":        {&silent{}, elected},
		"it asks to be asked alone":        {&prompt{alone: true}, direct},
		"it leads again, and not for long": {&silent{}, []uint64{0, 2, 0, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := leasesAt(map[uint64]chainfirev1.LeasesClient{2: c.old, 3: &prompt{}})
				s.leader.set(raftloop.Role{Leader: 2, Term: 1})
				var all sync.WaitGroup
				for id := range int64(clients) {
					all.Go(func() {
						if ttl, err := s.keepAlive(t.Context(), id+1); err != nil || ttl != 10*(id+1) {
							t.Errorf("lease %d: %d, %v", id+1, ttl, err)
						}
					})
				}
				all.Go(func() {
					if res, err := s.timeToLive(t.Context(), 1, false); err != nil || res.GetTtl() != 5 {
						t.Error(res, err)
					}
				})
				synctest.Wait()
				began := time.Now()
				for i, leader := range c.then {
					s.leader.set(raftloop.Role{Leader: leader, Term: uint64(2 + i)})
					synctest.Wait()
				}
				if all.Wait(); time.Since(began) > 0 {
					t.Errorf("answered after %s", time.Since(began))
				}
			})
		})
	}
}

// TestDeafClient: a call at the leader before that does not end holds up its own
// caller alone.
func TestDeafClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &silent{deaf: make(chan struct{})}
		s := leasesAt(map[uint64]chainfirev1.LeasesClient{2: old, 3: &prompt{}})
		s.leader.set(raftloop.Role{Leader: 2, Term: 1})
		var first, others sync.WaitGroup
		ask := func(to *sync.WaitGroup, id int64) {
			to.Go(func() {
				if ttl, err := s.keepAlive(t.Context(), id); err != nil || ttl != 10*id {
					t.Errorf("lease %d: %d, %v", id, ttl, err)
				}
			})
			synctest.Wait()
		}
		began := time.Now()
		ask(&first, 1)
		ask(&others, 2)
		s.leader.set(raftloop.Role{Leader: 3, Term: 2})
		ask(&others, 3)
		if others.Wait(); time.Since(began) > 0 {
			t.Errorf("answered after %s", time.Since(began))
		}
		close(old.deaf)
		if first.Wait(); old.asked != 1 {
			t.Errorf("it was asked %d times", old.asked)
		}
	})
}

// TestStopLeavesTheLeader: a member that stops waits for no leader.
func TestStopLeavesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := leasesAt(map[uint64]chainfirev1.LeasesClient{2: &silent{}})
		s.leader.set(raftloop.Role{Leader: 2, Term: 1})
		var all sync.WaitGroup
		for id := range int64(clients) {
			all.Go(func() {
				if _, err := s.keepAlive(t.Context(), id+1); !fault.Is(err, fault.Unreachable) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.b.core.loop(ctx); err != nil {
			t.Error(err)
		}
		if all.Wait(); time.Since(began) > 0 {
			t.Errorf("ended after %s", time.Since(began))
		}
	})
}
