package peer

import (
	"bytes"
	"context"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func maxSend() grpc.CallOption { return grpc.MaxCallSendMsgSize(4 * MaxFrame) }

// Every MsgSnap gets exactly one report, whatever happens to it.
func TestSnapshotIsReportedOnce(t *testing.T) {
	type scene struct {
		a, b    *node
		entered chan struct{} // the receiver is at work
	}
	block := func(s *scene) { // the receiver works until the call is given up
		s.b.h.install = func(ctx context.Context, _ *chainfirev1.InstallSnapshotRequest, _ *raftpb.Message) error {
			s.entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
	}
	cases := []struct {
		name    string
		prepare func(s *scene)
		send    int
		act     func(t *testing.T, s *scene)
		ok      int // reports of success; the rest are of failure
		sent    uint64
	}{
		{name: "done", send: 1, ok: 1, sent: 1},
		{name: "receiver fails", send: 1, sent: 1, prepare: func(s *scene) {
			s.b.h.install = func(context.Context, *chainfirev1.InstallSnapshotRequest, *raftpb.Message) error {
				return fault.Newf(fault.Corrupt, "install", "bad bytes")
			}
		}},
		{name: "unknown member", send: 1, prepare: func(s *scene) { s.a.tr.RemovePeer(2) }},
		{name: "nobody listens", send: 1, prepare: func(s *scene) { s.b.stopServer() }},
		{name: "no URL", send: 1, prepare: func(s *scene) { s.a.tr.SetPeer(2, nil) }},
		{name: "somebody else listens", send: 1, prepare: func(s *scene) {
			s.a.tr.SetPeer(2, []string{s.a.url})
		}},
		{name: "receiver dies", send: 1, sent: 1, prepare: block, act: func(t *testing.T, s *scene) {
			await(t, s.entered, "receiver")
			s.b.stopServer()
		}},
		{name: "receiver ends", send: 1, sent: 1, prepare: block, act: func(t *testing.T, s *scene) {
			await(t, s.entered, "receiver")
			s.b.cancel()
		}},
		{name: "removed midway, one waits", send: 1, sent: 1, prepare: block, act: func(t *testing.T, s *scene) {
			await(t, s.entered, "receiver")
			s.a.tr.Send([]*raftpb.Message{snap(1, 2)})
			s.a.tr.RemovePeer(2)
		}},
		{name: "Run ends midway, one waits", send: 1, sent: 1, prepare: block, act: func(t *testing.T, s *scene) {
			await(t, s.entered, "receiver")
			s.a.tr.Send([]*raftpb.Message{snap(1, 2)})
			s.a.cancel()
		}},
		{name: "after Run", send: 2, prepare: func(s *scene) { s.a.cancel(); s.a.done <- <-s.a.done }},
		{name: "too many", send: 5, sent: 1, prepare: block, act: func(t *testing.T, s *scene) {
			await(t, s.entered, "receiver")
			s.a.tr.RemovePeer(2)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &scene{a: start(t, 1), b: start(t, 2), entered: make(chan struct{}, 8)}
			connect(t, s.a, s.b)
			if c.prepare != nil {
				c.prepare(s)
			}
			want := c.send
			for range c.send {
				s.a.tr.Send([]*raftpb.Message{snap(1, 2)})
			}
			if c.act != nil {
				c.act(t, s)
			}
			if bytes.Contains([]byte(c.name), []byte("one waits")) {
				want++
			}
			ok := 0
			for range want {
				r := await(t, s.a.h.snapshots, "report")
				if r.id != 2 {
					t.Errorf("report for %d", r.id)
				}
				if r.ok {
					ok++
				}
			}
			if ok != c.ok {
				t.Errorf("%d reports of success, want %d", ok, c.ok)
			}
			s.a.stop(t) // whatever else would be reported has been by now
			if n := len(s.a.h.snapshots); n != 0 {
				t.Errorf("%d reports too many", n)
			}
			if _, sent := s.a.tr.Counters(2); sent < c.sent || c.name != "too many" && sent != c.sent {
				t.Errorf("%d snapshots sent, want %d", sent, c.sent)
			}
		})
	}
}

// What was queued before Run is reported as well, when Run comes.
func TestSnapshotOfPeerRemovedBeforeRun(t *testing.T) {
	h := newRecorder()
	tr, err := New(Config{Self: func() *chainfirev1.PeerHello { return identity(1) }, Handler: h, Dial: dial,
		Check: func(*chainfirev1.PeerHello) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	tr.SetPeer(2, []string{"127.0.0.1:1"})
	tr.Send([]*raftpb.Message{snap(1, 2)})
	tr.RemovePeer(2)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tr.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(h.snapshots) != 1 {
		t.Errorf("%d reports", len(h.snapshots))
	}
}

func TestSnapshotCarriesItsSource(t *testing.T) {
	root := bytes.Repeat([]byte{7}, 32)
	a := start(t, 1, func(c *Config) {
		c.SnapshotInfo = func(m *raftpb.Message) ([]byte, uint64) { return root, m.GetSnapshot().GetMetadata().GetIndex() }
	})
	b := start(t, 2)
	got := make(chan *chainfirev1.InstallSnapshotRequest, 1)
	b.h.install = func(_ context.Context, req *chainfirev1.InstallSnapshotRequest, m *raftpb.Message) error {
		if m.GetType() != raftpb.MsgSnap {
			t.Errorf("handler got %s", m.GetType())
		}
		got <- req
		return nil
	}
	connect(t, a, b)
	a.tr.Send([]*raftpb.Message{snap(1, 2)})
	req := await(t, got, "snapshot")
	if !bytes.Equal(req.GetManifestRoot(), root) || req.GetLeaseId() != 9 {
		t.Errorf("root %x, lease %d", req.GetManifestRoot(), req.GetLeaseId())
	}
	if r := await(t, a.h.snapshots, "report"); !r.ok {
		t.Error("reported as failed")
	}
	if _, snaps := a.tr.Counters(2); snaps != 1 {
		t.Errorf("%d snapshots counted", snaps)
	}
	if v := a.metric(t, "cfseed_peer_raft_snapshots_sent_total", map[string]string{"to": ident.FormatID(2)}); v != 1 {
		t.Errorf("metric %v", v)
	}
}

func TestSnapshotRefused(t *testing.T) {
	n := start(t, 2)
	n.h.install = func(context.Context, *chainfirev1.InstallSnapshotRequest, *raftpb.Message) error {
		t.Error("a refused snapshot reached the handler")
		return nil
	}
	noConf := snap(1, 2)
	noConf.Snapshot.Metadata.ConfState = nil
	noIndex := snap(1, 2)
	noIndex.Snapshot.Metadata.Index = nil
	cases := []struct {
		name string
		req  *chainfirev1.InstallSnapshotRequest
		code fault.Code
	}{
		{"no hello", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, snap(1, 2))}, fault.Refused},
		{"in another's name", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, snap(3, 2))}, fault.Refused},
		{"for another", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, snap(1, 3))}, fault.Refused},
		{"no snapshot", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, msg(raftpb.MsgSnap, 1, 2))}, fault.Refused},
		{"no configuration", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, noConf)}, fault.Refused},
		{"no position", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, noIndex)}, fault.Refused},
		{"another type", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, app(1, 2, "x"))}, fault.Refused},
		{"short root", &chainfirev1.InstallSnapshotRequest{Message: mustMarshal(t, snap(1, 2)), ManifestRoot: []byte{1}}, fault.Refused},
		{"bad bytes", &chainfirev1.InstallSnapshotRequest{Message: []byte{0xff}}, fault.Corrupt},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn, err := dial(n.url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // test
			if c.name != "no hello" {
				c.req.Hello = identity(1)
				c.req.Hello.To = 2
			}
			_, err = chainfirev1.NewPeerClient(conn).InstallSnapshot(t.Context(), c.req)
			wantCode(t, asFault(err), c.code)
			if status.Code(err) == codes.OK {
				t.Error("accepted")
			}
		})
	}
}
