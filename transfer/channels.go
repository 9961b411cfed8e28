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
// connect, and between requests. So many may be there at first.
const (
	channelFirst = 10 * time.Second
	channelPause = 5 * time.Minute
	maxStrangers = 128
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
	err = s.requests(ctx, c, idle)
	s.cfg.Logger.Debug("seed channel ended", "peer", peerName(ctx), "reason", err)
}

// requests answers until there is nothing more to be asked or answered.
func (s *Server) requests(ctx context.Context, c *channel, idle *idleTimer) error {
	select {
	case s.strangers <- struct{}{}:
	default:
		return fault.Newf(fault.Unreachable, "serve channel", "%d connections have not asked for anything yet", maxStrangers)
	}
	known := sync.OnceFunc(func() { <-s.strangers })
	defer known()
	for patience := channelFirst; ; patience = channelPause {
		if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		req, err := c.request()
		if err != nil {
			return err
		}
		if err := s.mayAsk(req); err != nil {
			return errors.Join(err, c.send(partMessage, errorFrame(err)))
		}
		if patience == channelFirst {
			known()
			background.Lower()
		}
		if err := s.answer(ctx, c, idle, req.GetRequest()); err != nil {
			return err
		}
	}
}

// answer answers one request; after an error the channel is of no use.
func (s *Server) answer(ctx context.Context, c *channel, idle *idleTimer, req *chainfirev1.GetSnapshotRequest) error {
	send := func(m *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
		idle.touch()
		defer idle.pause()
		return c.sendFrame(m, payload)
	}
	p, err := s.prepare(req)
	if err != nil {
		return errors.Join(err, send(errorFrame(err), nil))
	}
	defer s.unuse(p.sess)
	snd := s.newSender(ctx, p.sess, p.choice)
	snd.send = send
	if c.raw != nil && !p.check && !p.sess.toRead.Load() {
		snd.sendFile = func(m *chainfirev1.FrameChunk, fd uintptr, offset int64, n int) error {
			idle.touch()
			defer idle.pause()
			err := c.sendFile(m, fd, offset, n)
			if file := (*fileError)(nil); errors.As(err, &file) {
				p.sess.toRead.Store(true) // asked for again, it is read, and what is wrong has a name
				s.cfg.Logger.Warn("a file of the seed could not be sent", "lease", ident.FormatID(p.sess.lease.ID),
					"file", p.sess.layout.Files[m.GetFile()].Name, "error", err)
			}
			return err
		}
	}
	return snd.run(p.frames(snd))
}

// mayAsk says whether a channel's request is from who opened the seed, and whether
// that one may still read it. If not, opening it again tells why; a stranger learns
// nothing.
func (s *Server) mayAsk(req *chainfirev1.ChannelRequest) error {
	lease := req.GetRequest().GetLeaseId()
	s.mu.Lock()
	sess := s.sessions[lease]
	s.mu.Unlock()
	var opener *context.Context
	if sess != nil && subtle.ConstantTimeCompare(sess.secret[:], req.GetChannel()) == 1 {
		opener = sess.opener.Load()
	}
	if opener == nil {
		return fault.Newf(fault.Unreachable, "serve channel", "lease %s was not opened here by whoever asks", ident.FormatID(lease)).
			WithHint("open the seed again")
	}
	if err := s.cfg.Authorizer.AuthorizeSeed(*opener, chainfirev1.Seed_GetSnapshot_FullMethodName); err != nil {
		return fault.Newf(fault.Unreachable, "serve channel", "whoever opened lease %s must ask again: %w", ident.FormatID(lease), err).
			WithHint("open the seed again")
	}
	return nil
}
