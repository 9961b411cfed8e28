package clusterapi

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	isReserved = entryv1.MemberState_MEMBER_STATE_RESERVED
	isMember   = entryv1.MemberState_MEMBER_STATE_MEMBER
	isRemoved  = entryv1.MemberState_MEMBER_STATE_REMOVED
)

// proposal is what a service asked to be committed.
type proposal struct {
	kind envelope.Kind
	conf *state.ConfChange
	body proto.Message
}

// backend is a member made of tables.
type backend struct {
	mu          sync.Mutex
	self        uint64
	leader      grpc.ClientConnInterface // nil: this one
	noLeader    error
	cluster     *entryv1.ClusterRecord
	members     []*entryv1.MemberRecord
	leases      []*entryv1.SeedLease
	first, last uint64
	terms       map[uint64]uint64
	raft        Raft
	barrier     error
	barriers    int
	promotable  error
	soon        bool
	maxLearners int
	dial        func(ctx context.Context, url string) (*grpc.ClientConn, error)
	local       *chainfirev1.MemberStatus
	sent        map[uint64]Sent

	proposed []proposal
	// answer gives the result of a proposal; nil answers with a new reservation
	// or nothing.
	answer func(b *backend, p proposal) (state.Result, error)
}

func newBackend() *backend {
	genesis := ident.Nonce{9, 8, 7}
	return &backend{self: 1, cluster: &entryv1.ClusterRecord{ClusterId: 0xc1, GenesisNonce: genesis.Bytes()}, first: 11, last: 100,
		terms: map[uint64]uint64{10: 2, 40: 2, 100: 3}, maxLearners: 1,
		members: []*entryv1.MemberRecord{{Id: 1, State: isMember, Name: "one", PeerUrls: []string{"http://one"}}}}
}

func (b *backend) Self() uint64 { return b.self }
func (b *backend) LeaderConn(context.Context) (grpc.ClientConnInterface, error) {
	return b.leader, b.noLeader
}

func (b *backend) record(p proposal) (state.Result, error) {
	b.mu.Lock()
	b.proposed = append(b.proposed, p)
	answer := b.answer
	b.mu.Unlock()
	if answer != nil {
		return answer(b, p)
	}
	if m, ok := p.body.(*entryv1.ReserveMember); ok {
		return state.Result{Index: 101, Response: &entryv1.MemberRecord{Id: 5, State: isReserved, Name: m.GetName(),
			PeerUrls: m.GetPeerUrls(), StayLearner: m.GetStayLearner()}}, nil
	}
	return state.Result{Index: 101}, nil
}

func (b *backend) Propose(_ context.Context, kind envelope.Kind, body proto.Message) (state.Result, error) {
	return b.record(proposal{kind: kind, body: body})
}

func (b *backend) ProposeConf(_ context.Context, c state.ConfChange, kind envelope.Kind, body proto.Message) (state.Result, error) {
	return b.record(proposal{kind: kind, conf: &c, body: body})
}

func (b *backend) Barrier(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.barriers++
	return b.barrier
}
func (b *backend) Raft(context.Context) (Raft, error) { return b.raft, nil }
func (b *backend) Log() LogView                       { return b }
func (b *backend) State() StateView                   { return tables{b} }
func (b *backend) Promotable(context.Context, uint64) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.soon, b.promotable
}
func (b *backend) MaxLearners() int                       { return b.maxLearners }
func (b *backend) LocalStatus() *chainfirev1.MemberStatus { return b.local }
func (b *backend) Sent(to uint64) Sent                    { return b.sent[to] }
func (b *backend) Seeds() []SeedProgress {
	return []SeedProgress{{LeaseID: 1 << 63, Target: "late"}, {LeaseID: 3, Target: "early", Percent: 50}}
}

func (b *backend) Dial(ctx context.Context, url string) (*grpc.ClientConn, error) {
	return b.dial(ctx, url)
}

func (b *backend) FirstIndex() (uint64, error) { return b.first, nil }
func (b *backend) LastIndex() (uint64, error)  { return b.last, nil }
func (b *backend) Term(index uint64) (uint64, error) {
	if index+1 < b.first {
		return 0, raft.ErrCompacted
	}
	return b.terms[index], nil
}

// tables are the backend's, as of now.
type tables struct{ b *backend }

func (t tables) Cluster() *entryv1.ClusterRecord { return t.b.cluster }
func (t tables) Members() []*entryv1.MemberRecord {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	out := make([]*entryv1.MemberRecord, 0, len(t.b.members))
	for _, m := range t.b.members {
		out = append(out, proto.CloneOf(m))
	}
	return out
}

func (t tables) Member(id uint64) *entryv1.MemberRecord {
	for _, m := range t.Members() {
		if m.GetId() == id {
			return m
		}
	}
	return nil
}
func (t tables) SeedLeases() []*entryv1.SeedLease { return t.b.leases }

// change edits a record under the lock.
func (b *backend) change(id uint64, fn func(*entryv1.MemberRecord)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		if m.GetId() == id {
			fn(m)
		}
	}
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.proposed)
}

// serve runs what register registers until the test ends; the result dials it.
func serve(t *testing.T, register func(grpc.ServiceRegistrar)) func() *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	register(srv)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // before it began
			t.Error(err)
		}
	})
	return func() *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// results collects what MemberAdd sends.
type results struct {
	grpc.ServerStream
	ctx context.Context
	got []*chainfirev1.MemberAddResponse
}

func (r *results) Context() context.Context                    { return r.ctx }
func (r *results) Send(m *chainfirev1.MemberAddResponse) error { r.got = append(r.got, m); return nil }
func (r *results) result() *chainfirev1.MemberAddResult {
	for _, m := range r.got {
		if m.GetResult() != nil {
			return m.GetResult()
		}
	}
	return nil
}

func code(t *testing.T, what string, err error, want fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != want {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

const patience = 20 * time.Second
