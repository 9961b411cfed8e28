package watch

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failer is a test, or one try of a property.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// machine is a state machine that takes entries without a log.
type machine struct {
	*state.Machine
	s *store.Store
}

func newMachine(t failer) *machine {
	t.Helper()
	s, err := store.Open("state-1", store.Options{FS: vfs.NewMem(), MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	m, err := state.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{Machine: m, s: s}
}

func (m *machine) close(t failer) {
	t.Helper()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// apply gives why the entry was refused.
func (m *machine) apply(t failer, kind envelope.Kind, body proto.Message) error {
	t.Helper()
	b, err := proto.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := m.Apply(state.Entry{Index: m.Applied().Index + 1, Term: 1, Data: envelope.Envelope{Kind: kind, Body: b}.Append(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return res.Err
}

// source is a member whose state can be replaced by that of another one.
// between, if there is one, runs before each write that a piece looks at.
type source struct {
	now     *machine
	between func()
}

func (s *source) Revision() int64 { return s.now.Revision() }

func (s *source) History(ctx context.Context, h mvcc.History) (mvcc.Bounds, error) {
	want := h.Want
	h.Want = func(rev int64, key []byte) (mvcc.Want, error) {
		if s.between != nil {
			s.between()
		}
		return want(rev, key)
	}
	return s.now.History(ctx, h)
}

// settle runs the hub until it has nothing to do.
func settle(t failer, h *Hub) {
	t.Helper()
	for i := 0; ; i++ {
		more, err := h.step(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
		if i > 100_000 {
			t.Fatal("the hub does not come to rest")
		}
	}
}

// take gives what waits in the stream without waiting; nil when nothing does.
func take(s *Stream) *pb.WatchResponse {
	resp, w, resume := s.pop()
	if resume {
		s.h.resume(w)
	}
	return resp
}

// ask carries out a request that must not wait.
func ask(t failer, s *Stream, req any) {
	t.Helper()
	r := &pb.WatchRequest{}
	switch req := req.(type) {
	case *pb.WatchCreateRequest:
		r.RequestUnion = &pb.WatchRequest_CreateRequest{CreateRequest: req}
	case *pb.WatchCancelRequest:
		r.RequestUnion = &pb.WatchRequest_CancelRequest{CancelRequest: req}
	case *pb.WatchProgressRequest:
		r.RequestUnion = &pb.WatchRequest_ProgressRequest{ProgressRequest: req}
	}
	if err := s.Request(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}
