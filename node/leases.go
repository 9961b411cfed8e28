package node

import (
	"context"
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/lessor"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// leases answers what only the leader knows of etcd's leases. As a service
// between members (chainfirev1.LeasesServer) it answers here or not at all, so
// that a call can not circle; keepAlive and timeToLive, for clients of this
// member, go to the leader, and to the next one while there is time.
type leases struct {
	chainfirev1.UnimplementedLeasesServer
	b      *backend
	lessor *lessor.Lessor
	leader *leaderWatch
	at     func(ctx context.Context, leader uint64) (chainfirev1.LeasesClient, error) // nil: this member leads
}

func newLeases(b *backend, l *lessor.Lessor, leader *leaderWatch) *leases {
	return &leases{b: b, lessor: l, leader: leader, at: func(ctx context.Context, leader uint64) (chainfirev1.LeasesClient, error) {
		conn, err := b.connTo(ctx, leader)
		if err != nil || conn == nil {
			return nil, err
		}
		return chainfirev1.NewLeasesClient(conn), nil
	}}
}

// newLessor keeps the time of leases. It hears of roles on the Ready loop, and on the
// apply worker of what is applied; there the leases are read.
func newLessor(m *member) *lessor.Lessor {
	began := time.Now()
	return lessor.New(lessor.Config{Options: m.n.cfg.lessor, Extend: m.n.cfg.Election, Behind: m.core.behind,
		Now:  func() time.Duration { return time.Since(began) },
		Read: func() ([]lease.Lease, error) { return m.state.machine().Leases() }})
}

// leaderPause is how long a call waits for another leader before it asks again.
const leaderPause = 50 * time.Millisecond

// keepAlive renews a lease, wherever the leader is, and gives its time to live
// in seconds, 0 when there is no such lease.
func (s *leases) keepAlive(ctx context.Context, id int64) (ttl int64, err error) {
	if ttl, done := s.renewed(id); done {
		return ttl, nil
	}
	req := &chainfirev1.KeepAliveRequest{Id: id}
	res, err := askLeader(ctx, s, func(ctx context.Context, l *leadership, c chainfirev1.LeasesClient) (*chainfirev1.KeepAliveResponse, error) {
		if c == nil {
			return s.KeepAlive(ctx, req)
		}
		if ttl, err := l.others.keepAlive(ctx, c, id, s.b.core.patience); err != nil || ttl != askAlone {
			return &chainfirev1.KeepAliveResponse{Ttl: ttl}, err
		}
		ctx, cancel := l.under(ctx)
		defer cancel()
		return c.KeepAlive(ctx, req)
	})
	return res.GetTtl(), err
}

// renewed answers what needs nobody else: at the leader, all but a few.
func (s *leases) renewed(id int64) (ttl int64, done bool) {
	if s.leader.current() != s.b.self {
		return 0, false
	}
	out, err := s.lessor.Renew(lessor.Confirmation{}, id)
	return out.TTL, err == nil && !out.Unconfirmed && out.Verdict == policy.Renewed
}

// timeToLive tells of a lease, wherever the leader is.
func (s *leases) timeToLive(ctx context.Context, id int64, keys bool) (*chainfirev1.TimeToLiveResponse, error) {
	req := &chainfirev1.TimeToLiveRequest{Id: id, Keys: keys}
	return askLeader(ctx, s, func(ctx context.Context, l *leadership, c chainfirev1.LeasesClient) (*chainfirev1.TimeToLiveResponse, error) {
		if c == nil {
			return s.TimeToLive(ctx, req)
		}
		ctx, cancel := l.under(ctx)
		defer cancel()
		return c.TimeToLive(ctx, req)
	})
}

// askLeader makes a call at the leader, with no client where that is this
// member, and again while only the leader is missing. A call at another member ends
// when that leads no more, however silent it is.
func askLeader[R any](ctx context.Context, s *leases, call func(context.Context, *leadership, chainfirev1.LeasesClient) (R, error)) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, s.b.core.patience)
	defer cancel()
	for {
		var res R
		leads := s.leader.leadership()
		client, err := s.at(ctx, leads.leader)
		if err == nil {
			if res, err = call(ctx, leads, client); err == nil {
				return res, nil
			}
			if client != nil {
				err = rpcfault.FromStatus("lease", err)
			}
			if client != nil && leads.over.Err() != nil {
				err = fault.New(fault.NotLeader, "lease", err).WithHint("ask again")
			}
		}
		if code := fault.CodeOf(err); code != fault.NotLeader && code != fault.Unreachable {
			return res, err
		}
		leads.wait(ctx, leaderPause)
		select {
		case <-ctx.Done():
			return res, err
		case <-s.b.core.done:
			return res, errStopping()
		default:
		}
	}
}

