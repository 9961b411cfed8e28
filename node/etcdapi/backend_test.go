package etcdapi_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/node/token"
	"github.com/chainfire/cfseed/node/watch"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	selfID    = 0xa1
	clusterID = 0xc1
	leaseTTL  = 60_000
)

// local is a Backend of one node without Raft: what is proposed is applied.
type local struct {
	t  *testing.T
	mu sync.Mutex // one entry at a time
	m  *state.Machine

	leader     atomic.Uint64
	learner    atomic.Bool
	reads      atomic.Int64 // read indexes asked for
	proposals  atomic.Int64
	failWith   atomic.Pointer[error] // what Propose, ReadIndex and the member calls answer
	lastPurged atomic.Int64
	ahead      atomic.Int64           // writes of others since the response was made
	late       atomic.Pointer[func()] // what this member applies only when it must
	before     atomic.Pointer[func()] // what is applied before the next proposal
	leaseIDs   atomic.Int64
	tokens     token.Provider
	watches    *watch.Hub
	upkeep
}

func newLocal(t *testing.T) *local {
	t.Helper()
	s, err := store.Open("state-1", store.Options{FS: vfs.NewMem(), MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	m, err := state.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &local{t: t, m: m, watches: watch.New(m, watch.Options{ProgressInterval: 50 * time.Millisecond})}
	run(t, l.watches.Run)
	l.leader.Store(selfID)
	l.mustConf(envelope.BootstrapVoter, state.AddVoter, selfID,
		&entryv1.BootstrapVoter{Id: selfID, Name: "first", PeerUrls: []string{"http://127.0.0.1:2380"}})
	l.must(envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: clusterID, GenesisNonce: bytes.Repeat([]byte{1}, 16), ClusterVersion: 1})
	l.must(envelope.PublishMember, &entryv1.PublishMember{Id: selfID, Name: "first", ClientUrls: []string{"http://127.0.0.1:2379"}})
	return l
}

func (l *local) fail(err error) {
	if err == nil {
		l.failWith.Store(nil)
		return
	}
	l.failWith.Store(&err)
}

func (l *local) failure() error {
	if p := l.failWith.Load(); p != nil {
		return *p
	}
	return nil
}

func (l *local) apply(kind envelope.Kind, body proto.Message, conf *state.ConfChange) (state.Result, error) {
	return l.applyFor(nil, kind, body, conf)
}

func (l *local) applyFor(client *envelope.Client, kind envelope.Kind, body proto.Message, conf *state.ConfChange) (state.Result, error) {
	b, err := proto.Marshal(body)
	if err != nil {
		return state.Result{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := state.Entry{Index: l.m.Applied().Index + 1, Term: 2, Data: envelope.Envelope{Kind: kind, Client: client, Body: b}.Append(nil)}
	if conf != nil {
		e.Type, e.Conf = state.ConfChangeEntry, conf
	}
	defer l.watches.Applied()
	res, err := l.m.Apply(e)
	if l.tokens != nil && err == nil {
		var changes []*auth.Change
		if res.Tokens != nil {
			changes = append(changes, res.Tokens)
		}
		l.tokens.Apply(res.Index, l.m.Auth().Revision, changes...)
	}
	return res, err
}

// run runs a loop beside the test.
func run(t *testing.T, loop func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (l *local) must(kind envelope.Kind, body proto.Message) state.Result {
	l.t.Helper()
	res, err := l.apply(kind, body, nil)
	if err != nil || res.Err != nil {
		l.t.Fatal(kind, err, res.Err)
	}
	return res
}

func (l *local) mustConf(kind envelope.Kind, typ state.ConfChangeType, id uint64, body proto.Message) {
	l.t.Helper()
	res, err := l.apply(kind, body, &state.ConfChange{Type: typ, NodeID: id})
	if err != nil || res.Err != nil {
		l.t.Fatal(kind, err, res.Err)
	}
}

func (l *local) Propose(_ context.Context, client *envelope.Client, kind envelope.Kind, body proto.Message) (state.Result, error) {
	l.proposals.Add(1)
	if err := l.failure(); err != nil {
		return state.Result{}, err
	}
	if before := l.before.Swap(nil); before != nil {
		(*before)()
	}
	return l.applyFor(client, kind, body, nil)
}

func (l *local) Auth() *auth.Rules { return l.m.Auth() }

func (l *local) LeaseKeys(_ context.Context, id int64) ([][]byte, error) { return l.m.LeaseKeys(id) }

func (l *local) ReadIndex(context.Context) error {
	l.reads.Add(1)
	if apply := l.late.Swap(nil); apply != nil {
		(*apply)()
	}
	return l.failure()
}

func (l *local) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return l.m.Range(ctx, r)
}

func (l *local) TxnRead(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return l.m.TxnRead(ctx, r)
}

func (l *local) Watch() etcdapi.Watches { return l.watches.Open() }

func (l *local) Header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: clusterID, MemberId: selfID, Revision: l.m.Revision() + l.ahead.Load(), RaftTerm: 2}
}

func (l *local) Role() (uint64, bool) { return l.leader.Load(), l.learner.Load() }

func (l *local) Status(context.Context) (etcdapi.Status, error) {
	if err := l.failure(); err != nil {
		return etcdapi.Status{}, err
	}
	return etcdapi.Status{Version: "3.7.0", DBSize: 4096, DBSizeInUse: 1024, DBSizeQuota: 1 << 30, Leader: l.leader.Load(),
		RaftIndex: 11, RaftTerm: 2, AppliedIndex: 10, IsLearner: l.learner.Load(), Errors: []string{"e"}}, nil
}

func (l *local) NewLeaseID() int64 { return 0x1000 + l.leaseIDs.Add(1) }

// RenewLease answers for a leader whose leases never run out.
func (l *local) RenewLease(ctx context.Context, id int64) (int64, error) {
	known, err := l.LeaseTimeToLive(ctx, id, false)
	return known.GrantedTTL, err
}

func (l *local) LeaseTimeToLive(_ context.Context, id int64, keys bool) (known etcdapi.Lease, err error) {
	if err := l.failure(); err != nil {
		return known, err
	}
	all, err := l.m.Leases()
	for _, ls := range all {
		if ls.ID == id {
			known.TTL, known.GrantedTTL = ls.TTL-1, ls.TTL
		}
	}
	if keys && err == nil {
		known.Keys, err = l.m.LeaseKeys(id)
	}
	return known, err
}

func (l *local) Leases(context.Context) (ids []int64, err error) {
	all, err := l.m.Leases()
	for _, ls := range all {
		ids = append(ids, ls.ID)
	}
	return ids, err
}

func (l *local) Members() []*entryv1.MemberRecord { return l.m.Members() }

func (l *local) AddMember(_ context.Context, r *pb.MemberAddRequest) (*entryv1.MemberRecord, []*entryv1.MemberRecord, error) {
	if err := l.failure(); err != nil {
		return nil, nil, err
	}
	res, err := l.apply(envelope.ReserveMember, &entryv1.ReserveMember{PeerUrls: r.GetPeerURLs(), StayLearner: r.GetIsLearner()}, nil)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, nil, err
	}
	return res.Response.(*entryv1.MemberRecord), l.m.Members(), nil
}

