// Package lessor keeps the time of etcd's leases while a member leads: it tells
// the timers of package policy what happens, and proposes what they decide.
//
// A keep-alive is answered without an entry, so the answer must be one that the
// next leader stands by. What makes it so is a read index that a quorum answered
// in this member's term: no other leader began before it was asked for. The next
// one gives each lease its whole time from its own beginning on, and Config.Extend
// more. So a renewal less than Extend after a read index was asked for ends no
// later here than there, whoever leads meanwhile, and one read index serves all
// renewals for half of that (the other half is for clocks that differ in their
// speed). No message has to be waited for in between, and a member that was cut
// off renews nothing once that time is over.
package lessor

import (
	"sync"
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
	// Read gives the leases as the results leave them that Applied was called with.
	// It is called in there.
	Read func() ([]lease.Lease, error)
	// Behind reports, on any goroutine, whether something is committed that Applied
	// has not seen: a lease may be gone already.
	Behind func() bool
}

// Lessor is used by the goroutine that owns the replica, so that whether this
// member leads, what is decided and what is proposed are of one moment, and by the
// one that applies. Renew, the most frequent call by far, is for any goroutine.
//
// A new leader keeps time from when the first entry of its term is applied. What
// its log holds of the leaders before is applied by then; as news of its own, an
// inherited keep-alive, which took a checkpoint back, would add no time. No read
// index of a term comes before that entry, and its caller hears of it after
// Applied. So when a read index of the term is there, the timers are, too.
type Lessor struct {
	cfg Config

	mu      sync.Mutex
	timers  *policy.Lessor
	term    uint64                  // in which this member leads; 0: it does not
	waiting map[int64]chan struct{} // closed at the end of a lease; however many wait, one
	shared  Confirmation            // the newest one that a quorum gave
	handing time.Duration           // until when the leadership may be on its way to another member
}

// New returns a Lessor of a member that does not lead.
func New(cfg Config) *Lessor {
	return &Lessor{cfg: cfg, timers: policy.NewLessor(cfg.Options), waiting: map[int64]chan struct{}{}}
}

// Role follows the leadership. It hears of a term before anything of it is handed
// out to be written, and so before any of it is applied.
func (l *Lessor) Role(r raftloop.Role) {
	l.mu.Lock()
	defer l.mu.Unlock()
	leads := r.State == raft.StateLeader
	if leads && r.Term == l.term {
		return
	}
	l.timers.Demote()
	l.shared, l.handing = Confirmation{}, 0
	for id := range l.waiting {
		l.wake(id)
	}
	if l.term = 0; leads {
		l.term = r.Term
	}
}

// Applied takes what entries did to leases, before their callers hear of it.
func (l *Lessor) Applied(results []state.Result) error {
	for _, res := range results {
		if len(res.Leases) > 0 {
			l.apply(res.Leases)
		}
	}
	n := len(results)
	if n == 0 || !l.begins(results[n-1].Term) {
		return nil
	}
	all, err := l.cfg.Read() // many, perhaps: others need not wait
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if results[n-1].Term == l.term {
		l.timers.Promote(l.cfg.Now(), all, l.cfg.Extend)
	}
	return nil
}

// begins reports whether an entry of the term is the first one that this member
// applies as its leader.
func (l *Lessor) begins(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return term == l.term && !l.timers.Leading()
}

func (l *Lessor) apply(changes []lease.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		l.timers.Apply(l.cfg.Now(), c)
		if c.Gone {
			l.wake(c.ID)
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
	w := l.due(r)
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

// due gives what the timers want.
func (l *Lessor) due(r *replica.Replica) (w policy.LeaseWork) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timers.Len() == 0 || !inContact(r.Status()) {
		return w
	}
	return l.timers.Tick(l.cfg.Now())
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

// ErrNotLeading says that another member has to be asked, or this one again in a
// moment: it may have begun to lead and not have its timers yet.
func ErrNotLeading() error {
	return fault.Newf(fault.NotLeader, "lease", "this member does not lead").WithHint("ask again")
}

// Left gives what is left of a lease and what was granted; granted 0 when there
// is none.
func (l *Lessor) Left(r *replica.Replica, id int64) (left time.Duration, granted int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if term, leading := r.Leads(); !leading || term != l.term || !l.timers.Leading() {
		return 0, 0, ErrNotLeading()
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
