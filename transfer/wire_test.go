package transfer

import (
	"errors"
	"net"
	"sync"
	"time"
)

// wire is what lies between a server and its clients: it counts what the server
// sends and can cut, flip a bit of, slow down or swallow it.
type wire struct {
	mu      sync.Mutex
	sent    int64 // by the server, since the last plan
	total   int64
	cutAt   int64 // close the connection at this count; 0 = never
	flipAt  int64 // flip a bit of this byte; 0 = never
	flipBit uint
	flipped bool
	holeAt  int64         // swallow everything from this count; 0 = never
	perByte time.Duration // of delay
	slice   int           // bytes written at a time; 0 = all
	refuse  bool          // close new connections
	conns   map[*faultConn]bool
	cuts    int
	onCut   func()
}

var errCut = errors.New("cut")

func (w *wire) listen(l net.Listener) net.Listener { return &faultListener{l, w} }

// plan resets the count and sets faults.
func (w *wire) plan(f func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.cutAt, w.flipAt, w.holeAt, w.flipped = 0, 0, 0, 0, false
	f(w)
}

func (w *wire) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// die closes every connection, and those to come.
func (w *wire) die() {
	w.mu.Lock()
	w.refuse = true
	w.mu.Unlock()
	w.kill()
}

// kill closes every connection.
func (w *wire) kill() {
	w.mu.Lock()
	conns := make([]*faultConn, 0, len(w.conns))
	for c := range w.conns {
		conns = append(conns, c)
	}
	w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type faultListener struct {
	net.Listener
	w *wire
}

func (l *faultListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.w.mu.Lock()
		if l.w.refuse {
			l.w.mu.Unlock()
			_ = c.Close()
			continue
		}
		fc := &faultConn{Conn: c, w: l.w, closed: make(chan struct{})}
		if l.w.conns == nil {
			l.w.conns = make(map[*faultConn]bool)
		}
		l.w.conns[fc] = true
		l.w.mu.Unlock()
		return fc, nil
	}
}

type faultConn struct {
	net.Conn
	w      *wire
	once   sync.Once
	closed chan struct{}
}

func (c *faultConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.w.mu.Lock()
		delete(c.w.conns, c)
		c.w.mu.Unlock()
	})
	return c.Conn.Close()
}

func (c *faultConn) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		piece := p[written:]
		c.w.mu.Lock()
		slice, perByte := c.w.slice, c.w.perByte
		c.w.mu.Unlock()
		if slice > 0 {
			piece = piece[:min(slice, len(piece))]
		}
		if perByte > 0 {
			select {
			case <-time.After(time.Duration(len(piece)) * perByte):
			case <-c.closed:
				return written, errCut
			}
		}
		n, err := c.write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *faultConn) write(p []byte) (int, error) {
	c.w.mu.Lock()
	from := c.w.sent
	cut, hole := c.w.cutAt > 0 && from+int64(len(p)) > c.w.cutAt, c.w.holeAt > 0 && from+int64(len(p)) > c.w.holeAt
	if cut {
		p = p[:max(c.w.cutAt-from, 0)]
	}
	c.w.sent += int64(len(p))
	c.w.total += int64(len(p))
	if at := c.w.flipAt; at > 0 && !c.w.flipped && at >= from && at < from+int64(len(p)) {
		p = append([]byte(nil), p...)
		p[at-from] ^= 1 << c.w.flipBit
		c.w.flipped = true
	}
	var onCut func()
	if cut {
		c.w.cutAt = 0
		c.w.cuts++
		onCut = c.w.onCut
	}
	c.w.mu.Unlock()
	if hole {
		<-c.closed
		return 0, errCut
	}
	n, err := c.Conn.Write(p)
	if cut {
		if onCut != nil {
			onCut()
		}
		_ = c.Close()
		return n, errCut
	}
	return n, err
}
