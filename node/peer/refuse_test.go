package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestHelloRefused(t *testing.T) {
	removed := atomic.Bool{}
	n := start(t, 2, func(c *Config) {
		c.Check = func(*chainfirev1.PeerHello) error {
			if removed.Load() {
				return fmt.Errorf("member 1: %w", ErrRemoved)
			}
			return nil
		}
	})
	cases := []struct {
		name string
		edit func(h *chainfirev1.PeerHello)
		code fault.Code
		is   error
		text string
	}{
		{"accepted", func(*chainfirev1.PeerHello) {}, "", nil, ""},
		{"older format", func(h *chainfirev1.PeerHello) { h.Version = 0 }, fault.Refused, nil, "format 0"},
		{"newer format", func(h *chainfirev1.PeerHello) { h.Version = 2 }, fault.Refused, nil, "format 2"},
		{"nobody", func(h *chainfirev1.PeerHello) { h.From = 0 }, fault.Refused, nil, "names no member"},
		{"for another member", func(h *chainfirev1.PeerHello) { h.To = 3 }, fault.Refused, nil, "looks for member"},
		{"no boot nonce", func(h *chainfirev1.PeerHello) { h.BootNonce = nil }, fault.Refused, nil, "nonce of 0"},
		{"long directory nonce", func(h *chainfirev1.PeerHello) { h.DirectoryNonce = make([]byte, 17) }, fault.Refused, nil, "nonce of 17"},
		{"short genesis nonce", func(h *chainfirev1.PeerHello) { h.GenesisNonce = make([]byte, 3) }, fault.Refused, nil, "nonce of 3"},
		{"many URLs", func(h *chainfirev1.PeerHello) { h.PeerUrls = make([]string, maxURLs+1) }, fault.Refused, nil, "URLs"},
		{"long URL", func(h *chainfirev1.PeerHello) { h.ClientUrls = []string{strings.Repeat("u", maxURLLen+1)} }, fault.Refused, nil, "URL of"},
		{"long name", func(h *chainfirev1.PeerHello) { h.Name = strings.Repeat("u", maxName+1) }, fault.Refused, nil, "name of"},
		{"its own ID, other boot", func(h *chainfirev1.PeerHello) { h.From = 2 }, fault.Refused, ErrCopied, ""},
		{"itself", func(h *chainfirev1.PeerHello) { *h = *proto.CloneOf(identity(2)); h.To = 2 }, fault.Refused, nil, "called itself"},
		{"another cluster", func(h *chainfirev1.PeerHello) { h.ClusterId = 8 }, fault.Refused, ErrOtherCluster, ""},
		{"another cluster, which gives us another ID", func(h *chainfirev1.PeerHello) { h.ClusterId, h.To = 8, 3 }, fault.Refused, ErrOtherCluster, ""},
		{"removed", func(*chainfirev1.PeerHello) { removed.Store(true) }, fault.Refused, ErrRemoved, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := identity(1)
			h.To = 2
			c.edit(h)
			got, err := rawStream(t, n).hello(h)
			wantCode(t, err, c.code)
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v is not %v", err, c.is)
			}
			if c.text != "" && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not say %q", err, c.text)
			}
			if err == nil && (got.GetFrom() != 2 || got.GetTo() != 1) {
				t.Errorf("answered by %v", got)
			}
		})
	}
	t.Run("no hello", func(t *testing.T) {
		r := rawStream(t, n)
		r.send(&chainfirev1.PeerFrame{Messages: [][]byte{mustMarshal(t, msg(raftpb.MsgVote, 1, 2))}})
		wantCode(t, r.end(), fault.Refused)
	})
	if len(n.h.steps) != 0 {
		t.Errorf("%d messages passed", len(n.h.steps))
	}
}

func TestStreamEndsOnForgedMessages(t *testing.T) {
	n := start(t, 2)
	cases := []struct {
		name string
		body []byte
		code fault.Code // "" = the message passes
	}{
		{"good", mustMarshal(t, msg(raftpb.MsgVote, 1, 2)), ""},
		{"forwarded proposal", mustMarshal(t, msg(raftpb.MsgProp, 3, 2)), ""},
		{"forwarded read", mustMarshal(t, msg(raftpb.MsgReadIndex, 3, 2)), ""},
		{"forwarded transfer", mustMarshal(t, msg(raftpb.MsgTransferLeader, 3, 2)), ""},
		{"vote in another's name", mustMarshal(t, msg(raftpb.MsgVoteResp, 3, 2)), fault.Refused},
		{"acknowledgement in another's name", mustMarshal(t, msg(raftpb.MsgAppResp, 3, 2)), fault.Refused},
		{"heartbeat in another's name", mustMarshal(t, msg(raftpb.MsgHeartbeat, 3, 2)), fault.Refused},
		{"for another", mustMarshal(t, msg(raftpb.MsgVote, 1, 3)), fault.Refused},
		{"local", mustMarshal(t, msg(raftpb.MsgHup, 1, 2)), fault.Refused},
		{"storage answer", mustMarshal(t, msg(raftpb.MsgStorageAppendResp, 1, 2)), fault.Refused},
		{"unknown type", mustMarshal(t, msg(raftpb.MessageType(99), 1, 2)), fault.Refused},
		{"snapshot", mustMarshal(t, snap(1, 2)), fault.Refused},
		{"no message", []byte{0xff, 0xff, 0xff}, fault.Corrupt},
		{"empty", nil, fault.Refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := rawStream(t, n)
			h := identity(1)
			h.To = 2
			if _, err := r.hello(h); err != nil {
				t.Fatal(err)
			}
			r.send(&chainfirev1.PeerFrame{Messages: [][]byte{c.body}})
			if c.code == "" {
				await(t, n.h.steps, "message")
				return
			}
			wantCode(t, r.end(), c.code)
			if len(n.h.steps) != 0 {
				t.Errorf("%v passed", <-n.h.steps)
			}
		})
	}
}

