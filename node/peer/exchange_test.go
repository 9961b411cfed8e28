package peer

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func TestMessagesArriveOnce(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	a.tr.SetPeer(2, []string{b.url})
	a.tr.SetPeer(1, []string{a.url}) // its own ID is ignored
	b.tr.SetPeer(1, []string{a.url})

	sent := []*raftpb.Message{app(1, 2, "x", "y"), msg(raftpb.MsgHeartbeat, 1, 2), app(1, 2, "z")}
	a.tr.Send(sent)
	got := map[string]int{}
	for range sent {
		m := await(t, b.h.steps, "message")
		got[string(mustMarshal(t, m))]++
	}
	for _, m := range sent {
		if got[string(mustMarshal(t, m))] != 1 {
			t.Errorf("%v arrived %d times", m, got[string(mustMarshal(t, m))])
		}
	}
	b.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeatResp, 2, 1)})
	if m := await(t, a.h.steps, "answer"); m.GetType() != raftpb.MsgHeartbeatResp {
		t.Errorf("got %v", m)
	}

	to := map[string]string{"to": ident.FormatID(2)}
	entries, snaps := a.tr.Counters(2)
	if entries != 3 || snaps != 0 {
		t.Errorf("counters %d, %d; want 3 entries, 0 snapshots", entries, snaps)
	}
	if v := a.metric(t, "cfseed_peer_entries_sent_total", to); v != 3 {
		t.Errorf("entries metric %v", v)
	}
	if v := a.metric(t, "cfseed_peer_entries_resent_total", to); v != 1 { // both begin at the same index
		t.Errorf("entries sent again: metric %v", v)
	}
	if v := a.metric(t, "cfseed_peer_raft_snapshots_sent_total", to); v != 0 {
		t.Errorf("snapshots metric %v", v)
	}
	if v := a.metric(t, "cfseed_peer_messages_sent_total", map[string]string{"to": to["to"], "type": "MsgApp"}); v != 2 {
		t.Errorf("messages metric %v", v)
	}
	size := 0
	for _, m := range sent {
		size += proto.Size(m)
	}
	if v := a.metric(t, "cfseed_peer_bytes_sent_total", to); v != float64(size) {
		t.Errorf("bytes metric %v, want %d", v, size)
	}
	if _, ok := b.tr.LastContact(1); !ok {
		t.Error("the receiver knows of no contact")
	}
	if _, ok := b.tr.LastContact(9); ok {
		t.Error("contact with a member that does not exist")
	}
	if err := a.tr.LastError(2); err != nil {
		t.Errorf("last error %v while connected", err)
	}
	if id := await(t, b.h.learned, "hello"); id != 1 {
		t.Errorf("learned of %d", id)
	}
}

// The same over an in-memory connection: nothing depends on TCP.
func TestExchangeInMemory(t *testing.T) {
	l := bufconn.Listen(1 << 16)
	b := start(t, 2)
	b.stopServer()
	b.serve(l)
	a := start(t, 1, func(c *Config) {
		c.Dial = func(string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		}
	})
	a.tr.SetPeer(2, []string{"anything"})
	big := app(1, 2, strings.Repeat("v", 3<<20)) // larger than a frame's target
	a.tr.Send([]*raftpb.Message{big})
	if m := await(t, b.h.steps, "message"); !proto.Equal(m, big) {
		t.Error("a large message changed on its way")
	}
}

func TestOrderIsKeptInEachLane(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(t, a, b)
	const n = 500
	for i := range n {
		m := app(1, 2, "e")
		m.Index = proto.Uint64(uint64(i))
		a.tr.Send([]*raftpb.Message{m})
	}
	for i := range n {
		if m := await(t, b.h.steps, "message"); m.GetIndex() != uint64(i) {
			t.Fatalf("message %d came as number %d", m.GetIndex(), i)
		}
	}
}

func TestReconnectAfterServerRestart(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(t, a, b)
	addr := b.url
	b.stopServer()
	await(t, a.h.unreachable, "report")
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(l)
	resend(t, a, b)
}

// resend sends until something arrives: what is sent while there is no
// connection may be lost.
func resend(t *testing.T, a, b *node) {
	t.Helper()
	for {
		a.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeat, a.id, b.id)})
		select {
		case <-b.h.steps:
			return
		case <-a.h.unreachable:
		case <-t.Context().Done():
			t.Fatal("never came through")
		}
	}
}

func TestNewestURLsWin(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	other := start(t, 3)
	a.tr.SetPeer(2, []string{other.url}) // somebody else answers there
	await(t, a.h.unreachable, "report")
	if err := a.tr.LastError(2); !fault.Is(err, fault.Refused) {
		t.Errorf("last error %v, want a refusal", err)
	}
	a.tr.SetPeer(2, []string{"127.0.0.1:1", b.url})
	resend(t, a, b)
	select {
	case m := <-other.h.steps:
		t.Errorf("a message for 2 reached 3: %v", m)
	default:
	}
}

