package shape

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// line is one connection through a proxy.
type line struct {
	ctx      context.Context
	end      context.CancelFunc
	accepted time.Time // when the far side has heard that the connection stands
	left     int64     // bytes it may still carry; < 0: any; guarded by Proxy.mu
	carried  int64     // bytes, both ways; guarded by Proxy.mu
	stranded bool      // for ever in a hole; guarded by Proxy.mu

	mu             sync.Mutex
	client, server *net.TCPConn // server is nil until it stands
	ended          bool
}

// serve passes bytes both ways until one side ends.
func (p *Proxy) serve(client *net.TCPConn) {
	l := &line{client: client}
	l.ctx, l.end = context.WithCancel(context.Background())
	defer l.end()
	if !p.add(l) {
		return
	}
	defer p.remove(l)
	up, down := p.shape(Up), p.shape(Down)
	if sleep(l.ctx, up.Delay+down.Delay) != nil { // the handshake
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	var dialer net.Dialer
	server, err := dialer.DialContext(l.ctx, "tcp", target)
	if err != nil {
		l.reset()
		return
	}
	l.accepted = time.Now().Add(up.Delay)
	if !l.join(server.(*net.TCPConn)) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, Down) })
	wg.Go(func() { p.pump(l, Up) })
	wg.Wait()
}

// add makes l one of the proxy's lines, unless they are refused.
func (p *Proxy) add(l *line) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines == nil || p.refuse {
		p.refused++
		l.reset()
		return false
	}
	l.left = -1
	if p.lasts > 0 {
		l.left = p.lasts
	}
	p.lines[l] = struct{}{}
	return true
}

func (p *Proxy) remove(l *line) {
	p.mu.Lock()
	delete(p.lines, l)
	p.mu.Unlock()
	l.close()
}

// join gives the line its far side; false when the line has ended meanwhile.
func (l *line) join(server *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		abort(server)
		return false
	}
	l.server = server
	return true
}

// reset ends a line with RST on both sides.
func (l *line) reset() {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	abort(l.client)
	abort(l.server)
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	_ = l.client.Close() // both have seen the end, or an RST
	if l.server != nil {
		_ = l.server.Close()
	}
}

func abort(conn *net.TCPConn) {
	if conn == nil {
		return
	}
	_ = conn.SetLinger(0) // RST instead of FIN; it may be closed already
	_ = conn.Close()
}

// piece is what was read at once; no data is the end of what the side sends.
type piece struct {
	data []byte
	due  time.Time // when it arrives
}

// pump moves bytes one way. The end of one way is passed on; an error ends both.
func (p *Proxy) pump(l *line, w Way) {
	from, to := l.client, l.server
	if w == Down {
		from, to = l.server, l.client
	}
	queue := make(chan piece, QueueBytes/PieceBytes)
	var wg sync.WaitGroup
	wg.Go(func() { p.deliver(l, w, to, queue) })
	p.take(l, w, from, queue)
	close(queue)
	wg.Wait()
}

// take reads what one side sends, at the pace of the link, and queues it.
func (p *Proxy) take(l *line, w Way, from *net.TCPConn, queue chan<- piece) {
	flight := flight{cwnd: firstWindow}
	stalled, toStall := time.Time{}, int64(-1)
	waiting := false // bytes are there, and wait for the link alone
	for {
		s := p.shape(w)
		free := time.Now() // for the next bytes
		room := PieceBytes
		if s.Window > 0 {
			var err error
			if room, err = flight.room(l.ctx, s.Window); err != nil {
				return
			}
		}
		buf := make([]byte, min(room, PieceBytes))
		n, err := from.Read(buf)
		if n == 0 && err != nil {
			if !errors.Is(err, io.EOF) {
				l.reset()
				return
			}
			buf = nil
		}
		now := time.Now()
		leaves := p.book(now, w, n, waiting && now.Sub(free) < time.Millisecond)
		due := leaves.Add(s.Delay)
		if w == Down && due.Before(l.accepted.Add(s.Delay)) {
			due = l.accepted.Add(s.Delay)
		}
		if s.StallEach > 0 {
			if toStall < 0 {
				toStall = p.stall(s.StallEach)
			}
			if toStall -= int64(n); toStall < 0 {
				stalled = due.Add(s.Stall)
			}
		}
		if due.Before(stalled) {
			due = stalled // and all that follows: TCP keeps the order
		}
		if s.Window > 0 {
			flight.sent(n, due.Add(p.shape(1-w).Delay))
		}
		waiting = len(queue) < cap(queue)
		select {
		case queue <- piece{buf[:n:n], due}:
		case <-l.ctx.Done():
			return
		}
		if buf == nil || sleep(l.ctx, time.Until(leaves)) != nil {
			return
		}
	}
}

// deliver hands over what is queued when it is due.
func (p *Proxy) deliver(l *line, w Way, to *net.TCPConn, queue <-chan piece) {
	for next := range queue {
		if sleep(l.ctx, time.Until(next.due)) != nil {
			break
		}
		if len(next.data) == 0 {
			if p.pass(l, w) { // a black hole swallows the end as well
				_ = to.CloseWrite() // the other side may have gone
			}
			break
		}
		if !p.hand(l, w, to, next.data) {
			break
		}
	}
	for range queue { // so that take never waits for this side
	}
}

// hand writes data to a side; false when the line has ended.
func (p *Proxy) hand(l *line, w Way, to *net.TCPConn, data []byte) bool {
	for len(data) > 0 {
		if !p.pass(l, w) {
			return false
		}
		part := p.admit(l, w, len(data))
		if part == 0 {
			return false
		}
		if _, err := to.Write(data[:part]); err != nil {
			l.reset()
			return false
		}
		p.count(l, w, part)
		data = data[part:]
	}
	return true
}

// flight is what of one connection is on its way, as its sender's TCP knows it.
type flight struct {
	cwnd  int64 // window of congestion, without the bound
	bytes int64
	sends []landing // in order
}

type landing struct {
	bytes int64
	at    time.Time // when the sender hears that they arrived
}

// room waits until something may be sent and says how much, with a window of at
// most bound.
func (f *flight) room(ctx context.Context, bound int64) (int, error) {
	for {
		now := time.Now()
		for len(f.sends) > 0 && !f.sends[0].at.After(now) {
			f.bytes -= f.sends[0].bytes
			f.cwnd = min(f.cwnd+f.sends[0].bytes, bound)
			f.sends = f.sends[1:]
		}
		if free := min(f.cwnd, bound) - f.bytes; free > 0 || len(f.sends) == 0 {
			return int(max(free, 1)), nil
		}
		if err := sleep(ctx, f.sends[0].at.Sub(now)); err != nil {
			return 0, err
		}
	}
}

func (f *flight) sent(n int, heard time.Time) {
	f.bytes += int64(n)
	f.sends = append(f.sends, landing{int64(n), heard})
}
