//go:build e2e

package e2e

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/time/rate"
)

// pieceSize is the most that a proxy reads, and hands on, at once.
const pieceSize = 16 << 10

// proxy is a line between two processes that a test watches and damages. It
// counts what it hands over in each direction; bytes that it has read but not
// handed over when a connection breaks are lost and not counted. "Down" is
// towards whoever dialled. It ends with the test.
type proxy struct {
	ln       net.Listener
	up, down atomic.Int64
	limiter  *rate.Limiter // of what goes down, all connections together

	mu     sync.Mutex
	target string
	held   chan struct{}      // not nil: nothing passes until it is closed
	refuse bool               // new connections are reset
	budget int64              // bytes that may still go down; < 0: any number
	spend  func()             // called, with mu held, when budget reaches 0
	lines  map[*line]struct{} // nil once the proxy is closed
	wg     sync.WaitGroup
}

// line is one connection through a proxy.
type line struct {
	client, server *net.TCPConn
	ctx            context.Context
	end            context.CancelFunc
}

// newProxy listens on a free port and passes connections on to target, a
// host:port, which may also be set or changed while it runs.
func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, target: target, budget: -1, lines: map[*line]struct{}{}, limiter: rate.NewLimiter(rate.Inf, 0)}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }
func (p *proxy) url() string  { return "http://" + p.addr() }

// limit slows what goes down, in bytes per second; 0 ends that.
func (p *proxy) limit(rateDown int) {
	if rateDown == 0 {
		p.limiter.SetLimit(rate.Inf)
		return
	}
	p.limiter.SetBurst(pieceSize)
	p.limiter.SetLimit(rate.Limit(rateDown))
}

// reset breaks every connection as a crashed machine's kernel would (RST).
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resetLocked()
}

func (p *proxy) resetLocked() {
	for l := range p.lines {
		l.reset()
	}
}

// cutAfter breaks every connection, and those to come until resume, once n more
// bytes have gone down; the channel is then closed.
func (p *proxy) cutAfter(n int64) <-chan struct{} {
	return p.after(n, func() {
		p.refuse = true
		p.resetLocked()
	})
}

// holdAfter turns the line into a black hole, in both directions and until
// resume, once n more bytes have gone down; the channel is then closed.
// Connections stay, and new ones are taken.
func (p *proxy) holdAfter(n int64) <-chan struct{} {
	return p.after(n, func() { p.held = make(chan struct{}) })
}

// noticeAfter closes the channel once n more bytes have gone down.
func (p *proxy) noticeAfter(n int64) <-chan struct{} { return p.after(n, func() {}) }

func (p *proxy) after(n int64, act func()) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := make(chan struct{})
	p.budget, p.spend = n, func() {
		p.budget = -1
		act()
		close(done)
	}
	if n <= 0 { // a budget is never 0
		p.spend()
	}
	return done
}

// resume ends what cutAfter and holdAfter did or were to do.
func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget, p.refuse = -1, false
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

func (p *proxy) close() {
	_ = p.ln.Close() // that is how accept ends
	p.mu.Lock()
	p.resetLocked()
	p.lines = nil
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

// serve passes bytes both ways until one side ends.
func (p *proxy) serve(client *net.TCPConn) {
	l := &line{client: client}
	l.ctx, l.end = context.WithCancel(context.Background())
	defer l.end()
	p.mu.Lock()
	target, refused := p.target, p.refuse || p.lines == nil
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if refused || err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		if err == nil {
			_ = server.Close()
		}
		return
	}
	l.server = server.(*net.TCPConn)
	p.mu.Lock()
	if p.lines == nil || p.refuse {
		l.reset()
	} else {
		p.lines[l] = struct{}{}
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, l.server, l.client, false) })
	wg.Go(func() { p.pump(l, l.client, l.server, true) })
	wg.Wait()
	p.mu.Lock()
	delete(p.lines, l)
	p.mu.Unlock()
	_ = l.client.Close()
	_ = l.server.Close()
}

// reset ends a line with RST on both sides.
func (l *line) reset() {
	l.end()
	_ = l.client.SetLinger(0)
	_ = l.client.Close()
	_ = l.server.SetLinger(0)
	_ = l.server.Close()
}

// pump moves bytes one way. The end of one way is passed on; an error ends both.
func (p *proxy) pump(l *line, to, from *net.TCPConn, down bool) {
	buf := make([]byte, pieceSize)
	for {
		n, err := from.Read(buf)
		for piece := buf[:n]; len(piece) > 0; {
			part := p.admit(l, piece, down)
			if part == 0 {
				return
			}
			if _, err := to.Write(piece[:part]); err != nil {
				l.reset()
				return
			}
			p.count(part, down)
			piece = piece[part:]
		}
		switch {
		case err == nil:
		case err == io.EOF:
			p.pass(l) // a black hole swallows the end as well
			_ = to.CloseWrite()
			return
		default:
			l.reset()
			return
		}
	}
}

// admit waits until some of piece may pass and says how much; 0 when the line
// has ended.
func (p *proxy) admit(l *line, piece []byte, down bool) int {
	if down && p.limiter.WaitN(l.ctx, len(piece)) != nil && l.ctx.Err() != nil {
		return 0
	}
	if !p.pass(l) {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if down && p.budget >= 0 && int64(len(piece)) > p.budget {
		return int(p.budget)
	}
	return len(piece)
}

// pass waits while the line is held; false when it has ended.
func (p *proxy) pass(l *line) bool {
	for l.ctx.Err() == nil {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held == nil {
			return true
		}
		select {
		case <-held:
		case <-l.ctx.Done():
		}
	}
	return false
}

// count notes n bytes handed over, after the fact: they are on their way even
// if this very number spends the budget and breaks the line.
func (p *proxy) count(n int, down bool) {
	if !down {
		p.up.Add(int64(n))
		return
	}
	p.down.Add(int64(n))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budget < 0 {
		return
	}
	if p.budget = max(0, p.budget-int64(n)); p.budget == 0 {
		p.spend()
	}
}

// resentPercent is how much of a seed's bytes came more than once, in percent,
// when got bytes came down in all for a seed of want bytes. The cost of framing
// counts as resent, so the figure errs on the large side.
func resentPercent(got int64, want uint64) float64 {
	return 100 * (float64(got) - float64(want)) / float64(want)
}
