package node

import (
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
)

// clusterVersion is the newest version of entry kinds and formats that this
// program knows; a new cluster begins with it.
const clusterVersion = 1

// stableBeats is how many heartbeats a learner must stay caught up before it is
// promoted: enough for its answers to have come in more than once.
const stableBeats = 2

// driver shows the policy what this member knows at each tick and carries out
// what it decides. It runs on the Ready loop.
type driver struct {
	self     uint64
	cluster  uint64
	election time.Duration
	began    time.Time
	log      *raftlog.Log
	state    *stateBox
	appends  *queue[appendWork]
	logger   *slog.Logger
	rand     io.Reader
	policy   *policy.Policy
	durable  atomic.Uint64
}

func newDriver(m *member) *driver {
	id := m.identity.get()
	return &driver{self: id.MemberID, cluster: id.Cluster.ID, election: m.n.cfg.Election, began: time.Now(),
		log: m.log, state: m.state, appends: m.core.appends, logger: m.n.logger, rand: m.n.cfg.Rand,
		policy: policy.New(policy.Options{TrailingEntries: m.n.cfg.Trailing, Stability: stableBeats * m.n.cfg.Heartbeat})}
}

// setDurable tells how far the applied state is durable; truncation waits for it.
func (d *driver) setDurable(index uint64) { d.durable.Store(index) }

// view gathers what the policy may know. The durable index is read first, so
// that every hold below it is among the leases read after it.
func (d *driver) view(r *replica.Replica) policy.View {
	durable := d.durable.Load()
	st := r.Status()
	m := d.state.machine()
	v := policy.View{Now: time.Since(d.began), Leader: st.IsLeader(), Term: st.Term, SelfID: d.self, ElectionTimeout: d.election,
		Cluster: m.Cluster(), Members: m.Members(), Leases: m.SeedLeases(), PendingConf: r.HasPendingConf(),
		First: st.First, Last: st.Last, Commit: st.Commit, Applied: st.Applied, DurableApplied: durable,
		LogBytesAfter: d.log.BytesAfter, Progress: make(map[uint64]policy.Progress, len(st.Progress))}
	for id, p := range st.Progress {
		v.Progress[id] = policy.Progress{Match: p.Match, Next: p.Next, State: p.State, RecentActive: p.RecentActive}
	}
	return v
}

func (d *driver) tick(r *replica.Replica) error {
	for _, a := range d.policy.Decide(d.view(r)) {
		d.logger.Debug("policy", "action", a.String())
		if err := d.carryOut(r, a); err != nil {
			return err
		}
	}
	return nil
}

// carryOut does what was decided. A proposal that fails is decided again; its
// outcome is seen in the tables.
func (d *driver) carryOut(r *replica.Replica, action policy.Action) error {
	switch a := action.(type) {
	case policy.Truncate:
		d.appends.push(appendWork{truncate: a.Index})
		return nil
	case policy.InitCluster:
		nonce, err := newNonce(d.rand)
		if err != nil {
			return err
		}
		return propose(r, envelope.ClusterInit,
			&entryv1.ClusterInit{ClusterId: d.cluster, GenesisNonce: nonce.Bytes(), ClusterVersion: clusterVersion})
	case policy.ExpireLease:
		d.logger.Warn("seed lease ends", "lease", a.ID, "reason", string(a.Reason))
		return propose(r, envelope.ExpireSeedLease, &entryv1.ExpireSeedLease{Id: a.ID, IfRenewal: a.Renewal})
	case policy.CloseLease:
		return propose(r, envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: a.ID})
	case policy.CancelReservation:
		return propose(r, envelope.CancelReservation, &entryv1.CancelReservation{Id: a.ID, IfActivity: a.Activity})
	case policy.RemoveLearner:
		d.logger.Warn("learner is removed", "member", a.ID, "reason", string(a.Reason))
		return proposeConf(r, state.ConfChange{Type: state.RemoveNode, NodeID: a.ID}, envelope.RemoveMember, &entryv1.RemoveMember{Id: a.ID})
	case policy.Promote:
		return proposeConf(r, state.ConfChange{Type: state.AddVoter, NodeID: a.ID}, envelope.PromoteMember, &entryv1.PromoteMember{Id: a.ID})
	}
	return nil
}

func ignore(state.Result, error) {}

func propose(r *replica.Replica, kind envelope.Kind, body proto.Message) error {
	b, err := proto.Marshal(body)
	if err != nil {
		return err
	}
	r.Propose(kind, b, ignore)
	return nil
}

func proposeConf(r *replica.Replica, change state.ConfChange, kind envelope.Kind, body proto.Message) error {
	b, err := proto.Marshal(body)
	if err != nil {
		return err
	}
	r.ProposeConf(change, kind, b, ignore)
	return nil
}
