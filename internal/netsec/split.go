package netsec

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Split tells HTTP/1.1 from gRPC on one address. A gRPC server made with
// Credentials serves the listener that Listen gives; the connections that turn
// out to speak HTTP/1.1 come out of Accept, for an HTTP server, TLS done. It
// decides while gRPC makes the connection, so it adds no goroutine and no step
// to a call.
//
// Without TLS the first bytes tell. With TLS the client does, by ALPN: who
// offers HTTP/1.1, also beside HTTP/2, gets that, for browsers and probes offer
// both and clients of gRPC only HTTP/2.
type Split struct {
	addr  net.Addr
	conf  *tls.Config // nil: plain text
	creds credentials.TransportCredentials
	away  chan net.Conn            // nil: HTTP/1.1 is not served
	apart map[string]chan net.Conn // by protocol
	done  chan struct{}

	mu      sync.Mutex
	closed  bool
	pending map[*guest]bool // connections that have not shown yet what they speak
}

// Split gives the splitter of an address with the URL's scheme.
func (f Files) Split(u URL, addr net.Addr) (*Split, error) {
	s := &Split{addr: addr, away: make(chan net.Conn), apart: map[string]chan net.Conn{}, done: make(chan struct{}), pending: map[*guest]bool{}, creds: insecure.NewCredentials()}
	if !u.TLS() {
		return s, nil
	}
	conf, err := f.Server()
	if err != nil {
		return nil, err
	}
	conf.NextProtos = []string{"http/1.1", "h2"}
	s.conf, s.creds = conf, credentials.NewTLS(conf)
	return s, nil
}

// Credentials are for the gRPC server.
func (s *Split) Credentials() credentials.TransportCredentials {
	return splitting{TransportCredentials: s.creds, s: s}
}

// Listen gives the listener that the gRPC server serves in the place of l.
func (s *Split) Listen(l net.Listener) net.Listener { return guestListener{l} }

// Accept gives the next connection of HTTP/1.1.
func (s *Split) Accept() (net.Conn, error) { return s.accept(s.away) }

func (s *Split) accept(conns chan net.Conn) (net.Conn, error) {
	select {
	case c := <-conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (s *Split) Addr() net.Addr { return s.addr }

// Close ends Accept, and the connections that have not shown what they speak:
// gRPC waits for those when it stops.
func (s *Split) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.done)
	for g := range s.pending {
		g.Conn.Close() //nolint:errcheck // whoever reads from it hears of it
	}
	return nil
}

// enter notes a connection that is about to show what it speaks.
func (s *Split) enter(g *guest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.pending[g] = true
	}
	return !s.closed
}

func (s *Split) leave(g *guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, g)
}

// handOver gives a connection, which is over g, to another server.
func (s *Split) handOver(g *guest, c net.Conn, to chan net.Conn) error {
	if to == nil {
		return errProtocol
	}
	g.gone.Store(true)
	if err := g.Conn.SetDeadline(time.Time{}); err != nil {
		c.Close() //nolint:errcheck // it is broken already
		return err
	}
	select {
	case to <- c:
	case <-s.done:
		c.Close() //nolint:errcheck // nobody serves it any more
	}
	return credentials.ErrConnDispatched
}

type guestListener struct{ net.Listener }

func (l guestListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guest{Conn: c}, nil
}

// guest is an accepted connection, whose first bytes may have been read already.
type guest struct {
	net.Conn
	head []byte
	gone atomic.Bool // to another server
}

func (g *guest) Read(p []byte) (int, error) {
	if len(g.head) == 0 {
		return g.Conn.Read(p)
	}
	n := copy(p, g.head)
	g.head = g.head[n:]
	return n, nil
}

// NetConn gives the connection underneath, once nothing of it waits here.
func (g *guest) NetConn() net.Conn { return g.Conn }

// SetDeadline is how gRPC bounds the making of a connection. It lifts the bound
// afterwards, also of one that was handed over and has another bound by then.
func (g *guest) SetDeadline(t time.Time) error {
	if g.gone.Load() {
		return nil
	}
	return g.Conn.SetDeadline(t)
}

// The start of the only HTTP/2 request that HTTP/1.1 can not send: its preface.
const preface = "PRI "

// splitting are the server's credentials: its handshake decides.
type splitting struct {
	credentials.TransportCredentials
	s *Split
}

// ServerHandshake implements credentials.TransportCredentials.
func (c splitting) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	g, ok := raw.(*guest)
	if !ok {
		return c.TransportCredentials.ServerHandshake(raw)
	}
	if !c.s.enter(g) {
		return nil, nil, net.ErrClosed
	}
	defer c.s.leave(g)
	if c.s.conf != nil {
		return c.s.secure(g)
	}
	first := make([]byte, len(preface))
	if _, err := io.ReadFull(g.Conn, first); err != nil {
		return nil, nil, err
	}
	g.head = first
	if string(first) != preface {
		to, err := c.s.told(g)
		if err == nil {
			err = c.s.handOver(g, g, to)
		}
		return nil, nil, err
	}
	return c.TransportCredentials.ServerHandshake(g)
}

// Clone implements credentials.TransportCredentials.
func (c splitting) Clone() credentials.TransportCredentials {
	return splitting{c.TransportCredentials.Clone(), c.s}
}

func (s *Split) secure(g *guest) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(g, s.conf)
	if err := conn.Handshake(); err != nil {
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if to := s.apart[state.NegotiatedProtocol]; to != nil {
		return nil, nil, s.handOver(g, conn, to)
	}
	if state.NegotiatedProtocol != "h2" {
		return nil, nil, s.handOver(g, conn, s.away)
	}
	return conn, credentials.TLSInfo{State: state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}
