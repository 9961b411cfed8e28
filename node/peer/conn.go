package peer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// peer is one other member: what waits for it and how to reach it.
type peer struct {
	id            uint64
	stats         *stats
	ctx           context.Context // ends with RemovePeer or Run
	cancel        context.CancelFunc
	control, bulk *queue
	snaps         *snapshotQueue

	mu      sync.Mutex
	urls    []string
	good    string // the URL that worked last
	changed chan struct{}
}

func (p *peer) queueFor(m *raftpb.Message) *queue {
	if isBulk(m) {
		return p.bulk
	}
	return p.control
}

func (p *peer) flush() int { return p.control.flush() + p.bulk.flush() }

func (p *peer) setURLs(urls []string) {
	p.mu.Lock()
	same := slices.Equal(p.urls, urls)
	if !same {
		p.urls = slices.Clone(urls)
	}
	p.mu.Unlock()
	if same {
		return
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// target gives the URL for the given attempt, "" when there is none.
func (p *peer) target(attempt int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.urls) == 0 {
		return ""
	}
	return p.urls[attempt%len(p.urls)]
}

// best gives the URL that worked last, if it is still one of the peer's.
func (p *peer) best() string {
	p.mu.Lock()
	good := p.good
	known := slices.Contains(p.urls, good)
	p.mu.Unlock()
	if known {
		return good
	}
	return p.target(0)
}

var (
	errURLsChanged  = errors.New("the peer has new URLs")
	errHelloTimeout = fault.Newf(fault.Timeout, opHello, "no hello came")
	errNoURL        = fault.Newf(fault.Unreachable, opHello, "no peer URL is known")
)

// supervise keeps one connection to p until it is removed or Run ends.
func (t *Transport) supervise(p *peer) {
	log := t.cfg.Logger.With(slog.String("peer", ident.FormatID(p.id)))
	failures, attempt := 0, 0
	for {
		began := time.Now()
		err := t.connect(p, p.target(attempt), log)
		if p.ctx.Err() != nil {
			return
		}
		if p.stats.setErr(err) {
			log.Warn("no connection to peer", "url", p.target(attempt), "err", err, "hint", fault.HintOf(err))
		}
		p.stats.drop(p.flush())
		t.reports.postUnreachable(p.id)
		switch {
		case errors.Is(err, errURLsChanged):
			failures, attempt = 0, 0
		case time.Since(began) >= backoffReset:
			failures = 0
		default:
			attempt++
		}
		if !t.pause(p, failures) {
			return
		}
		failures++
	}
}

// pause waits before the next attempt: not at all after the first failure, then
// longer each time, never longer than backoffCap, because elections wait for
// connections. It reports false when the peer is gone.
func (t *Transport) pause(p *peer, failures int) bool {
	if failures == 0 {
		return p.ctx.Err() == nil
	}
	d := backoffCap
	if failures < 6 {
		d = min(d, backoffFirst<<(failures-1))
	}
	d -= time.Duration(t.cfg.Rand() * float64(d/2))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.changed:
	case <-p.ctx.Done():
		return false
	}
	return true
}

// connect runs one connection with its two lanes until it fails.
func (t *Transport) connect(p *peer, url string, log *slog.Logger) error {
	if url == "" {
		select {
		case <-p.changed:
			return errURLsChanged
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-time.After(backoffCap): // what waits is dropped now and then
			return errNoURL
		}
	}
	conn, err := t.cfg.Dial(url)
	if err != nil {
		return fault.New(fault.Unreachable, "dial peer", err)
	}
	defer conn.Close() //nolint:errcheck // nothing to do about it
	g, ctx := errgroup.WithContext(p.ctx)
	var lanes atomic.Int32
	stands := func() {
		if lanes.Add(1) < 2 {
			return
		}
		p.mu.Lock()
		p.good = url
		p.mu.Unlock()
		if p.stats.setErr(nil) {
			log.Info("connected to peer", "url", url)
		}
	}
	g.Go(func() error { return t.lane(ctx, conn, p, p.control, stands) })
	g.Go(func() error { return t.lane(ctx, conn, p, p.bulk, stands) })
	g.Go(func() error {
		select {
		case <-p.changed:
			return errURLsChanged
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// lane runs one stream: hello, then what q holds, until the stream fails.
func (t *Transport) lane(ctx context.Context, conn *grpc.ClientConn, p *peer, q *queue, stands func()) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s, release, err := t.greet(ctx, end, conn, p.id)
	if err != nil {
		return err
	}
	defer release()
	stands()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := t.streamEnd(ctx, s, p.id)
		end(err) // a Send that waits for the peer's window would wait for ever
		return err
	})
	g.Go(func() error {
		err := t.pump(gctx, s, p, q)
		end(err)
		return err
	})
	return g.Wait()
}

// streamEnd waits until the peer, or the network, ends a stream.
func (t *Transport) streamEnd(ctx context.Context, s chainfirev1.Peer_StreamClient, id uint64) error {
	for {
		if _, err := s.Recv(); err != nil {
			return t.callError(ctx, id, err)
		}
	}
}

// greet opens a stream and exchanges hellos; end ends the stream's context.
func (t *Transport) greet(ctx context.Context, end context.CancelCauseFunc, conn *grpc.ClientConn, id uint64) (
	chainfirev1.Peer_StreamClient, func(), error) {
	watchdog := time.AfterFunc(t.greeting, func() { end(errHelloTimeout) })
	defer watchdog.Stop()
	s, err := chainfirev1.NewPeerClient(conn).Stream(ctx)
	if err != nil {
		return nil, nil, t.callError(ctx, id, err)
	}
	// After io.EOF the reason is in what Recv returns.
	if err := s.Send(&chainfirev1.PeerFrame{Hello: t.hello(id)}); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, t.callError(ctx, id, err)
	}
	f, err := s.Recv()
	if err != nil {
		return nil, nil, t.callError(ctx, id, err)
	}
	release, err := t.admit(f.GetHello(), id, end)
	if err != nil {
		return nil, nil, err
	}
	t.welcome(f.GetHello())
	return s, release, nil
}

