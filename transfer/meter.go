package transfer

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// noise is the number of bytes that keep-alives and lease renewals may exchange
// in an idle timeout without counting as progress.
const noise = 16 << 10

// byteCounter counts the bytes of one or more connections, both ways.
type byteCounter struct{ n atomic.Uint64 }

// countedConn is a connection whose bytes are counted.
type countedConn struct {
	net.Conn
	counter *byteCounter
	closed  func()
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.counter.n.Add(uint64(max(n, 0)))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.counter.n.Add(uint64(max(n, 0)))
	return n, err
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	if c.closed != nil {
		c.closed()
	}
	return err
}

// wrap makes a connection count into c.
func (c *byteCounter) wrap(conn net.Conn) net.Conn { return &countedConn{Conn: conn, counter: c} }

// dialOption makes gRPC's connections count into c. A dialer that the caller
// sets after it takes its place; then only whole messages show progress.
func (c *byteCounter) dialOption() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		network := "tcp"
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			network, addr = "unix", path
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return c.wrap(conn), nil
	})
}

// ConnMeter counts the bytes of a server's connections, so that its watchdogs
// tell a slow peer from a dead one within a message. The zero value is ready;
// one ConnMeter may serve several listeners.
type ConnMeter struct {
	mu    sync.Mutex
	conns map[string]*meteredPeer // by remote address
}

type meteredPeer struct {
	byteCounter
	conns int
}

// Listen wraps a listener of a gRPC server (below TLS).
func (m *ConnMeter) Listen(l net.Listener) net.Listener {
	return &meteredListener{Listener: l, meter: m}
}

type meteredListener struct {
	net.Listener
	meter *ConnMeter
}

func (l *meteredListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.meter.add(conn), nil
}

func (m *ConnMeter) add(conn net.Conn) net.Conn {
	key := conn.RemoteAddr().String()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns == nil {
		m.conns = make(map[string]*meteredPeer)
	}
	p := m.conns[key]
	if p == nil {
		p = new(meteredPeer)
		m.conns[key] = p
	}
	p.conns++
	return &countedConn{Conn: conn, counter: &p.byteCounter, closed: sync.OnceFunc(func() { m.remove(key, p) })}
}

func (m *ConnMeter) remove(key string, p *meteredPeer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.conns--
	if p.conns == 0 && m.conns[key] == p {
		delete(m.conns, key)
	}
}

// of gives the counter of the connection that ctx's call came over, or nil.
func (m *ConnMeter) of(ctx context.Context) *byteCounter {
	p, ok := peer.FromContext(ctx)
	if m == nil || !ok || p.Addr == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.conns[p.Addr.String()]; c != nil {
		return &c.byteCounter
	}
	return nil
}
