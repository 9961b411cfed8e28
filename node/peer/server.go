package peer

import (
	"context"
	"errors"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// server is the accepting side.
type server struct {
	chainfirev1.UnimplementedPeerServer
	t *Transport
}

var (
	errNotRunning = fault.Newf(fault.Unreachable, "peer", "the member does not take messages yet, or any more")
	errStopping   = fault.Newf(fault.Unreachable, "peer", "the member stops")
)

// enter counts a call that Run must wait for and ties its context to Run's.
func (t *Transport) enter(ctx context.Context) (context.Context, context.CancelCauseFunc, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.group == nil || t.ended || t.ctx.Err() != nil {
		return nil, nil, nil, errNotRunning
	}
	ctx, end := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(t.ctx, func() { end(errStopping) })
	t.inbound.Add(1)
	return ctx, end, func() {
		unlink()
		end(nil)
		t.inbound.Done()
	}, nil
}

// Stream receives one lane of a peer. A goroutine of its own reads, so that
// the stream can be ended from here while a read waits: the return of this
// method is what makes that read fail.
func (s *server) Stream(stream grpc.BidiStreamingServer[chainfirev1.PeerFrame, chainfirev1.PeerFrame]) error {
	ctx, end, leave, err := s.t.enter(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	result := make(chan error, 1)
	go func() {
		defer leave()
		result <- s.t.receive(ctx, end, stream)
	}()
	select {
	case err = <-result:
	case <-ctx.Done():
		select {
		case err = <-result: // the reader ended, and the context with it
		default:
			err = context.Cause(ctx)
		}
	}
	// The reader may have ended because the context did: the cause says more.
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if isRefusal(fault.CodeOf(named(err))) && s.t.said.news(err.Error(), time.Now()) {
		s.t.cfg.Logger.Warn("refused a peer's stream", "remote", remoteAddr(stream.Context()), "err", err, "hint", fault.HintOf(err))
	}
	return toStatus(err)
}

func remoteAddr(ctx context.Context) string {
	if p, ok := grpcpeer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// receive reads the hello and then messages until the stream ends.
func (t *Transport) receive(ctx context.Context, end context.CancelCauseFunc,
	stream grpc.BidiStreamingServer[chainfirev1.PeerFrame, chainfirev1.PeerFrame]) error {
	watchdog := time.AfterFunc(t.greeting, func() { end(errHelloTimeout) })
	defer watchdog.Stop()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	watchdog.Stop()
	h := first.GetHello()
	release, err := t.admit(h, 0, end)
	if err != nil {
		return err
	}
	defer release()
	if err := stream.Send(&chainfirev1.PeerFrame{Hello: t.hello(h.GetFrom())}); err != nil {
		return err
	}
	t.welcome(h)
	st := t.statsOf(h.GetFrom())
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		t.heard(st)
		for _, b := range f.GetMessages() {
			m, err := t.decode(b, h)
			if err != nil {
				return err
			}
			if !travels(m.GetType()) {
				return fault.Newf(fault.Refused, "peer stream", "%s does not belong in a stream", m.GetType())
			}
			if err := t.cfg.Handler.Step(ctx, m); err != nil && ctx.Err() == nil {
				t.cfg.Logger.Debug("raft message not taken", "peer", ident.FormatID(h.GetFrom()), "type", m.GetType().String(), "err", err)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
}

// decode reads a message and holds its addresses against the hello.
func (t *Transport) decode(b []byte, h *chainfirev1.PeerHello) (*raftpb.Message, error) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fault.New(fault.Corrupt, "read raft message", err)
	}
	if m.GetTo() != h.GetTo() {
		return nil, fault.Newf(fault.Refused, "peer stream", "%s for member %s came to %s",
			m.GetType(), ident.FormatID(m.GetTo()), ident.FormatID(h.GetTo()))
	}
	if m.GetFrom() != h.GetFrom() && !forwarded(m.GetType()) {
		return nil, fault.Newf(fault.Refused, "peer stream", "%s in the name of member %s came from %s",
			m.GetType(), ident.FormatID(m.GetFrom()), ident.FormatID(h.GetFrom()))
	}
	return m, nil
}

// InstallSnapshot receives a Raft snapshot's message; the handler fetches the
// files.
func (s *server) InstallSnapshot(ctx context.Context, req *chainfirev1.InstallSnapshotRequest) (*chainfirev1.InstallSnapshotResponse, error) {
	ctx, end, leave, err := s.t.enter(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer leave()
	if err := s.t.receiveSnapshot(ctx, end, req); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return nil, toStatus(err)
	}
	return &chainfirev1.InstallSnapshotResponse{}, nil
}

func (t *Transport) receiveSnapshot(ctx context.Context, end context.CancelCauseFunc, req *chainfirev1.InstallSnapshotRequest) error {
	h := req.GetHello()
	release, err := t.admit(h, 0, end)
	if err != nil {
		return err
	}
	defer release()
	m, err := t.decode(req.GetMessage(), h)
	if err != nil {
		return err
	}
	meta := m.GetSnapshot().GetMetadata()
	if m.GetType() != raftpb.MsgSnap || meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetConfState() == nil {
		return fault.Newf(fault.Refused, "raft snapshot", "%s without a position and a configuration", m.GetType())
	}
	if n := len(req.GetManifestRoot()); n != 0 && n != 32 {
		return fault.Newf(fault.Refused, "raft snapshot", "manifest root of %d bytes", n)
	}
	t.welcome(h)
	return t.cfg.Handler.InstallSnapshot(ctx, req, m)
}
