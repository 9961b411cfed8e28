package transfer

import (
	"sync"
	"time"
)

// busy adds up how long how many have been at something.
type busy struct {
	n   int
	sum time.Duration // until at
	at  time.Time
}

// add says that n more are at it from now on, or fewer.
func (b *busy) add(n int, now time.Time) {
	b.sum = b.total(now)
	b.at, b.n = now, b.n+n
}

// total is the time that all have been at it, together.
func (b *busy) total(now time.Time) time.Duration {
	if b.n == 0 {
		return b.sum
	}
	return b.sum + time.Duration(b.n)*now.Sub(b.at)
}

// flow is how fast lists and records come. Its methods may be called from any
// goroutine.
type flow struct {
	mu    sync.Mutex
	bytes int
	waits busy          // for them
	took  time.Duration // of that, until the last came
}

// turn says that somebody waits for the source, until over.
func (f *flow) turn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits.add(1, time.Now())
}

func (f *flow) over() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits.add(-1, time.Now())
}

// add counts bytes that came.
func (f *flow) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += n
	f.took = f.waits.total(time.Now())
}

// came gives the bytes that came, and how long they were waited for.
func (f *flow) came(now time.Time) (bytes int, waited time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes, f.waits.total(now)
}

// each gives the time that so many bytes would take; 0: it is not known.
func (f *flow) each(n int) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Duration(float64(f.took) / float64(max(f.bytes, 1)) * float64(n))
}

// listedBytes is about what a list has for each record.
const listedBytes = 8

// precedes says that the lanes are to leave the line to the lists: makers mostly
// wait for these, and make tables of them no slower than the lanes fetch some over
// the same line. It is asked before each share. A byte of a list is worth many of a
// table, but over a line that is shared by connections each lane would get as much as
// all lists. Where processors, here or at the source, are what makers wait for, the
// line has room for both, and the lanes fetch faster than tables are made.
//
// The rate of the lanes is not known before they have brought a chunk; until then,
// one of them may.
func (m *making) precedes(now time.Time) (hold, probe bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.active.n == 0 && !m.awaits || m.stopped {
		return false, false
	}
	bytes, waited := m.flow.came(now)
	if waited < m.active.total(now)/2 {
		return false, false
	}
	lanes, known := m.queue.rate(now)
	if !known {
		return false, true
	}
	return m.worth()*float64(bytes)/now.Sub(m.since).Seconds() >= lanes, false
}

// worth is about how many bytes of tables come of a byte of lists and records.
// making.mu is held.
func (m *making) worth() float64 {
	if m.made.BytesMade > 0 {
		return float64(m.made.BytesMade) / float64(max(m.made.BytesMoved, 1))
	}
	return m.expected
}
