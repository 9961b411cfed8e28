package transfer

import (
	"context"
	"crypto/subtle"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"

	"github.com/chainfire/cfseed/internal/background"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// ServeChannels serves the connections that l accepts, whose TLS is done, until
// ctx ends or l is closed; it returns when all of them have ended. A server
// whose Config says so offers channels to those who open a seed.
func (s *Server) ServeChannels(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // ends Accept
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return fault.New(fault.Internal, "accept channel", err)
		}
		conns.Go(func() { s.channel(ctx, conn) })
	}
}

// How long a channel may be there without a request: at first, for anybody may
// connect, and between requests.
const (
	channelFirst = 10 * time.Second
	channelPause = 5 * time.Minute
)

// channel serves one connection, request after request.
func (s *Server) channel(ctx context.Context, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // nothing is lost with it
	done, err := s.start()
	if err != nil {
		return
	}
	defer done()
	ctx, cancel := s.bind(peer.NewContext(ctx, &peer.Peer{Addr: conn.RemoteAddr()}))
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends what reads and writes
	background.Lower()

	c := newChannel(conn, s.pool)
	idle := newIdleTimer(s.cfg.Conns.of(ctx))
	idle.pause()
	var watch sync.WaitGroup
	defer watch.Wait()
	ended := make(chan struct{})
	defer close(ended)
	watch.Go(func() {
		if err := idle.wait(ctx, ended, s.cfg.IdleTimeout, "serve channel"); err != nil {
			_ = conn.Close()
		}
	})
	for patience := channelFirst; ; patience = channelPause {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return
		}
		req, err := c.request()
		if err == nil {
			err = s.answer(ctx, c, idle, req)
		}
		if err != nil {
			s.cfg.Logger.Debug("seed channel ended", "peer", peerName(ctx), "reason", err)
			return
		}
	}
}

// answer answers one request; after an error the channel is of no use.
func (s *Server) answer(ctx context.Context, c *channel, idle *idleTimer, req *chainfirev1.ChannelRequest) error {
	send := func(m *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
		idle.touch()
		defer idle.pause()
		return c.sendFrame(m, payload)
	}
	p, err := s.prepare(req.GetRequest())
	if err != nil {
		return errors.Join(err, send(errorFrame(err), nil))
	}
	defer s.unuse(p.sess)
	if err := s.mayAsk(p.sess, req.GetChannel()); err != nil {
		return errors.Join(err, send(errorFrame(err), nil))
	}
	snd := s.newSender(ctx, p.sess, p.choice)
	snd.send = send
	if c.raw != nil && !p.check {
		snd.sendFile = func(m *chainfirev1.FrameChunk, fd uintptr, offset int64, n int) error {
			idle.touch()
			defer idle.pause()
			return c.sendFile(m, fd, offset, n)
		}
	}
	return snd.run(p.frames(snd))
}

// mayAsk says whether a channel's request is from who opened the seed, and whether
// that one may still read it. If not, opening it again tells why.
func (s *Server) mayAsk(sess *session, secret []byte) error {
	opener := sess.opener.Load()
	if opener == nil || subtle.ConstantTimeCompare(sess.secret[:], secret) != 1 {
		return fault.Newf(fault.Unreachable, "serve channel", "lease %s was not opened by whoever asks", ident.FormatID(sess.lease.ID)).
			WithHint("open the seed again")
	}
	if err := s.cfg.Authorizer.AuthorizeSeed(*opener, chainfirev1.Seed_GetSnapshot_FullMethodName); err != nil {
		return fault.Newf(fault.Unreachable, "serve channel", "whoever opened lease %s must ask again: %w", ident.FormatID(sess.lease.ID), err).
			WithHint("open the seed again")
	}
	return nil
}
