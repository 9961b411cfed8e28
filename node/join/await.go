package join

import (
	"context"
	"crypto/subtle"
	"sync"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// AwaitConfig is what a node that waits for a seed says of itself and whom it
// accepts (S11): with a token or a cluster ID, nobody else.
type AwaitConfig struct {
	Name      string
	Directory func() ident.Nonce
	Token     string
	ClusterID uint64
	FreeBytes func() (uint64, error)
	// Receive takes a pushed seed; it is called once at a time.
	Receive func(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error
}

// Await implements chainfirev1.AwaitServer. One join runs at a time; whoever
// calls Join follows the one that runs.
type Await struct {
	chainfirev1.UnimplementedAwaitServer
	cfg     AwaitConfig
	invited chan *chainfirev1.JoinRequest

	mu        sync.Mutex
	state     string // waiting | joining | member
	current   *chainfirev1.JoinRequest
	events    []*chainfirev1.MemberAddResponse
	err       error
	done      bool
	changed   chan struct{} // closed and replaced at each change
	receiving bool
}

// NewAwait returns a node's waiting room.
func NewAwait(cfg AwaitConfig) *Await {
	return &Await{cfg: cfg, invited: make(chan *chainfirev1.JoinRequest, 1), state: "waiting", changed: make(chan struct{})}
}

func (a *Await) accept(op string, cluster uint64, token string) error {
	if a.cfg.Token != "" && subtle.ConstantTimeCompare([]byte(a.cfg.Token), []byte(token)) != 1 {
		return fault.Newf(fault.Permission, op, "the join token is not the one this node was started with").
			WithHint("give --join-token to `cfseed member add` or `cfseed push`")
	}
	if a.cfg.ClusterID != 0 && a.cfg.ClusterID != cluster {
		return fault.Newf(fault.Refused, op, "this node waits for cluster %s, not for %s",
			ident.FormatID(a.cfg.ClusterID), ident.FormatID(cluster))
	}
	return nil
}

// Probe says who waits here.
func (a *Await) Probe(_ context.Context, req *chainfirev1.ProbeRequest) (*chainfirev1.ProbeResponse, error) {
	if err := a.accept("probe", req.GetClusterId(), req.GetJoinToken()); err != nil {
		return nil, err
	}
	free, err := a.cfg.FreeBytes()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &chainfirev1.ProbeResponse{Name: a.cfg.Name, DirectoryNonce: a.cfg.Directory().Bytes(), State: a.state,
		FreeBytes: free, MemberId: a.current.GetMemberId()}, nil
}

// Join starts a join, or follows the one under way.
func (a *Await) Join(req *chainfirev1.JoinRequest, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	if err := a.accept("join", req.GetClusterId(), req.GetJoinToken()); err != nil {
		return err
	}
	if err := a.invite(req); err != nil {
		return err
	}
	for sent := 0; ; {
		events, done, changed, err := a.since(sent)
		for _, ev := range events {
			if err := out.Send(ev); err != nil {
				return err
			}
		}
		sent += len(events)
		if done {
			return err
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (a *Await) invite(req *chainfirev1.JoinRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil {
		if a.current.GetMemberId() != req.GetMemberId() || a.current.GetClusterId() != req.GetClusterId() {
			return fault.Newf(fault.InUse, "join", "a join as member %s is under way", ident.FormatID(a.current.GetMemberId()))
		}
		return nil
	}
	if a.receiving {
		return fault.Newf(fault.InUse, "join", "a seed is being received").WithHint("wait for the push to end")
	}
	if a.state != "waiting" {
		return fault.Newf(fault.Refused, "join", "this node is a member already")
	}
	a.current, a.state, a.events, a.err, a.done = req, "joining", nil, nil, false
	a.invited <- req // one slot, and current was nil: never blocks
	return nil
}

func (a *Await) since(n int) ([]*chainfirev1.MemberAddResponse, bool, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events[min(n, len(a.events)):], a.done, a.changed, a.err
}

// Invitation waits for somebody to call Join.
func (a *Await) Invitation(ctx context.Context) (*chainfirev1.JoinRequest, error) {
	select {
	case req := <-a.invited:
		return req, nil
	case <-ctx.Done():
		return nil, asFault(ctx)
	}
}

// Say adds an event for those who follow the join.
func (a *Await) Say(ev *chainfirev1.MemberAddResponse) {
	a.update(func() { a.events = append(a.events, ev) })
}

// Finish ends the join for its followers; with an error the node waits again.
func (a *Await) Finish(err error) {
	a.update(func() {
		a.done, a.err = true, err
		a.current = nil
		a.state = "waiting"
		if err == nil {
			a.state = "member"
		}
	})
}

// Member marks a node that waits for nobody (any more).
func (a *Await) Member() { a.update(func() { a.state = "member" }) }

func (a *Await) update(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Receive takes a pushed seed; the bytes wait here for a join.
func (a *Await) Receive(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
	a.mu.Lock()
	busy := a.receiving || a.current != nil || a.state != "waiting"
	if !busy {
		a.receiving = true
	}
	a.mu.Unlock()
	if busy {
		return fault.Newf(fault.InUse, "receive", "this node is not waiting for a seed").
			WithHint("another seed or join is under way, or it is a member already")
	}
	defer func() { a.update(func() { a.receiving = false }) }()
	return a.cfg.Receive(stream)
}

// Accept applies the waiting node's rule to a push (S11).
func (a *Await) Accept(cluster uint64, token string) error {
	return a.accept("receive", cluster, token)
}
