package node

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/clusterapi"
	"github.com/chainfire/cfseed/node/peer"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/raftlog"
)

// backend is the running member as the services on its listeners see it
// (clusterapi.Backend).
type backend struct {
	self        uint64
	core        *core
	log         *raftlog.Log
	state       *stateBox
	transport   *peer.Transport
	conns       *conns
	driver      *driver
	seeds       *seeds
	maxLearners int
	dial        func(ctx context.Context, url string) (*grpc.ClientConn, error)
	logAtStart  uint64
}

func (b *backend) Self() uint64 { return b.self }

func (b *backend) LeaderConn(ctx context.Context) (grpc.ClientConnInterface, error) {
	var st replica.Status
	if err := b.core.status(ctx, &st); err != nil {
		return nil, err
	}
	return b.connTo(ctx, st.Leader)
}

// connTo is a connection to the member that leads, nil where this one does.
func (b *backend) connTo(ctx context.Context, leader uint64) (grpc.ClientConnInterface, error) {
	switch leader {
	case b.self:
		return nil, nil
	case 0:
		return nil, fault.Newf(fault.NotLeader, "forward", "the cluster has no leader").WithHint("ask again in a moment")
	}
	rec := b.state.machine().Member(leader)
	if len(rec.GetPeerUrls()) == 0 {
		return nil, fault.Newf(fault.NotLeader, "forward", "the leader's address is not known here").WithHint("ask again in a moment")
	}
	return b.conns.get(ctx, rec.GetPeerUrls()[0])
}

func (b *backend) Propose(ctx context.Context, kind envelope.Kind, body proto.Message) (state.Result, error) {
	return b.core.Propose(ctx, kind, body)
}

func (b *backend) ProposeConf(ctx context.Context, change state.ConfChange, kind envelope.Kind, body proto.Message) (state.Result, error) {
	return b.core.ProposeConf(ctx, change, kind, body)
}

func (b *backend) Barrier(ctx context.Context) error { return b.core.ReadIndex(ctx) }

func (b *backend) Raft(ctx context.Context) (clusterapi.Raft, error) {
	var st replica.Status
	if err := b.core.status(ctx, &st); err != nil {
		return clusterapi.Raft{}, err
	}
	out := clusterapi.Raft{Leader: st.Leader, Term: st.Term, Commit: st.Commit, Applied: st.Applied,
		Progress: map[uint64]clusterapi.Progress{}}
	for id, p := range st.Progress {
		if id == b.self {
			continue
		}
		since, ok := b.transport.LastContact(id)
		if !ok {
			since = -1
		}
		out.Progress[id] = clusterapi.Progress{Match: p.Match, State: progressNames[p.State], RecentActive: p.RecentActive,
			SinceContact: since}
	}
	return out, nil
}

// progressNames are the states of replication as the API names them.
var progressNames = map[string]string{policy.StateProbe: "probe", policy.StateReplicate: "replicate", policy.StateSnapshot: "snapshot"}

func (b *backend) Log() clusterapi.LogView     { return b.log }
func (b *backend) State() clusterapi.StateView { return b.state.machine() }
func (b *backend) MaxLearners() int            { return b.maxLearners }

func (b *backend) Promotable(ctx context.Context, id uint64) (soon bool, _ error) {
	var perr error
	err := b.core.do(ctx, func(r *replica.Replica) { perr = b.driver.policy.Promotable(b.driver.view(r), id) })
	return errors.Is(perr, policy.ErrSettling), errors.Join(err, perr)
}

func (b *backend) LocalStatus() *chainfirev1.MemberStatus {
	m := b.state.machine()
	d := m.Digest()
	rec := m.Member(b.self)
	role := "voter"
	if rec.GetLearner() {
		role = "learner"
	}
	return &chainfirev1.MemberStatus{Id: b.self, Name: rec.GetName(), Role: role, Applied: m.Applied().Index, Digest: d[:],
		DbBytes: b.dbBytes(), Revision: uint64(m.Revision()), Reachable: true}
}

func (b *backend) dbBytes() uint64 { return uint64(b.space().Disk) }

// space is what the state takes; zero when this member is stopping.
func (b *backend) space() (space store.Space) {
	_ = b.state.read(func(m *state.Machine) error { space = m.Store().Space(); return nil })
	return space
}

func (b *backend) Sent(to uint64) clusterapi.Sent {
	entries, snapshots := b.transport.Counters(to)
	return clusterapi.Sent{Entries: entries, Snapshots: snapshots, LogAtStart: b.logAtStart}
}

func (b *backend) Seeds() []clusterapi.SeedProgress { return b.seeds.progress() }

func (b *backend) Dial(ctx context.Context, url string) (*grpc.ClientConn, error) {
	return b.dial(ctx, url)
}

// members lists records that are not history.
func members(m *state.Machine) []*entryv1.MemberRecord {
	var out []*entryv1.MemberRecord
	for _, r := range m.Members() {
		if r.GetState() != entryv1.MemberState_MEMBER_STATE_REMOVED {
			out = append(out, r)
		}
	}
	return out
}
