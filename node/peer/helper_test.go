package peer

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen; reaching it fails.
const patience = 20 * time.Second

// recorder is a Handler that shows what it is told.
type recorder struct {
	steps       chan *raftpb.Message
	unreachable chan uint64
	snapshots   chan snapshotReport
	learned     chan uint64
	step        func(context.Context, *raftpb.Message) error
	install     func(context.Context, *chainfirev1.InstallSnapshotRequest, *raftpb.Message) error
}

func newRecorder() *recorder {
	return &recorder{steps: make(chan *raftpb.Message, 1024), unreachable: make(chan uint64, 1024),
		snapshots: make(chan snapshotReport, 64), learned: make(chan uint64, 1024)}
}

func (r *recorder) Step(ctx context.Context, m *raftpb.Message) error {
	if r.step != nil {
		if err := r.step(ctx, m); err != nil {
			return err
		}
	}
	r.steps <- m
	return nil
}

func (r *recorder) InstallSnapshot(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, m *raftpb.Message) error {
	if r.install != nil {
		return r.install(ctx, req, m)
	}
	return nil
}

func (r *recorder) Unreachable(id uint64) {
	select {
	case r.unreachable <- id:
	default: // nobody reads them in this test
	}
}
func (r *recorder) SnapshotDone(id uint64, ok bool) { r.snapshots <- snapshotReport{id, ok} }
func (r *recorder) Learned(id uint64, _ []string, _ string, _ []string) {
	select {
	case r.learned <- id:
	default:
	}
}

// identity is the hello of a test member.
func identity(id uint64) *chainfirev1.PeerHello {
	fill := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	return &chainfirev1.PeerHello{Version: Version, ClusterId: 7, From: id, DirectoryNonce: fill(byte(id)),
		BootNonce: fill(byte(id) + 100), Name: "n" + ident.FormatID(id)}
}

// node is one test member: a transport and the server it is served on.
type node struct {
	id  uint64
	tr  *Transport
	h   *recorder
	reg *prometheus.Registry
	url string
	srv *grpc.Server

	stopOnce sync.Once
	cancel   context.CancelFunc
	done     chan error
	served   chan struct{}
}

// tweak changes the configuration of a test member; nil shortens its patience
// with silent peers.
type tweak func(*Config)

// start makes a member listening on loopback and runs it until the test ends.
func start(t *testing.T, id uint64, tweaks ...tweak) *node {
	t.Helper()
	n := &node{id: id, h: newRecorder(), reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	cfg := Config{
		Self:  func() *chainfirev1.PeerHello { return identity(id) },
		Check: func(*chainfirev1.PeerHello) error { return nil },
		Dial:  dial, Handler: n.h, Registry: n.reg,
	}
	impatient := false
	for _, f := range tweaks {
		if f == nil {
			impatient = true
			continue
		}
		f(&cfg)
	}
	tr, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.tr = tr
	if impatient {
		tr.greeting = 50 * time.Millisecond
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.url = l.Addr().String()
	n.serve(l)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.done <- tr.Run(ctx) }()
	for !tr.running() { // until then it refuses, and what was sent to it is lost
		runtime.Gosched()
	}
	t.Cleanup(func() { n.stop(t) })
	return n
}

func (t *Transport) running() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.group != nil
}

func (n *node) serve(l net.Listener) {
	srv := grpc.NewServer(ServerOptions()...)
	n.srv, n.served = srv, make(chan struct{})
	served := n.served
	n.tr.Register(srv)
	go func() {
		defer close(served)
		_ = srv.Serve(l) // ends with Stop
	}()
}

func (n *node) stopServer() {
	n.srv.Stop()
	<-n.served
}

// stop ends Run and the server; it must not hang.
func (n *node) stop(t *testing.T) {
	n.stopOnce.Do(func() {
		n.cancel()
		if err := await(t, n.done, "end of Run"); err != nil {
			t.Errorf("Run: %v", err)
		}
		n.stopServer()
	})
}

func dial(url string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+url, append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

func await[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

// connect introduces a to b and waits until messages pass.
func connect(t *testing.T, a, b *node) {
	t.Helper()
	a.tr.SetPeer(b.id, []string{b.url})
	a.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeat, a.id, b.id)})
	await(t, b.h.steps, "first message")
}

func msg(typ raftpb.MessageType, from, to uint64) *raftpb.Message {
	return &raftpb.Message{Type: typ.Enum(), From: &from, To: &to, Term: proto.Uint64(3)}
}

func app(from, to uint64, entries ...string) *raftpb.Message {
	m := msg(raftpb.MsgApp, from, to)
	for i, e := range entries {
		m.Entries = append(m.Entries, &raftpb.Entry{Index: proto.Uint64(uint64(i) + 1), Term: proto.Uint64(3), Data: []byte(e)})
	}
	return m
}

func snap(from, to uint64) *raftpb.Message {
	m := msg(raftpb.MsgSnap, from, to)
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(9), Term: proto.Uint64(2),
		ConfState: &raftpb.ConfState{Voters: []uint64{from}}}}
	return m
}

// metric reads a counter of the registry, summed over labels not named.
func (n *node) metric(t *testing.T, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for k, v := range labels {
				if have[k] != v {
					continue next
				}
			}
			sum, found = sum+m.GetCounter().GetValue(), true
		}
	}
	if !found {
		t.Fatalf("no metric %s%v", name, labels)
	}
	return sum
}

// raw is a hand-made client of a member's Stream.
type raw struct {
	t *testing.T
	s chainfirev1.Peer_StreamClient
	c *grpc.ClientConn
}

func rawStream(t *testing.T, n *node) *raw {
	t.Helper()
	c, err := dial(n.url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(func() { cancel(); _ = c.Close() })
	s, err := chainfirev1.NewPeerClient(c).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t: t, s: s, c: c}
}

func (r *raw) send(f *chainfirev1.PeerFrame) {
	// A refusal may have come already; Recv shows it.
	_ = r.s.Send(f)
}

// hello introduces the client and gives the answer or the refusal.
func (r *raw) hello(h *chainfirev1.PeerHello) (*chainfirev1.PeerHello, error) {
	r.send(&chainfirev1.PeerFrame{Hello: h})
	f, err := r.s.Recv()
	return f.GetHello(), asFault(err)
}

// end waits for the end of the stream.
func (r *raw) end() error {
	for {
		if _, err := r.s.Recv(); err != nil {
			return asFault(err)
		}
	}
}

func asFault(err error) error {
	out, _ := fromStatus("test", err)
	return out
}

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Fatalf("error %v has code %q, want %q", err, fault.CodeOf(err), code)
	}
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
