package join

import (
	"context"
	"crypto/subtle"
	"slices"
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
	cfg AwaitConfig

	mu        sync.Mutex
	state     string  // waiting | joining | member
	join      *joinIn // under way, with somebody who may follow it; else nil
	invited   bool    // join was not taken up yet
	changed   chan struct{}
	receiving bool
}

// joinIn is one join, as its followers see it.
type joinIn struct {
	req    *chainfirev1.JoinRequest
	events []event
	done   bool
	err    error
}

// event is numbered, so that a follower knows which it has seen. Of progress
// reports in a row only the last is kept.
type event struct {
	number int
	msg    *chainfirev1.MemberAddResponse
}

func (j *joinIn) add(msg *chainfirev1.MemberAddResponse) {
	number := 1
	if n := len(j.events); n > 0 {
		last := j.events[n-1]
		number = last.number + 1
		if last.msg.GetTransfer() != nil && msg.GetTransfer() != nil {
			j.events = j.events[:n-1]
		}
	}
	j.events = append(j.events, event{number, msg})
}

func (j *joinIn) after(number int) []event {
	i := len(j.events)
	for i > 0 && j.events[i-1].number > number {
		i--
	}
	return slices.Clone(j.events[i:])
}

// NewAwait returns a node's waiting room.
func NewAwait(cfg AwaitConfig) *Await {
	return &Await{cfg: cfg, state: "waiting", changed: make(chan struct{})}
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
		FreeBytes: free, MemberId: a.join.request().GetMemberId()}, nil
}

// Join starts a join, or follows the one under way.
func (a *Await) Join(req *chainfirev1.JoinRequest, out grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	if err := a.accept("join", req.GetClusterId(), req.GetJoinToken()); err != nil {
		return err
	}
	j, err := a.invite(req)
	if err != nil {
		return err
	}
	for sent := 0; ; {
		events, done, changed, err := a.since(j, sent)
		for _, ev := range events {
			if err := out.Send(ev.msg); err != nil {
				return err
			}
			sent = ev.number
		}
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

func (j *joinIn) request() *chainfirev1.JoinRequest {
	if j == nil {
		return nil
	}
	return j.req
}

// invite begins a join, or finds the one to follow.
func (a *Await) invite(req *chainfirev1.JoinRequest) (*joinIn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.join != nil && (a.join.req.GetMemberId() != req.GetMemberId() || a.join.req.GetClusterId() != req.GetClusterId()):
		return nil, fault.Newf(fault.InUse, "join", "a join as member %s is under way", ident.FormatID(a.join.req.GetMemberId()))
	case a.join != nil:
		return a.join, nil
	case a.receiving:
		return nil, fault.Newf(fault.InUse, "join", "a seed is being received").WithHint("wait for the push to end")
	case a.state == "member":
		return nil, fault.Newf(fault.Refused, "join", "this node is a member already")
	}
	a.join, a.invited = &joinIn{req: req}, a.state == "waiting"
	a.state = "joining"
	a.signal()
	return a.join, nil
}

func (a *Await) since(j *joinIn, number int) ([]event, bool, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return j.after(number), j.done, a.changed, j.err
}

// Invitation waits for somebody to call Join.
func (a *Await) Invitation(ctx context.Context) (*chainfirev1.JoinRequest, error) {
	for {
		a.mu.Lock()
		changed := a.changed
		if a.invited {
			a.invited = false
			req := a.join.req
			a.mu.Unlock()
			return req, nil
		}
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, asFault(ctx)
		}
	}
}

// Say adds an event for those who follow the join.
func (a *Await) Say(ev *chainfirev1.MemberAddResponse) {
	a.update(func() {
		if a.join != nil {
			a.join.add(ev)
		}
	})
}

// Finish ends the join for its followers; with an error the node waits again.
func (a *Await) Finish(err error) {
	state := "member"
	if err != nil {
		state = "waiting"
	}
	a.end(state, err)
}

// Stuck ends the followers' patience, but not the join: the next caller of Join
// follows what comes of it.
func (a *Await) Stuck(err error) { a.end("joining", err) }

func (a *Await) end(state string, err error) {
	a.update(func() {
		if a.join != nil {
			a.join.done, a.join.err = true, err
		}
		a.join, a.invited, a.state = nil, false, state
	})
}

// Member marks a node that waits for nobody (any more).
func (a *Await) Member() { a.end("member", nil) }

func (a *Await) update(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
	a.signal()
}

// signal wakes all who wait; mu is held.
func (a *Await) signal() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Receive takes a pushed seed; the bytes wait here for a join.
func (a *Await) Receive(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
	a.mu.Lock()
	busy := a.receiving || a.join != nil || a.state != "waiting"
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
