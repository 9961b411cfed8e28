package transfer

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"

	"github.com/chainfire/cfseed/internal/background"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// GetSnapshot streams the manifest or ranges of a seed that OpenSeed prepared.
func (s *Server) GetSnapshot(req *chainfirev1.GetSnapshotRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_GetSnapshot_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	return rpcfault.ToStatus(s.serve(ctx, req, stream))
}

// prepared is a request for frames that was found good, under a session that
// its holder uses.
type prepared struct {
	sess     *session
	choice   *chooser
	manifest bool
	ranges   []Range
	check    bool
}

// prepare checks a request. The caller gives back the use of the session.
func (s *Server) prepare(req *chainfirev1.GetSnapshotRequest) (p *prepared, err error) {
	root, err := rootFrom(req.GetManifestRoot())
	if err != nil {
		return nil, fault.New(fault.Usage, "get snapshot", err)
	}
	p = &prepared{manifest: req.GetManifest(), check: req.GetCheck()}
	if p.choice, err = newChooser(req.GetCompression()); err != nil {
		return nil, err
	}
	if p.sess, err = s.use(req.GetLeaseId(), root, int64(min(req.GetRateLimit(), 1<<62))); err != nil {
		return nil, err
	}
	p.choice.share(&p.sess.choice)
	if p.ranges, err = p.sess.layout.rangesFrom(req.GetRanges()); err == nil {
		err = s.alive(p.sess)
	}
	if err != nil {
		s.unuse(p.sess)
		return nil, err
	}
	return p, nil
}

// frames is what snd is to send.
func (p *prepared) frames(snd *sender) func() error {
	if p.manifest {
		return snd.manifest
	}
	return func() error { return snd.ranges(p.ranges) }
}

// serve runs the stream of a request under a watchdog.
func (s *Server) serve(ctx context.Context, req *chainfirev1.GetSnapshotRequest, stream grpc.ServerStream) error {
	p, err := s.prepare(req)
	if err != nil {
		return err
	}
	idle := newIdleTimer(s.cfg.Conns.of(stream.Context()))
	snd := s.newSender(ctx, p.sess, p.choice)
	snd.send = func(m *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
		idle.touch()
		defer idle.pause()
		return stream.SendMsg(&outFrame{GetSnapshotResponse: m, payload: payload})
	}
	idle.pause()
	log := s.cfg.Logger.With("lease", ident.FormatID(p.sess.lease.ID), "target", p.sess.lease.Target, "peer", peerName(stream.Context()))
	log.Debug("seed stream started", "manifest", p.manifest, "ranges", len(p.ranges))
	start := time.Now()
	err = s.guarded(ctx, idle, p.sess, func() error { return snd.run(p.frames(snd)) })
	log.Debug("seed stream ended", "seconds", time.Since(start).Seconds(), "result", result(err))
	return err
}

func (s *Server) newSender(ctx context.Context, sess *session, choice *chooser) *sender {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &sender{ctx: ctx, alive: func() error { return s.alive(sess) }, seed: sess.seed, layout: sess.layout,
		codec: s.codec, pool: s.pool, limiters: []*rate.Limiter{s.limiter, sess.limiter}, pace: s.cfg.Pace, choice: choice,
		sent: func(raw, _ int) { sess.sent.Add(uint64(raw)) }}
}

// guarded runs f, which sends on a stream, and ends with it; or, with
// fault.Timeout or ctx's cause, before it: then f ends as soon as the RPC that
// it is blocked in has returned, and Close waits for it. It takes over the
// caller's use of sess.
func (s *Server) guarded(ctx context.Context, idle *idleTimer, sess *session, f func() error) error {
	var err error
	done := make(chan struct{})
	s.wg.Go(func() {
		background.Lower()
		defer s.unuse(sess)
		defer close(done)
		err = f()
	})
	if werr := idle.wait(ctx, done, s.cfg.IdleTimeout, "serve seed"); werr != nil {
		return werr
	}
	return err
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

func peerName(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
