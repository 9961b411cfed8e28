package transfer

import (
	"context"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// DialChannelFunc connects to an endpoint, as the caller's configuration writes
// it, for a channel (ChannelProtocol): TLS is done, and without TLS the preface
// is sent. wrap is put around the socket, below TLS.
type DialChannelFunc func(ctx context.Context, endpoint string, wrap func(net.Conn) net.Conn) (net.Conn, error)

// What is known of an endpoint's channels.
const (
	channelsUnknown = iota
	channelsWork
	channelsAbsent // nothing that it said over one was an answer
)

// frameStream is where the frames of a share come from.
type frameStream interface {
	// RecvMsg reads the next frame into an *inFrame; io.EOF follows the last one.
	RecvMsg(m any) error
}

// request asks for frames: over the lane's channel where the source has those,
// else in a stream of gRPC. What end frees is the caller's to free.
func (l *lane) request(ctx context.Context, req *chainfirev1.GetSnapshotRequest) (stream frameStream, end context.CancelFunc, err error) {
	if l.channels() {
		if err = l.plugIn(ctx); err == nil {
			err = l.plugged.send(partRequest, &chainfirev1.ChannelRequest{Channel: l.secret, Request: req})
		}
		if err == nil {
			return &channelStream{c: l.plugged, known: &l.source.channels, within: connectWithin(l.cfg.IdleTimeout)}, func() {}, nil
		}
		l.unplug()
		if !l.absent(ctx) {
			return nil, nil, err
		}
	}
	l.alsoAsk()
	ctx, end = context.WithCancel(ctx)
	if stream, err = l.client.GetSnapshot(ctx, req, callOptions(l.raw)...); err != nil {
		end()
		return nil, nil, err
	}
	return stream, end, nil
}

// channels says whether the lane is to use one.
func (r *round) channels() bool {
	return len(r.secret) > 0 && r.cfg.DialChannel != nil && r.source.channels.Load() != channelsAbsent
}

// overChannels says whether a source has answered over channels.
func (p *puller) overChannels() bool {
	return slices.ContainsFunc(p.endpoints, func(e *endpoint) bool { return e.channels.Load() == channelsWork })
}

// plugIn connects the lane's channel unless it is. It ends with ctx.
func (l *lane) plugIn(ctx context.Context) error {
	if l.plugged != nil {
		return nil
	}
	dctx, cancel := context.WithTimeout(ctx, connectWithin(l.cfg.IdleTimeout))
	defer cancel()
	conn, err := l.cfg.DialChannel(dctx, l.addr, l.counter.wrap)
	if err != nil {
		return err
	}
	l.plugged = newChannel(conn, l.pool)
	l.release = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return nil
}

// unplug ends the lane's channel, if there is one.
func (l *lane) unplug() {
	if l.plugged == nil {
		return
	}
	l.release()
	_ = l.plugged.conn.Close()
	l.plugged = nil
}

// absent says, after an error of a channel, that the source has turned out to
// have none: streams may do.
func (l *lane) absent(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	l.source.channels.CompareAndSwap(channelsUnknown, channelsAbsent)
	return l.source.channels.Load() == channelsAbsent
}

// alsoAsk makes the lane's own connection one of those that must answer.
func (l *lane) alsoAsk() {
	for {
		old := l.asked.Load()
		if slices.Contains(*old, l.client) {
			return
		}
		with := append(slices.Clone(*old), l.client)
		if l.asked.CompareAndSwap(old, &with) {
			return
		}
	}
}

// channelStream is the answer to one request over a channel.
type channelStream struct {
	c      *channel
	known  *atomic.Int32 // of the endpoint
	within time.Duration // the first frame of an endpoint comes
	ended  bool
}

// RecvMsg implements frameStream.
func (s *channelStream) RecvMsg(m any) error {
	if s.ended {
		return io.EOF
	}
	f := m.(*inFrame)
	if s.known.Load() != channelsWork {
		return s.first(f)
	}
	err := s.c.frame(f)
	s.ended = err == nil && f.GetEnd() != nil
	return err
}

// first reads the first frame of an endpoint, which says that it has channels: it
// comes before anything is read or waited for.
func (s *channelStream) first(f *inFrame) error {
	if err := s.c.conn.SetReadDeadline(time.Now().Add(s.within)); err != nil {
		return err
	}
	if err := s.c.frame(f); err != nil {
		return err
	}
	s.known.Store(channelsWork)
	s.ended = f.GetEnd() != nil
	return s.c.conn.SetReadDeadline(time.Time{})
}

// connectWithin bounds one try to connect: over a line that swallows everything,
// the next try comes that soon after it is back.
func connectWithin(idle time.Duration) time.Duration { return max(idle/12, 2*time.Second) }