// A frame larger than the limit is refused before it is read.
func TestFrameIsBounded(t *testing.T) {
	n := start(t, 2)
	r := rawStream(t, n)
	h := identity(1)
	h.To = 2
	if _, err := r.hello(h); err != nil {
		t.Fatal(err)
	}
	// The client's own limit is in the way, so this client has none.
	c, err := dial(n.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // test
	req := &chainfirev1.InstallSnapshotRequest{Hello: h, Message: make([]byte, MaxFrame+1)}
	_, err = chainfirev1.NewPeerClient(c).InstallSnapshot(t.Context(), req, maxSend())
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

// A member that refuses another must not take that for its own removal.
func TestOwnRefusalIsNotReported(t *testing.T) {
	listen, heard := refusals()
	b := start(t, 2)
	a := start(t, 1, listen, func(c *Config) {
		c.Check = func(*chainfirev1.PeerHello) error { return ErrRemoved }
	})
	a.tr.SetPeer(2, []string{b.url})
	await(t, a.h.unreachable, "report")
	await(t, a.h.unreachable, "second report")
	select {
	case err := <-heard:
		t.Errorf("heard %v", err)
	default:
	}
}

// RemovePeer without a rule against the member ends its streams all the same.
func TestRemovePeerEndsStreams(t *testing.T) {
	n := start(t, 2)
	r := rawStream(t, n)
	h := identity(1)
	h.To = 2
	if _, err := r.hello(h); err != nil {
		t.Fatal(err)
	}
	await(t, n.h.learned, "hello")
	n.tr.RemovePeer(1)
	wantCode(t, r.end(), fault.Unreachable)
}

// Neither side waits for ever for the other's hello.
func TestSilenceIsATimeout(t *testing.T) {
	n := start(t, 2, nil)
	wantCode(t, rawStream(t, n).end(), fault.Timeout)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	chainfirev1.RegisterPeerServer(srv, silent{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	n.tr.SetPeer(3, []string{l.Addr().String()})
	await(t, n.h.unreachable, "report")
	wantCode(t, n.tr.LastError(3), fault.Timeout)
}

// silent takes streams and says nothing.
type silent struct {
	chainfirev1.UnimplementedPeerServer
}

func (silent) Stream(s grpc.BidiStreamingServer[chainfirev1.PeerFrame, chainfirev1.PeerFrame]) error {
	<-s.Context().Done()
	return s.Context().Err()
}

func TestNotRunningIsUnreachable(t *testing.T) {
	n := start(t, 2)
	n.cancel()
	if err := await(t, n.done, "end of Run"); err != nil {
		t.Fatal(err)
	}
	n.done <- nil // for the clean-up
	h := identity(1)
	h.To = 2
	_, err := rawStream(t, n).hello(h)
	wantCode(t, err, fault.Unreachable)
}

func TestStatusCrossesTheWire(t *testing.T) {
	for _, c := range []struct {
		in      error
		is      error
		refused bool
	}{
		{ErrRemoved, ErrRemoved, true},
		{fmt.Errorf("x: %w", fault.New(fault.Refused, "y", ErrCopied)), ErrCopied, true},
		{fault.New(fault.Refused, "y", ErrReplaced).WithHint("z"), ErrReplaced, true},
		{fault.New(fault.Refused, "y", ErrOtherCluster).WithHint("z"), ErrOtherCluster, true},
		{fault.Newf(fault.Permission, "y", "z"), nil, true},
		{fault.Newf(fault.Unreachable, "y", "z"), nil, false},
		{context.DeadlineExceeded, nil, false},
		{status.Error(codes.Unavailable, "connection refused"), nil, false},
		{nil, nil, false},
	} {
		out, refused := fromStatus("op", toStatus(c.in))
		if refused != c.refused || (out == nil) != (c.in == nil) || c.is != nil && !errors.Is(out, c.is) {
			t.Errorf("%v became %v, refused %v", c.in, out, refused)
		}
		if c.is == nil && (errors.Is(out, ErrRemoved) || errors.Is(out, ErrReplaced) || errors.Is(out, ErrCopied)) {
			t.Errorf("%v became %v", c.in, out)
		}
	}
}

func FuzzReceived(f *testing.F) {
	for _, m := range []proto.Message{msg(raftpb.MsgVote, 1, 2), app(1, 2, "a"), snap(1, 2), msg(raftpb.MsgProp, 3, 2)} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	h := identity(1)
	h.To = 2
	f.Fuzz(func(t *testing.T, b []byte) {
		tr := &Transport{}
		m, err := tr.decode(b, h)
		if err != nil {
			if fault.CodeOf(err) == fault.Internal {
				t.Errorf("untyped error %v", err)
			}
		} else if m.GetTo() != 2 || m.GetFrom() != 1 && !forwarded(m.GetType()) {
			t.Errorf("%v passed", m)
		}
		var hello chainfirev1.PeerHello
		if proto.Unmarshal(b, &hello) == nil {
			if err := wellFormed(&hello); err == nil && (len(hello.GetBootNonce()) != 16 || hello.GetVersion() != Version) {
				t.Errorf("%v is not well formed", &hello)
			}
		}
	})
}
