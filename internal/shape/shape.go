// Package shape is a TCP line between two processes of this machine that is as
// long, as narrow and as unreliable as wanted. Tests and benchmarks put it
// between real processes; it is not part of what a node runs.
//
// # The model
//
// Whoever dials the proxy is connected to its target. "Down" is towards whoever
// dialled, "Up" away from it; each way has a Shape of its own.
//
//   - Delay: bytes arrive so much later than they left. A new connection takes
//     a round trip before its first byte, as the handshake of TCP does.
//   - Rate: all connections of a way share one link of that many bytes a second,
//     a token bucket of 10 ms.
//   - Window: bytes of one connection that are on their way, as TCP's window
//     bounds them: it opens from ten segments by as much as has arrived, and is
//     never above the figure. Without it a connection is bounded by the queue.
//   - Stalls: a lost packet is a pause, for TCP sends it again and keeps the
//     order.
//
// What was taken and not yet handed over is at most QueueBytes for each
// connection and way: more than the product of rate and delay of any line the
// proxy is used for, so that it is the line that limits, and bounded when the
// far side takes nothing.
//
// Beside shaping, bytes can be held back (a black hole: they are taken, nothing
// comes out, nobody is told), connections cut off and reset, at once or at an
// exact number of bytes. Bytes are counted when they are handed over; what is on
// its way when a connection is reset is lost and not counted.
package shape

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Way is a direction through a proxy.
type Way int

// The two ways.
const (
	Up   Way = iota // from whoever dialled
	Down            // to whoever dialled
)

const (
	// PieceBytes is the most that is read, and handed on, at once.
	PieceBytes = 32 << 10
	// QueueBytes bounds what is on its way on one connection, one way: 1 Gbit/s
	// at 250 ms.
	QueueBytes = 1000 * PieceBytes
	// bucket is how much unused time of a link may be made up for, and catchUp how
	// much of what this process slept too long while bytes waited for the link.
	bucket  = 10 * time.Millisecond
	catchUp = 250 * time.Millisecond
	// firstWindow is what TCP sends before anything was acknowledged.
	firstWindow = 10 * 1460
)

// Shape is what one way of a line is like. The zero value is a line without
// limits.
type Shape struct {
	Delay  time.Duration // one way
	Rate   int64         // bytes per second of all connections together; 0: any
	Window int64         // bytes of a connection on their way; 0: any
	// A connection stalls for Stall, after a random number of bytes that is
	// StallEach in the mean; 0: never.
	StallEach int64
	Stall     time.Duration
}

// Proxy is a line that can be shaped and damaged while it is used. Its methods
// may be called from any goroutine.
type Proxy struct {
	ln    net.Listener
	bytes [2]atomic.Int64
	wg    sync.WaitGroup

	mu      sync.Mutex
	target  string
	shapes  [2]Shape
	free    [2]time.Time // when the link has sent all that it took
	held    [2]chan struct{}
	refuse  bool
	lasts   int64 // bytes both ways after which a connection is reset; 0: any
	budget  int64 // bytes that may still go down before spend is called; < 0: any
	spend   func()
	lines   map[*line]struct{} // nil once the proxy is closed
	random  *rand.Rand
	refused int
}

// New listens on a free port of the loopback and passes connections on to
// target, a host:port. Seed decides when connections stall. Close ends it.
func New(target string, seed uint64) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, target: target, budget: -1, lines: make(map[*line]struct{}), random: rand.New(rand.NewPCG(seed, seed))}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the host:port that the proxy listens on.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// URL is Addr with a scheme.
func (p *Proxy) URL() string { return "http://" + p.Addr() }

// Close ends all connections and waits for every goroutine.
func (p *Proxy) Close() error {
	err := p.ln.Close() // that is how accept ends
	p.mu.Lock()
	p.resetLocked()
	p.lines = nil
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// Target sets where new connections go.
func (p *Proxy) Target(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Shape sets what a way is like, for bytes that it takes from now on.
func (p *Proxy) Shape(w Way, s Shape) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shapes[w] = s
}

// Rate sets the rate of a way alone; 0 ends its limit.
func (p *Proxy) Rate(w Way, bytesPerSecond int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shapes[w].Rate = bytesPerSecond
}

// Bytes is how many bytes were handed over.
func (p *Proxy) Bytes(w Way) int64 { return p.bytes[w].Load() }

// Recount begins to count anew, both ways.
func (p *Proxy) Recount() {
	p.bytes[Up].Store(0)
	p.bytes[Down].Store(0)
}

// Connections is how many stand now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// Refused is how many connections were refused by Cut.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Reset breaks every connection as the kernel of a crashed process would (RST).
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resetLocked()
}