// admit checks a hello and registers its stream.
func (t *Transport) admit(h *chainfirev1.PeerHello, expect uint64, end func(error)) (release func(), err error) {
	if err := t.checkHello(h, expect); err != nil {
		return nil, err
	}
	release, err = t.sessions.open(&session{hello: h, end: end})
	if err != nil {
		return nil, err
	}
	// Again: RemovePeer ends the streams it sees, so one that it could not see
	// yet must see the removal.
	if err := t.checkHello(h, expect); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// callError classes the failure of a call to a peer and passes a refusal on.
func (t *Transport) callError(ctx context.Context, id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return fault.Newf(fault.Unreachable, "peer stream", "the peer ended it")
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	ferr, refused := fromStatus("peer stream", err)
	if refused && (!errors.Is(ferr, ErrCopied) || t.statsOf(id).copied() > t.cfg.CopiedAfter) {
		t.cfg.Refused(id, ferr)
	}
	return ferr
}

// pump sends what q holds, a frame at a time.
func (t *Transport) pump(ctx context.Context, s chainfirev1.Peer_StreamClient, p *peer, q *queue) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-q.ready:
		}
		batch := q.take(frameTarget)
		if len(batch) == 0 {
			continue
		}
		err := t.sendFrame(s, p, batch)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			// The peer ended the stream; streamEnd has the reason.
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return err
	}
}

// sendFrame marshals a batch into one pooled buffer and sends it. gRPC encodes
// the frame before Send returns, so the buffer is free again then.
func (t *Transport) sendFrame(s chainfirev1.Peer_StreamClient, p *peer, batch []*raftpb.Message) error {
	pooled := t.buffers.Get().(*[]byte)
	buf := (*pooled)[:0]
	type span struct{ from, to int }
	spans := make([]span, 0, len(batch))
	kept := batch[:0:len(batch)]
	for _, m := range batch {
		from := len(buf)
		out, err := proto.MarshalOptions{}.MarshalAppend(buf, m)
		if err != nil || len(out)-from > maxMessage {
			t.cfg.Logger.Error("raft message can not be sent", "peer", p.stats.to, "type", m.GetType().String(),
				"bytes", len(out)-from, "err", err)
			p.stats.drop(1)
			t.reports.postUnreachable(p.id)
			continue
		}
		buf = out
		spans, kept = append(spans, span{from, len(buf)}), append(kept, m)
	}
	frame := &chainfirev1.PeerFrame{Messages: make([][]byte, len(spans))}
	for i, sp := range spans {
		frame.Messages[i] = buf[sp.from:sp.to]
	}
	for i, m := range kept { // before the receiver can show that it has them
		p.stats.sent(m.GetType().String(), spans[i].to-spans[i].from)
		if m.GetType() == raftpb.MsgApp {
			p.stats.sentEntries(m.GetIndex()+1, len(m.GetEntries()))
		}
	}
	var err error
	if len(spans) > 0 {
		err = s.Send(frame)
	}
	if cap(buf) <= 2*frameTarget {
		*pooled = buf
	}
	t.buffers.Put(pooled)
	return err
}
