package transfer

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// TransferSnapshot pushes a seed of this member into a waiting target and
// streams progress. The lease stays open for the target's admission; when the
// push fails it is closed.
func (s *Server) TransferSnapshot(req *chainfirev1.TransferSnapshotRequest, stream grpc.ServerStreamingServer[chainfirev1.TransferSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_TransferSnapshot_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	result, err := s.push(ctx, req, stream)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	return rpcfault.ToStatus(stream.Send(&chainfirev1.TransferSnapshotResponse{
		Event: &chainfirev1.TransferSnapshotResponse_Result{Result: result}}))
}

func (s *Server) push(ctx context.Context, req *chainfirev1.TransferSnapshotRequest, stream grpc.ServerStreamingServer[chainfirev1.TransferSnapshotResponse]) (*chainfirev1.TransferResult, error) {
	const op = "transfer snapshot"
	if s.cfg.Dial == nil {
		return nil, fault.Newf(fault.Refused, op, "this member does not push")
	}
	if req.GetTargetUrl() == "" || len(req.GetTargetUrl()) > 1024 {
		return nil, fault.Newf(fault.Usage, op, "a target URL is needed")
	}
	if _, err := newChooser(req.GetCompression()); err != nil {
		return nil, err
	}
	sess, err := s.open(ctx, &chainfirev1.OpenSeedRequest{Target: req.GetTargetUrl(), TtlMs: req.GetLeaseTtlMs(), CapBytes: req.GetLeaseCapBytes()})
	if err != nil {
		return nil, err
	}
	lease := sess.lease
	if _, err := s.use(lease.ID, sess.layout.root, int64(min(req.GetRateLimit(), 1<<62))); err != nil {
		s.closeLease(lease.ID)
		return nil, err
	}
	log := s.cfg.Logger.With("lease", ident.FormatID(lease.ID), "target", lease.Target, "peer", peerName(stream.Context()))
	log.Info("seed push started")
	s.mu.Lock()
	limiters := []*rate.Limiter{s.limiter, sess.limiter}
	s.mu.Unlock()
	start := time.Now()
	pushed, err := Push(ctx, PushConfig{Dial: s.cfg.Dial, Target: req.GetTargetUrl(), Seed: sess.seed, Lease: lease,
		JoinToken: req.GetJoinToken(), Endpoints: s.cfg.ClientURLs(), Compression: req.GetCompression(),
		IdleTimeout: s.cfg.IdleTimeout, Alive: func() error { return s.alive(sess) },
		Progress: func(p Progress) {
			sess.sent.Store(p.BytesDone)
			sendProgress(stream, p)
		},
		limiters: limiters, pace: s.cfg.Pace, codec: s.codec, pool: s.pool})
	s.unuse(sess)
	log.Info("seed push ended", "seconds", time.Since(start).Seconds(), "bytes_wire", pushed.BytesWire, "result", result(err))
	if err != nil {
		s.closeLease(lease.ID)
		s.forget(lease.ID)
		if fault.Is(err, fault.Unreachable) && fault.HintOf(err) == "" {
			err = fault.New(fault.Unreachable, op, err).
				WithHint("does a node wait there? cfseed node --await-seed --listen-peer-urls %s", req.GetTargetUrl())
		}
		return nil, err
	}
	return &chainfirev1.TransferResult{Meta: pushed.Meta.Proto(), BytesWire: pushed.BytesWire, BytesReused: pushed.BytesReused,
		Seconds: pushed.Seconds, AlreadyComplete: pushed.AlreadyComplete}, nil
}

// sendProgress tells the caller how far the push is. A caller that went away
// ends the call's context, and with it the push.
func sendProgress(stream grpc.ServerStreamingServer[chainfirev1.TransferSnapshotResponse], p Progress) {
	_ = stream.Send(&chainfirev1.TransferSnapshotResponse{Event: &chainfirev1.TransferSnapshotResponse_Transfer{
		Transfer: &chainfirev1.TransferProgress{BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, BytesWire: p.BytesWire, BytesPerSecond: p.Rate}}})
}
