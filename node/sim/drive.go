package sim

import (
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// drive shows the policy what the node knows and carries out what it decides.
func (n *Node) drive() error {
	v, err := n.view()
	if err != nil {
		return err
	}
	for _, a := range n.pol.Decide(v) {
		n.c.tracef("%s policy: %s", n.name, a)
		if err := n.carryOut(a); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) view() (policy.View, error) {
	durable, err := n.store.DurablePosition()
	if err != nil {
		return policy.View{}, err
	}
	s := n.rep.Status()
	v := policy.View{
		Now: millis(n.c.now - n.began), Leader: s.IsLeader(), Term: s.Term, SelfID: n.id, ElectionTimeout: millis(10 * Tick),
		Cluster: n.machine.Cluster(), Members: n.machine.Members(), Leases: n.machine.SeedLeases(), PendingConf: n.rep.HasPendingConf(),
		First: s.First, Last: s.Last, Commit: s.Commit, Applied: s.Applied, DurableApplied: durable.Index,
		LogBytesAfter: n.log.BytesAfter, Progress: make(map[uint64]policy.Progress),
	}
	for id, p := range s.Progress {
		v.Progress[id] = policy.Progress{Match: p.Match, Next: p.Next, State: p.State, RecentActive: p.RecentActive}
	}
	return v, nil
}

// carryOut does what was decided. What fails is decided again.
func (n *Node) carryOut(action policy.Action) error {
	switch a := action.(type) {
	case policy.Truncate:
		for _, l := range n.machine.SeedLeases() {
			if a.Index > l.GetHold() {
				n.c.breach("%s truncates to %d, lease %d holds %d", n.name, a.Index, l.GetId(), l.GetHold())
			}
		}
		return n.log.Truncate(a.Index)
	case policy.InitCluster:
		return n.propose(envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: n.c.cluster.ID, GenesisNonce: n.c.nonce().Bytes(), ClusterVersion: 1}, nil)
	case policy.ExpireLease:
		return n.propose(envelope.ExpireSeedLease, &entryv1.ExpireSeedLease{Id: a.ID, IfRenewal: a.Renewal}, nil)
	case policy.CloseLease:
		return n.propose(envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: a.ID}, nil)
	case policy.CancelReservation:
		return n.propose(envelope.CancelReservation, &entryv1.CancelReservation{Id: a.ID, IfActivity: a.Activity}, nil)
	case policy.RemoveLearner:
		return n.change(state.RemoveNode, a.ID, envelope.RemoveMember, &entryv1.RemoveMember{Id: a.ID}, nil)
	case policy.Promote:
		return n.change(state.AddVoter, a.ID, envelope.PromoteMember, &entryv1.PromoteMember{Id: a.ID}, nil)
	}
	return nil
}

// propose asks for an entry through this node.
func (n *Node) propose(kind envelope.Kind, body proto.Message, done func(state.Result, error)) error {
	b, err := proto.Marshal(body)
	if err != nil {
		return err
	}
	n.rep.Propose(kind, b, done)
	return nil
}

// change asks for a configuration change at this node, which should lead.
func (n *Node) change(typ state.ConfChangeType, id uint64, kind envelope.Kind, body proto.Message, done func(state.Result, error)) error {
	b, err := proto.Marshal(body)
	if err != nil {
		return err
	}
	n.rep.ProposeConf(state.ConfChange{Type: typ, NodeID: id}, kind, b, done)
	return nil
}