// KeepAlive renews a lease, or many, at this member, which must lead.
func (s *leases) KeepAlive(ctx context.Context, req *chainfirev1.KeepAliveRequest) (*chainfirev1.KeepAliveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.b.core.patience)
	defer cancel()
	if len(req.GetMore()) > 0 {
		return s.keepMany(ctx, req.GetMore())
	}
	var by lessor.Confirmation
	for {
		out, err := s.lessor.Renew(by, req.GetId())
		if err != nil {
			return nil, err
		}
		switch {
		case out.Unconfirmed:
			if by, err = s.confirm(ctx); err != nil {
				return nil, err
			}
		case out.Verdict == policy.Checkpointed:
			if _, err := s.b.core.Propose(ctx, envelope.LeaseCheckpoint, &pb.LeaseCheckpointRequest{
				Checkpoints: []*pb.LeaseCheckpoint{{ID: req.GetId()}}}); err != nil {
				return nil, err
			}
		case out.Verdict == policy.RanOut:
			select {
			case <-out.Ended:
			case <-ctx.Done():
				return nil, fault.New(fault.Timeout, "renew lease", ctx.Err()).WithHint("the lease has run out and is about to be revoked")
			}
		default:
			return &chainfirev1.KeepAliveResponse{Ttl: out.TTL}, nil
		}
	}
}

// keepMany renews leases as far as nothing but a quorum has to be waited for.
func (s *leases) keepMany(ctx context.Context, ids []int64) (*chainfirev1.KeepAliveResponse, error) {
	if len(ids) > mostTogether {
		return nil, fault.Newf(fault.Usage, "renew leases", "%d leases in one request, at most %d", len(ids), mostTogether)
	}
	res := &chainfirev1.KeepAliveResponse{More: make([]int64, len(ids))}
	var by lessor.Confirmation
	for i, id := range ids {
		out, err := s.lessor.Renew(by, id)
		if err == nil && out.Unconfirmed {
			if by, err = s.confirm(ctx); err == nil {
				out, err = s.lessor.Renew(by, id)
			}
		}
		if err != nil {
			return nil, err
		}
		if res.More[i] = out.TTL; out.Unconfirmed || out.Verdict == policy.Checkpointed || out.Verdict == policy.RanOut {
			res.More[i] = askAlone
		}
	}
	return res, nil
}

// TimeToLive tells of a lease at this member, which must lead.
func (s *leases) TimeToLive(ctx context.Context, req *chainfirev1.TimeToLiveRequest) (*chainfirev1.TimeToLiveResponse, error) {
	if _, err := s.confirm(ctx); err != nil {
		return nil, err
	}
	out := &chainfirev1.TimeToLiveResponse{}
	if err := s.onLoop(ctx, func(r *replica.Replica) error {
		left, granted, err := s.lessor.Left(r, req.GetId())
		out.Ttl, out.GrantedTtl = int64(left/time.Second), granted
		return err
	}); err != nil || out.GetGrantedTtl() == 0 || !req.GetKeys() {
		return out, err
	}
	err := s.b.state.read(func(m *state.Machine) (err error) { out.Keys, err = m.LeaseKeys(req.GetId()); return err })
	return out, err
}

// confirm makes sure that this member leads and has applied what was committed:
// one round of the quorum, shared by all who ask at a time, and by those who renew
// leases for a while afterwards.
func (s *leases) confirm(ctx context.Context) (got lessor.Confirmation, err error) {
	if err := s.b.core.readIndex(ctx, func(r *replica.Replica) (err error) {
		got, err = s.lessor.Ask(r)
		return err
	}); err != nil {
		return lessor.Confirmation{}, err
	}
	s.lessor.Confirmed(got)
	return got, nil
}

// onLoop runs fn on the Ready loop and gives its error.
func (s *leases) onLoop(ctx context.Context, fn func(*replica.Replica) error) error {
	var err error
	if derr := s.b.core.do(ctx, func(r *replica.Replica) { err = fn(r) }); derr != nil {
		return derr
	}
	return err
}

// leaseIDs makes IDs for leases that are granted without one. They count from a
// number that is random for each start of a process.
type leaseIDs struct{ last atomic.Uint64 }

func newLeaseIDs(boot ident.Nonce) *leaseIDs {
	ids := &leaseIDs{}
	ids.last.Store(binary.LittleEndian.Uint64(boot[:8]))
	return ids
}

// next gives an ID above 0.
func (i *leaseIDs) next() int64 {
	for {
		if id := int64(i.last.Add(1) & math.MaxInt64); id != 0 {
			return id
		}
	}
}

// minLeaseTTL is the shortest time to live that is granted, in seconds: one and
// a half election timeouts, as etcd has it, so that a lease outlives an election.
func minLeaseTTL(cfg Config) int64 {
	return int64(math.Ceil((time.Duration(cfg.ticks()*3/2) * cfg.Heartbeat).Seconds()))
}
