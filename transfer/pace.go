package transfer

import (
	"context"
	"sync"
	"time"
)

// Pace slows the seeds of a member down while others would wait for them: its
// clients, or the cluster for what it writes to its log. It is told when
// foreground work (a write) begins and ends and how long each sync of the log
// took, learns how long these usually take while no seed is sent, and lowers the
// rate of all seeds together when one takes much longer in the mean, or more than
// one of a hundred much longer than one of a hundred did, down to a floor at
// which a seed still gets on; it raises the rate while all is well, and without
// foreground work there soon is none. A nil Pace never waits.
type Pace struct {
	mu      sync.Mutex
	work    gauge
	syncs   gauge
	waiting int       // foreground work under way
	moved   time.Time // when the last of it ended, or the first began

	rate   float64   // bytes per second
	known  float64   // a rate that was a little too high; 0: none was
	asked  time.Time // last call of Wait
	next   time.Time // when the next bytes may go
	looked time.Time
	sent   int // bytes since then
}

// gauge is how long one kind of work takes, usually and now.
type gauge struct {
	usual   time.Duration // smoothed, without seeds; 0: not known
	high    time.Duration // a hundredth took longer, without seeds
	over    float64       // the share that was late without seeds, smoothed
	learned int           // from how much work

	ended int           // since the last look
	took  time.Duration // by all of these together

	late, of int // late, and all, since they were last counted
}

func (g *gauge) note(took time.Duration, seeding bool) {
	most := max(g.high, g.usual)
	late := g.learned > 0 && took > 3*most/2
	if seeding {
		g.ended++
		g.took += g.clip(took)
		g.of++
		if late {
			g.late++
		}
		return
	}
	if g.learned++; g.learned == 1 {
		g.usual, g.high = took, 2*took
	}
	share := 0.0
	if late {
		share = 1
	}
	g.over += (share - g.over) / 512
	g.usual += (g.clip(took) - g.usual) / 32
	// Steps up and down are as 99 to 1, so that it rests where one of a hundred is above.
	if step := most / 8; took > g.high {
		g.high += step
	} else {
		g.high -= step / 99
	}
}

// clip is what counts for the mean: one stall of the machine says little of what is
// usual, and nothing of what seeds cost.
func (g *gauge) clip(took time.Duration) time.Duration {
	if g.learned == 0 {
		return took
	}
	return min(took, 3*max(g.high, g.usual))
}

// limit is what the work may take, in the mean, before seeds give way: its slowest
// hundredth grows by more than the mean does.
func (g *gauge) limit() time.Duration {
	usual := g.usual
	if usual == 0 {
		usual = 3 * time.Millisecond
	}
	return 5*usual/4 + 150*time.Microsecond
}

func (g *gauge) slow() bool { return g.ended > 0 && g.took/time.Duration(g.ended) > g.limit() }

func (g *gauge) reset() { g.ended, g.took = 0, 0 }

// Lateness is what the mean does not show: one of a hundred that takes half as long
// again as one of a hundred did. It is counted over so much work, once so much is
// known of the time without seeds.
const (
	lateOf    = 100
	lateKnown = 300
)

// counted reports whether more was late than is usual, once enough has ended.
func (g *gauge) counted() bool {
	if g.of < lateOf {
		return false
	}
	many := g.learned >= lateKnown && g.late > 1 && float64(g.late) > (0.01+g.over)*float64(g.of)
	g.late, g.of = 0, 0
	return many
}

// Rates in bytes per second, and how often they are looked at.
const (
	paceStart = 192 << 20
	paceFloor = 64 << 20
	paceSoon  = 256 << 20 // above it the rate is raised carefully
	paceTop   = 8 << 30
	paceLook  = 20 * time.Millisecond
	// A mean of fewer than paceMany says little, and is waited for, up to paceWait.
	paceMany = 16
	paceWait = 100 * time.Millisecond
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
	p.work.note(took, now.Sub(p.asked) < paceOver)
}

// Synced says how long a sync of the member's log took. A follower's clients
// may all be elsewhere: this is what the cluster may wait for it.
func (p *Pace) Synced(took time.Duration) {
	if p == nil {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.syncs.note(took, now.Sub(p.asked) < paceOver)
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
		p.forget()
		p.work.late, p.work.of, p.syncs.late, p.syncs.of = 0, 0, 0, 0
	}
	p.asked = now
	if span := now.Sub(p.looked); p.due(span) {
		p.adjust(now, span)
		p.looked = now
		p.forget()
	}
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.sent += n
	p.next = at.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return at.Sub(now)
}

// due reports whether enough has happened in the span to be looked at: without
// foreground work that is soon, and a stall is seen at once.
func (p *Pace) due(span time.Duration) bool {
	ended := max(p.work.ended, p.syncs.ended)
	idle := ended == 0 && p.waiting == 0
	return span >= paceLook && (idle || ended >= paceMany || span >= paceWait)
}

// forget begins to count anew.
func (p *Pace) forget() {
	p.sent = 0
	p.work.reset()
	p.syncs.reset()
}

// adjust sets the rate by what happened in the span up to now.
func (p *Pace) adjust(now time.Time, span time.Duration) {
	achieved := float64(p.sent) / span.Seconds()
	work, syncs := p.work.counted(), p.syncs.counted()
	late := work || syncs
	switch {
	case late: // seen late, so that what was too much is well below
		p.rate = max(paceFloor, 0.75*p.rate)
		p.known = p.rate
	case p.work.slow(), p.syncs.slow(), p.waiting > 0 && now.Sub(p.moved) > p.work.limit():
		p.known = p.rate
		p.rate = max(paceFloor, 0.75*p.rate)
	case achieved < p.rate/2: // something else is the bottleneck
	case p.work.ended == 0 && p.syncs.ended == 0 && p.waiting == 0:
		p.rate = min(paceTop, 1.5*p.rate)
	case p.rate < 0.9*p.known: // well below what was too much: soon
		p.rate = min(1.1*p.rate, 0.9*p.known)
	case p.known > 0: // near it: carefully
		p.rate = min(paceTop, 1.01*p.rate)
	case p.rate > paceSoon: // what it costs shows late, if at all, where it is much at once
		p.rate = min(paceTop, 1.02*p.rate)
	default:
		p.rate = min(paceTop, 1.1*p.rate)
	}
}
