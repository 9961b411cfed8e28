// Package clusterapi serves the chainfire.v1 services Cluster and Admission:
// what an operator and a newcomer ask of a cluster.
//
// Any member may be asked. What only the leader can do is handed to it over
// the peer address once, never further (a forwarded call that finds no leader
// answers not_leader and the caller asks again), so a call can not circle.
// The package declares the Backend it needs; package node provides it.
package clusterapi

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Progress is how far the leader sees one member.
type Progress struct {
	Match        uint64
	State        string // probe | replicate | snapshot
	RecentActive bool
	SinceContact time.Duration // negative = never
}

// Sent is what this process has sent to a member, as its transport counts it.
type Sent struct {
	Entries, Snapshots uint64
	LogAtStart         uint64 // where the log ended when it began to count
}

// LogView answers for the Raft log of the member asked.
type LogView interface {
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	Term(index uint64) (uint64, error)
}

// StateView answers from the applied state; what it returns is a copy.
type StateView interface {
	Cluster() *entryv1.ClusterRecord
	Members() []*entryv1.MemberRecord
	Member(id uint64) *entryv1.MemberRecord
	SeedLeases() []*entryv1.SeedLease
}

// Raft is the standing of the member asked in its group.
type Raft struct {
	Leader, Term, Commit, Applied uint64
	Progress                      map[uint64]Progress // at the leader
}

// SeedProgress is a seed this member serves.
type SeedProgress struct {
	LeaseID        uint64
	Target         string
	Percent        float64
	BytesPerSecond float64
}

// Backend is what the services need of the running member.
type Backend interface {
	Self() uint64
	// LeaderConn is a connection to the leader's peer address, owned by the
	// backend; nil when this member leads. NotLeader when nobody does.
	LeaderConn(ctx context.Context) (grpc.ClientConnInterface, error)
	// Propose commits an entry and returns its result here once applied.
	Propose(ctx context.Context, kind envelope.Kind, body proto.Message) (state.Result, error)
	// ProposeConf commits a configuration change; one at a time, at the leader.
	ProposeConf(ctx context.Context, change state.ConfChange, kind envelope.Kind, body proto.Message) (state.Result, error)
	// Barrier returns once everything committed before the call is applied here.
	Barrier(ctx context.Context) error
	Raft(ctx context.Context) (Raft, error)
	Log() LogView
	State() StateView
	// Promotable says whether a learner may become a voter now
	// (policy.Promotable); soon, that nothing but a moment's time is missing.
	Promotable(ctx context.Context, id uint64) (soon bool, err error)
	MaxLearners() int
	// LocalStatus fills what only this member knows of itself.
	LocalStatus() *chainfirev1.MemberStatus
	Seeds() []SeedProgress
	Sent(to uint64) Sent
	// Dial connects to any URL, for the newcomer's peer URL and other members.
	Dial(ctx context.Context, url string) (*grpc.ClientConn, error)
}

// Service implements chainfirev1.ClusterServer and chainfirev1.AdmissionServer.
type Service struct {
	chainfirev1.UnimplementedClusterServer
	chainfirev1.UnimplementedAdmissionServer
	b       Backend
	touched touches
}

// New returns the services over b.
func New(b Backend) *Service { return &Service{b: b} }

// Register adds both services to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	chainfirev1.RegisterClusterServer(r, s)
	chainfirev1.RegisterAdmissionServer(r, s)
}

// forwardedKey marks a call that a member handed on.
const forwardedKey = "cfseed-forwarded"

// atLeader runs local when this member leads and else hands the call to the
// leader.
func atLeader[R any](ctx context.Context, b Backend, local func(context.Context) (R, error),
	remote func(context.Context, grpc.ClientConnInterface) (R, error)) (R, error) {
	var zero R
	conn, err := b.LeaderConn(ctx)
	if err != nil {
		return zero, err
	}
	if conn == nil {
		return local(ctx)
	}
	if forwarded(ctx) {
		return zero, fault.Newf(fault.NotLeader, "forward", "this member is no longer the leader").
			WithHint("ask again")
	}
	return remote(metadata.AppendToOutgoingContext(ctx, forwardedKey, "1"), conn)
}

// forwarded reports whether another member handed the call on.
func forwarded(ctx context.Context) bool {
	md, ok := metadata.FromIncomingContext(ctx)
	return ok && len(md.Get(forwardedKey)) > 0
}

// memberOf is the wire form of a record.
func memberOf(r *entryv1.MemberRecord) *chainfirev1.Member {
	m := &chainfirev1.Member{Id: r.GetId(), Name: r.GetName(), PeerUrls: r.GetPeerUrls(), ClientUrls: r.GetClientUrls(), Role: "voter",
		StayLearner: r.GetStayLearner()}
	if r.GetLearner() {
		m.Role = "learner"
	}
	switch r.GetState() {
	case entryv1.MemberState_MEMBER_STATE_RESERVED:
		m.State = "reserved"
		if r.GetStayLearner() {
			m.Role = "learner"
		}
	case entryv1.MemberState_MEMBER_STATE_MEMBER:
		m.State = "member"
	default:
		m.State = "removed"
	}
	return m
}

// live lists reservations and members; removed ones are history.
func live(records []*entryv1.MemberRecord) []*chainfirev1.Member {
	var out []*chainfirev1.Member
	for _, r := range records {
		if r.GetState() != entryv1.MemberState_MEMBER_STATE_REMOVED {
			out = append(out, memberOf(r))
		}
	}
	return out
}
