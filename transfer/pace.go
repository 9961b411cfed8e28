package transfer

import (
	"context"
	"sync"
	"time"
)

// Pace slows the seeds of a member down while its clients would wait for them.
// It is told when foreground work (a write) begins and ends, learns how long
// that usually takes while no seed is sent, and lowers the rate of all seeds
// together when it takes much longer, down to a floor at which a seed still
// gets on; it raises the rate while all is well, and without foreground work
// there soon is none. A nil Pace never waits.
type Pace struct {
	mu      sync.Mutex
	usual   time.Duration // smoothed, of foreground work without seeds; 0: not known
	waiting int           // foreground work under way
	moved   time.Time     // when the last of it ended, or the first began
	ended   int           // foreground work ended since the last look
	took    time.Duration // by all of that together

	rate   float64   // bytes per second
	known  float64   // a rate that was a little too high; 0: none was
	asked  time.Time // last call of Wait
	next   time.Time // when the next bytes may go
	looked time.Time
	sent   int // bytes since then
}

// Rates in bytes per second, and how often they are looked at.
const (
	paceStart = 192 << 20
	paceFloor = 96 << 20
	paceTop   = 8 << 30
	paceLook  = 20 * time.Millisecond
	// paceOver is how long after the last bytes seeds are taken to be over.
	paceOver = 500 * time.Millisecond
)

// NewPace returns a Pace that knows nothing yet.
func NewPace() *Pace { return &Pace{} }

// Begin says that foreground work begins; the result is to be called when it
// ends.
func (p *Pace) Begin() (end func()) {
	if p == nil {
		return func() {}
	}
	began := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == 0 {
		p.moved = began
	}
	p.waiting++
	return func() { p.end(began) }
}

func (p *Pace) end(began time.Time) {
	now := time.Now()
	took := now.Sub(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	p.moved = now
	if now.Sub(p.asked) < paceOver {
		p.ended++
		p.took += took
		return
	}
	if p.usual == 0 {
		p.usual = took
	}
	p.usual += (took - p.usual) / 32
}

// Wait waits until a seed may send n bytes more.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	return sleep(ctx, p.take(time.Now(), n))
}

// take books n bytes and says how long they have to wait.
func (p *Pace) take(now time.Time, n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.asked) >= paceOver {
		p.rate, p.known, p.next, p.looked = paceStart, 0, now, now
		p.sent, p.ended, p.took = 0, 0, 0
	}
	p.asked = now
	if span := now.Sub(p.looked); span >= paceLook {
		p.adjust(now, span)
		p.looked, p.sent, p.ended, p.took = now, 0, 0, 0
	}
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.sent += n
	p.next = at.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return at.Sub(now)
}

// adjust sets the rate by what happened in the span up to now.
func (p *Pace) adjust(now time.Time, span time.Duration) {
	usual := p.usual
	if usual == 0 {
		usual = 3 * time.Millisecond
	}
	limit := 3*usual/2 + time.Millisecond
	achieved := float64(p.sent) / span.Seconds()
	switch {
	case p.ended > 0 && p.took/time.Duration(p.ended) > limit, p.waiting > 0 && now.Sub(p.moved) > limit:
		p.known = p.rate
		p.rate = max(paceFloor, 0.75*p.rate)
	case achieved < p.rate/2: // something else is the bottleneck
	case p.ended == 0 && p.waiting == 0:
		p.rate = min(paceTop, 1.5*p.rate)
	case p.rate < 0.9*p.known: // well below what was too much: soon
		p.rate = min(1.1*p.rate, 0.9*p.known)
	case p.known > 0: // near it: carefully
		p.rate = min(paceTop, 1.01*p.rate)
	default:
		p.rate = min(paceTop, 1.1*p.rate)
	}
}