func TestControlPassesBusyBulk(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	release := make(chan struct{})
	var once sync.Once
	blocked := make(chan struct{})
	b.h.step = func(ctx context.Context, m *raftpb.Message) error {
		if m.GetType() != raftpb.MsgApp {
			return nil
		}
		once.Do(func() { close(blocked) })
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a.tr.SetPeer(2, []string{b.url})
	// Much more than fits into the windows of the connection.
	for range 64 {
		a.tr.Send([]*raftpb.Message{app(1, 2, strings.Repeat("v", 1<<20))})
	}
	await(t, blocked, "blocked receiver")
	for range 20 {
		a.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeat, 1, 2)})
		if m := await(t, b.h.steps, "heartbeat"); m.GetType() != raftpb.MsgHeartbeat {
			t.Fatalf("%s passed a receiver that is blocked", m.GetType())
		}
	}
	close(release)
	if m := await(t, b.h.steps, "entries"); m.GetType() != raftpb.MsgApp {
		t.Fatalf("got %s", m.GetType())
	}
}

func TestStepErrorLosesOneMessage(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	b.h.step = func(_ context.Context, m *raftpb.Message) error {
		if m.GetType() == raftpb.MsgVote {
			return fault.Newf(fault.Refused, "step", "not now")
		}
		return nil
	}
	a.tr.SetPeer(2, []string{b.url})
	a.tr.Send([]*raftpb.Message{msg(raftpb.MsgVote, 1, 2), msg(raftpb.MsgHeartbeat, 1, 2)})
	if m := await(t, b.h.steps, "message"); m.GetType() != raftpb.MsgHeartbeat {
		t.Errorf("got %s", m.GetType())
	}
	if entries := b.metricOrZero(t); entries != 0 {
		t.Errorf("the receiver counts %v messages as sent", entries)
	}
}

func (n *node) metricOrZero(t *testing.T) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "cfseed_peer_messages_sent_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// A queue that is full drops, counts and reports, and Send neither waits nor
// calls back: the handler is stuck all the while.
func TestOverflow(t *testing.T) {
	hold := make(chan struct{})
	stuck := &stuckHandler{recorder: newRecorder(), hold: hold, reports: make(chan uint64, 1)}
	a := start(t, 1, func(c *Config) {
		c.QueueMessages, c.Handler = 4, stuck
		c.Dial = func(string) (*grpc.ClientConn, error) { return dial("127.0.0.1:1") }
	})
	a.h = stuck.recorder
	for range 50 {
		a.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeat, 1, 2)}) // unknown member
	}
	await(t, stuck.reports, "report")
	a.tr.SetPeer(2, []string{"nowhere"})
	for range 5000 {
		a.tr.Send([]*raftpb.Message{msg(raftpb.MsgHeartbeat, 1, 2)})
	}
	if v := a.metric(t, "cfseed_peer_send_dropped_total", map[string]string{"to": ident.FormatID(2)}); v < 5050-4 || v > 5050 {
		t.Errorf("%v messages counted as dropped; 5050 were sent, 4 may wait", v)
	}
	close(hold)
}

type stuckHandler struct {
	*recorder
	hold    chan struct{}
	reports chan uint64
}

func (s *stuckHandler) Unreachable(id uint64) {
	select {
	case s.reports <- id:
	default:
	}
	<-s.hold
}

func TestSendHoldsBackWhatPeersRefuse(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(t, a, b)
	a.tr.Send([]*raftpb.Message{
		msg(raftpb.MsgAppResp, 3, 2),                       // in another's name
		msg(raftpb.MsgHup, 1, 2),                           // a message to itself
		app(1, 2, strings.Repeat("v", MaxFrame)),           // too large
		msg(raftpb.MsgProp, 3, 2), app(1, 2, "after them"), // forwarded: goes
	})
	var types []string
	for range 2 {
		types = append(types, await(t, b.h.steps, "message").GetType().String())
	}
	if got := strings.Join(types, " "); got != "MsgProp MsgApp" {
		t.Errorf("got %s", got)
	}
	if v := a.metric(t, "cfseed_peer_send_dropped_total", map[string]string{"to": ident.FormatID(2)}); v != 3 {
		t.Errorf("%v messages dropped, want 3", v)
	}
}

func TestConfigAndRun(t *testing.T) {
	if _, err := New(Config{}); !fault.Is(err, fault.Usage) {
		t.Errorf("empty config: %v", err)
	}
	a := start(t, 1)
	if _, err := New(a.tr.cfg); !fault.Is(err, fault.Usage) {
		t.Errorf("second transport on one registry: %v", err)
	}
	if err := a.tr.Run(context.Background()); err == nil {
		t.Error("Run ran twice")
	}
}