func (p *Proxy) resetLocked() {
	for l := range p.lines {
		l.reset()
	}
}

// ResetEach resets each connection once it has carried n bytes, both ways taken
// together; 0 ends that, for connections to come.
func (p *Proxy) ResetEach(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lasts = n
}

// Hold makes a black hole of these ways, both if none is named, until Resume:
// bytes are taken and none comes out. Connections stay, and new ones are taken.
func (p *Proxy) Hold(ways ...Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holdLocked(ways)
}

func (p *Proxy) holdLocked(ways []Way) {
	if len(ways) == 0 {
		ways = []Way{Up, Down}
	}
	for _, w := range ways {
		if p.held[w] == nil {
			p.held[w] = make(chan struct{})
		}
	}
}

// Strand leaves the connections that stand in the hole for ever: Resume does not
// bring them back. That is what TCP makes of a hole of some length, since it
// waits longer and longer before it sends again.
func (p *Proxy) Strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.lines {
		l.stranded = true
	}
}

// StrandAfter strands one connection, the one that has carried most, once n more
// bytes have gone down. The others go on.
func (p *Proxy) StrandAfter(n int64) <-chan struct{} {
	return p.after(n, func() {
		var most *line
		for l := range p.lines {
			if !l.stranded && (most == nil || l.carried > most.carried) {
				most = l
			}
		}
		if most != nil {
			most.stranded = true
		}
	})
}

// HoldAfter is Hold once n more bytes have gone down, which is exact while one
// connection moves any; the channel is closed then. Of HoldAfter,
// StrandAfter, CutAfter and NoticeAfter the last call counts.
func (p *Proxy) HoldAfter(n int64, ways ...Way) <-chan struct{} {
	return p.after(n, func() { p.holdLocked(ways) })
}

// CutAfter breaks every connection, and those to come until Resume, once n more
// bytes have gone down.
func (p *Proxy) CutAfter(n int64) <-chan struct{} {
	return p.after(n, func() {
		p.refuse = true
		p.resetLocked()
	})
}

// NoticeAfter closes the channel once n more bytes have gone down.
func (p *Proxy) NoticeAfter(n int64) <-chan struct{} { return p.after(n, func() {}) }

func (p *Proxy) after(n int64, act func()) <-chan struct{} {
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

// Resume ends what Hold and CutAfter did, or were to do.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget, p.refuse = -1, false
	for w, held := range p.held {
		if held != nil {
			close(held)
			p.held[w] = nil
		}
	}
}

func (p *Proxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

func (p *Proxy) shape(w Way) Shape {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shapes[w]
}

// book gives n bytes to the link of a way and says when the last of them will
// have left it. waited says that they have waited for nothing but the link.
func (p *Proxy) book(now time.Time, w Way, n int, waited bool) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	rate := p.shapes[w].Rate
	if rate <= 0 {
		return now
	}
	unused := bucket
	if waited {
		unused = catchUp
	}
	if p.free[w].Before(now.Add(-unused)) {
		p.free[w] = now.Add(-unused)
	}
	p.free[w] = p.free[w].Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return p.free[w]
}

// stall draws how many bytes go before the next stall.
func (p *Proxy) stall(mean int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.random.ExpFloat64() * float64(mean))
}

// pass waits while a way is held; false when the line has ended.
func (p *Proxy) pass(l *line, w Way) bool {
	for l.ctx.Err() == nil {
		p.mu.Lock()
		held, stranded := p.held[w], l.stranded
		p.mu.Unlock()
		if held == nil && !stranded {
			return true
		}
		if stranded {
			held = nil
		}
		select {
		case <-held:
		case <-l.ctx.Done():
		}
	}
	return false
}

// admit says how many of n bytes may be handed over before something happens.
func (p *Proxy) admit(l *line, w Way, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.left >= 0 {
		n = int(min(int64(n), l.left))
	}
	if w == Down && p.budget >= 0 {
		n = int(min(int64(n), p.budget))
	}
	return n
}

// count notes n bytes handed over, after the fact: they are on their way even
// if this very number breaks the line.
func (p *Proxy) count(l *line, w Way, n int) {
	p.bytes[w].Add(int64(n))
	p.mu.Lock()
	defer p.mu.Unlock()
	l.carried += int64(n)
	if l.left >= 0 {
		if l.left = max(0, l.left-int64(n)); l.left == 0 {
			l.reset()
		}
	}
	if w == Down && p.budget >= 0 {
		if p.budget = max(0, p.budget-int64(n)); p.budget == 0 {
			p.spend()
		}
	}
}

// sleep waits for d or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
