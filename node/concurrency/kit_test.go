package concurrency_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/concurrency"
	"github.com/chainfire/cfseed/node/watch"
	"github.com/chainfire/cfseed/proto/v3electionpb"
	"github.com/chainfire/cfseed/proto/v3lockpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// local is etcd's services over a state machine without Raft: what is asked for
// is applied. Whether a lease lives is for the test to say.
type local struct {
	t       *testing.T
	mu      sync.Mutex // one entry at a time
	m       *state.Machine
	watches *watch.Hub
	reads   func() error // what a read fails with; nil = none does

	locks     v3lockpb.LockClient
	elections v3electionpb.ElectionClient
}

func newLocal(t *testing.T) *local {
	t.Helper()
	s, err := store.Open("state-1", store.Options{FS: vfs.NewMem(), MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &local{t: t}
	if l.m, err = state.Open(s); err != nil {
		t.Fatal(err)
	}
	l.watches = watch.New(l.m, watch.Options{})
	background(t, l.watches.Run)
	l.serve()
	return l
}

// background runs a loop beside the test.
func background(t *testing.T, loop func(context.Context) error) {
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

// serve gives the services clients over gRPC, without a network.
func (l *local) serve() {
	l.t.Helper()
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	concurrency.Backend{KV: l, Leases: l, Watch: func() concurrency.Watches { return l.watches.Open() },
		Header: func() *pb.ResponseHeader { return &pb.ResponseHeader{MemberId: 1, Revision: l.m.Revision()} }}.Register(srv)
	listener := bufconn.Listen(1 << 16)
	background(l.t, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, srv.Stop)
		defer stop()
		return srv.Serve(listener)
	})
	conn, err := grpc.NewClient("passthrough:///local", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	l.locks, l.elections = v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
}

// apply gives what an entry's apply answers.
func apply[R proto.Message](ctx context.Context, l *local, kind envelope.Kind, body proto.Message) (R, error) {
	var none R
	if err := ctx.Err(); err != nil {
		return none, err
	}
	b, err := proto.Marshal(body)
	if err != nil {
		return none, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.watches.Applied()
	res, err := l.m.Apply(state.Entry{Index: l.m.Applied().Index + 1, Term: 2, Data: envelope.Envelope{Kind: kind, Body: b}.Append(nil)})
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return none, err
	}
	return res.Response.(R), nil
}

func (l *local) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if l.reads != nil {
		if err := l.reads(); err != nil {
			return nil, err
		}
	}
	return l.m.Range(ctx, r)
}

func (l *local) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return apply[*pb.DeleteRangeResponse](ctx, l, envelope.DeleteRange, r)
}

func (l *local) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return apply[*pb.TxnResponse](ctx, l, envelope.Txn, r)
}

func (l *local) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if r.ID == 0 {
		r.ID = 0xabcde
	}
	return apply[*pb.LeaseGrantResponse](ctx, l, envelope.LeaseGrant, r)
}

// grant makes leases; revoke ends one, as the leader does when it has run out.
func (l *local) grant(ids ...int64) {
	l.t.Helper()
	for _, id := range ids {
		if _, err := l.LeaseGrant(l.t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 60}); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *local) revoke(id int64) {
	l.t.Helper()
	if err := l.end(id); err != nil {
		l.t.Fatal(err)
	}
}

func (l *local) end(id int64) error {
	_, err := apply[*pb.LeaseRevokeResponse](l.t.Context(), l, envelope.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
	return err
}

// compact leaves no history before now.
func (l *local) compact() {
	l.t.Helper()
	if _, err := apply[*pb.CompactionResponse](l.t.Context(), l, envelope.Compact, &pb.CompactionRequest{Revision: l.m.Revision()}); err != nil {
		l.t.Fatal(err)
	}
}

// keys lists the queue of a name as "KEY=VALUE", in the order of its places.
func (l *local) keys(name string) []string {
	l.t.Helper()
	resp, err := l.m.Range(l.t.Context(), &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0"),
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND})
	if err != nil {
		l.t.Fatal(err)
	}
	out := []string{}
	for _, kv := range resp.GetKvs() {
		out = append(out, string(kv.GetKey())+"="+string(kv.GetValue()))
	}
	return out
}

// awaitKeys waits until the queue of a name has n places.
func (l *local) awaitKeys(name string, n int) {
	l.t.Helper()
	ctx := soon(l.t)
	for len(l.keys(name)) != n {
		select {
		case <-ctx.Done():
			l.t.Fatalf("the queue is %v, want %d places", l.keys(name), n)
		case <-time.After(time.Millisecond):
		}
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// answer is what a call that may wait has come to.
type answer[R any] struct {
	resp R
	err  error
}

// begin makes a call beside the test.
func begin[R any](call func() (R, error)) <-chan answer[R] {
	out := make(chan answer[R], 1)
	go func() {
		resp, err := call()
		out <- answer[R]{resp, err}
	}()
	return out
}

// get waits for the answer of a call that was begun.
func get[R any](t *testing.T, from <-chan answer[R]) (R, error) {
	t.Helper()
	select {
	case a := <-from:
		return a.resp, a.err
	case <-soon(t).Done():
		t.Fatal("no answer")
		panic("unreachable")
	}
}
