package node

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
)

// lessor keeps the time of etcd's leases while this member leads. Everything of
// it runs on the Ready loop, so that whether it leads, what it decides and what
// it proposes are of one moment.
//
// A new leader reads the leases on the apply worker, in the queue before the
// entries of its term. So when a read index of that term is there, the timers
// are, too; and what the worker applied before it read is in what it read, what
// it applies after comes to applied after it.
type lessor struct {
	timers  *policy.Lessor
	began   time.Time
	extend  time.Duration // what a new leader adds to each lease: an election timeout
	read    func(then func([]lease.Lease))
	term    uint64 // in which this member leads; 0: it does not
	waiting map[int64][]chan struct{}
}

func newLessor(m *member) *lessor {
	l := &lessor{timers: policy.NewLessor(m.n.cfg.lessor), began: time.Now(), extend: m.n.cfg.Election,
		waiting: map[int64][]chan struct{}{}}
	l.read = func(then func([]lease.Lease)) {
		m.core.applies.push(applyWork{run: func() error {
			all, err := m.state.machine().Leases()
			if err != nil {
				return err
			}
			m.core.post(func(*replica.Replica) error { then(all); return nil })
			return nil
		}})
	}
	return l
}

func (l *lessor) now() time.Duration { return time.Since(l.began) }

// role follows the leadership.
func (l *lessor) role(r raftloop.Role) {
	leads := r.State == raft.StateLeader
	if leads && r.Term == l.term {
		return
	}
	l.timers.Demote()
	for id := range l.waiting {
		l.wake(id)
	}
	if l.term = 0; !leads {
		return
	}
	term := r.Term
	l.term = term
	l.read(func(all []lease.Lease) {
		if l.term == term {
			l.timers.Promote(l.now(), all, l.extend)
		}
	})
}

// applied takes what entries did to leases, before their callers hear of it.
func (l *lessor) applied(results []state.Result) {
	for _, res := range results {
		for _, c := range res.Leases {
			l.timers.Apply(l.now(), c)
			if c.Gone {
				l.wake(c.ID)
			}
		}
	}
}

// wake tells those who wait for the end of a lease.
func (l *lessor) wake(id int64) {
	for _, ended := range l.waiting[id] {
		close(ended)
	}
	delete(l.waiting, id)
}

// tick proposes what is due. The entries carry this member's term: if another
// one leads already they are never committed.
func (l *lessor) tick(r *replica.Replica) error {
	if !l.timers.Leading() || !inContact(r.Status()) {
		return nil
	}
	w := l.timers.Tick(l.now())
	for _, id := range w.Revoke {
		if err := propose(r, envelope.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id}); err != nil {
			return err
		}
	}
	if len(w.Checkpoint) == 0 {
		return nil
	}
	req := &pb.LeaseCheckpointRequest{}
	for _, c := range w.Checkpoint {
		req.Checkpoints = append(req.Checkpoints, &pb.LeaseCheckpoint{ID: c.ID, Remaining_TTL: c.Remaining})
	}
	return propose(r, envelope.LeaseCheckpoint, req)
}

// inContact reports whether a leader hears a quorum of the voters.
func inContact(st replica.Status) bool {
	active := 0
	for _, id := range st.Voters {
		if id == st.ID || st.Progress[id].RecentActive {
			active++
		}
	}
	return st.IsLeader() && active > len(st.Voters)/2
}

// leads refuses when this member does not keep the time of leases now.
func (l *lessor) leads(r *replica.Replica) error {
	if term, leading := r.Leads(); !leading || term != l.term || !l.timers.Leading() {
		return errNotLeading()
	}
	return nil
}

func errNotLeading() error {
	return fault.Newf(fault.NotLeader, "lease", "this member does not lead").WithHint("ask again")
}

// renewal is the outcome of one try to renew a lease.
type renewal struct {
	verdict policy.Verdict
	ttl     int64           // seconds
	ended   <-chan struct{} // of a lease that ran out; see endOf
}

func (l *lessor) renew(r *replica.Replica, id int64) (renewal, error) {
	if err := l.leads(r); err != nil {
		return renewal{}, err
	}
	var out renewal
	if out.ttl, out.verdict = l.timers.Renew(l.now(), id); out.verdict == policy.RanOut {
		out.ended = l.endOf(id)
	}
	return out, nil
}

// endOf is closed when the lease is revoked, or this member leads no more.
func (l *lessor) endOf(id int64) <-chan struct{} {
	ended := make(chan struct{})
	l.waiting[id] = append(l.waiting[id], ended)
	return ended
}

// left gives what is left of a lease and what was granted; granted 0 when there
// is none.
func (l *lessor) left(r *replica.Replica, id int64) (left time.Duration, granted int64, err error) {
	if err := l.leads(r); err != nil {
		return 0, 0, err
	}
	left, granted, _ = l.timers.Left(l.now(), id)
	return left, granted, nil
}
