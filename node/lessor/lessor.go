// Package lessor keeps the time of etcd's leases while a member leads: it tells
// the timers of package policy what happens, and proposes what they decide.
package lessor

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
)

// Config is what a Lessor is made of.
type Config struct {
	Options policy.LessorOptions
	Extend  time.Duration        // what a new leader adds to each lease: an election timeout
	Now     func() time.Duration // since any fixed start, monotonic
	// Read reads the leases in the order of applying, after what was handed out
	// before the call and before what comes after, and has then called between the
	// calls of Applied for the one and the other.
	Read func(then func([]lease.Lease))
}

// Lessor belongs to the goroutine that owns the replica, so that whether this
// member leads, what is decided and what is proposed are of one moment.
//
// A new leader reads the leases before the entries of its term are applied. So
// when a read index of that term is there, the timers are, too.
type Lessor struct {
	cfg     Config
	timers  *policy.Lessor
	term    uint64                  // in which this member leads; 0: it does not
	waiting map[int64]chan struct{} // closed at the end of a lease; however many wait, one
}

// New returns a Lessor of a member that does not lead.
func New(cfg Config) *Lessor {
	return &Lessor{cfg: cfg, timers: policy.NewLessor(cfg.Options), waiting: map[int64]chan struct{}{}}
}

// Role follows the leadership.
func (l *Lessor) Role(r raftloop.Role) {
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
	l.cfg.Read(func(all []lease.Lease) {
		if l.term == term {
			l.timers.Promote(l.cfg.Now(), all, l.cfg.Extend)
		}
	})
}

// Applied takes what entries did to leases, before their callers hear of it.
func (l *Lessor) Applied(results []state.Result) {
	for _, res := range results {
		for _, c := range res.Leases {
			l.timers.Apply(l.cfg.Now(), c)
			if c.Gone {
				l.wake(c.ID)
			}
		}
	}
}

// wake tells those who wait for the end of a lease.
func (l *Lessor) wake(id int64) {
	if ended := l.waiting[id]; ended != nil {
		close(ended)
		delete(l.waiting, id)
	}
}

// Tick proposes what is due. The entries carry this member's term: if another
// one leads already they are never committed.
func (l *Lessor) Tick(r *replica.Replica) error {
	if l.timers.Len() == 0 || !inContact(r.Status()) {
		return nil
	}
	w := l.timers.Tick(l.cfg.Now())
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
func (l *Lessor) leads(r *replica.Replica) error {
	if term, leading := r.Leads(); !leading || term != l.term || !l.timers.Leading() {
		return ErrNotLeading()
	}
	return nil
}

// ErrNotLeading says that another member has to be asked.
func ErrNotLeading() error {
	return fault.Newf(fault.NotLeader, "lease", "this member does not lead").WithHint("ask again")
}

// Renewal is the outcome of one try to renew a lease.
type Renewal struct {
	Verdict policy.Verdict
	TTL     int64 // seconds
	// Ended is closed when a lease that ran out is revoked, or this member leads
	// no more.
	Ended <-chan struct{}
}

// Renew starts a lease's time again. Whoever calls it has made sure by a read
// index that this member led after the lease's keep-alive came in.
func (l *Lessor) Renew(r *replica.Replica, id int64) (Renewal, error) {
	if err := l.leads(r); err != nil {
		return Renewal{}, err
	}
	var out Renewal
	if out.TTL, out.Verdict = l.timers.Renew(l.cfg.Now(), id); out.Verdict == policy.RanOut {
		out.Ended = l.endOf(id)
	}
	return out, nil
}

// endOf is closed when the lease is revoked, or this member leads no more. All who
// wait share it: an alarm may put the end off for long, and clients ask again.
func (l *Lessor) endOf(id int64) <-chan struct{} {
	ended := l.waiting[id]
	if ended == nil {
		ended = make(chan struct{})
		l.waiting[id] = ended
	}
	return ended
}

// Left gives what is left of a lease and what was granted; granted 0 when there
// is none.
func (l *Lessor) Left(r *replica.Replica, id int64) (left time.Duration, granted int64, err error) {
	if err := l.leads(r); err != nil {
		return 0, 0, err
	}
	left, granted, _ = l.timers.Left(l.cfg.Now(), id)
	return left, granted, nil
}

// propose asks for an entry whose outcome shows in the tables.
func propose(r *replica.Replica, kind envelope.Kind, body proto.Message) error {
	b, err := proto.Marshal(body)
	if err != nil {
		return err
	}
	r.Propose(kind, b, func(state.Result, error) {})
	return nil
}