func (l *local) RemoveMember(_ context.Context, id uint64) error {
	if err := l.failure(); err != nil {
		return err
	}
	kind, body := envelope.RemoveMember, proto.Message(&entryv1.RemoveMember{Id: id})
	conf := &state.ConfChange{Type: state.RemoveNode, NodeID: id}
	if l.m.Member(id).GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED {
		kind, body, conf = envelope.CancelReservation, &entryv1.CancelReservation{Id: id, Force: true}, nil
	}
	res, err := l.apply(kind, body, conf)
	if err != nil {
		return err
	}
	return res.Err
}

func (l *local) PromoteMember(_ context.Context, id uint64) error {
	if err := l.failure(); err != nil {
		return err
	}
	if l.m.Member(id).GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
		return fault.Newf(fault.Refused, "promote", "not caught up").WithHint("wait")
	}
	res, err := l.apply(envelope.PromoteMember, &entryv1.PromoteMember{Id: id}, &state.ConfChange{Type: state.AddVoter, NodeID: id})
	if err != nil {
		return err
	}
	return res.Err
}

func (l *local) UpdateMember(_ context.Context, id uint64, urls []string) error {
	if err := l.failure(); err != nil {
		return err
	}
	res, err := l.apply(envelope.UpdateMember, &entryv1.UpdateMember{Id: id, PeerUrls: urls}, nil)
	if err != nil {
		return err
	}
	return res.Err
}

func (l *local) WaitPurged(_ context.Context, revision int64) error {
	for {
		l.mu.Lock()
		more, err := l.m.Purge(100)
		l.mu.Unlock()
		if err != nil {
			return err
		}
		if !more {
			l.lastPurged.Store(revision)
			return nil
		}
	}
}

// addLearner takes a reserved member into the configuration.
func (l *local) addLearner(id uint64) {
	l.t.Helper()
	lease := l.must(envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: leaseTTL, CapBytes: 1 << 20, MemberId: id, SourceId: selfID})
	nonce := bytes.Repeat([]byte{byte(id)}, 16)
	l.must(envelope.BindMember, &entryv1.BindMember{Id: id, DirectoryNonce: nonce})
	pos := l.m.Applied()
	l.mustConf(envelope.AddLearner, state.AddLearner, id, &entryv1.AddLearner{Id: id, LeaseId: lease.Response.(*entryv1.SeedLease).GetId(),
		Position: &entryv1.Position{Term: pos.Term, Index: pos.Index}, ManifestRoot: bytes.Repeat([]byte{9}, 32)})
}

// server is a Server on loopback with a client of etcd's own.
type server struct {
	*local
	api  *etcdapi.Server
	grpc *grpc.Server
	conn *grpc.ClientConn
	cli  *clientv3.Client
}

func serve(t *testing.T, opts etcdapi.Options, gate netsec.Gate) *server {
	t.Helper()
	l := newLocal(t)
	return serveBackend(t, l, l, opts, gate)
}

// serveBackend serves b, which is made of l.
func serveBackend(t *testing.T, l *local, b etcdapi.Backend, opts etcdapi.Options, gate netsec.Gate) *server {
	t.Helper()
	s := &server{local: l, api: etcdapi.New(b, opts)}
	s.grpc = grpc.NewServer(append(s.api.ServerOptions(), gate.ServerOptions()...)...)
	s.api.Register(s.grpc)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.api.Run)
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(listener) }()
	t.Cleanup(func() {
		s.api.Shutdown()
		s.grpc.Stop()
		// A test may be over before the server has begun.
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	s.conn, err = grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.cli, err = clientv3.New(clientv3.Config{Endpoints: []string{listener.Addr().String()}, Logger: zap.NewNop(), DialTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.cli.Close(); err != nil {
			t.Error(err)
		}
		if err := s.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}
