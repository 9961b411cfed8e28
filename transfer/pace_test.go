package transfer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// machine is one where writes take longer the more a seed takes of it: up to
// capacity bytes per second they take 2 ms, above that 20 ms.
type machine struct {
	pace     *Pace
	follower bool // writes are seen as syncs of the log only
	odd      int  // above capacity only every so many writes take longer, and 10 ms; 0: all do
	stalls   int  // one of so many writes takes 20 ms in any case; 0: none
	capacity float64
	seeding  atomic.Bool
	mu       sync.Mutex
	recent   []time.Time // when each of the last MiB went
}

const oneMiB = 1 << 20

func (m *machine) rate() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	const window = 50 * time.Millisecond
	n := 0
	for _, at := range m.recent {
		if time.Since(at) < window {
			n++
		}
	}
	return float64(n) * oneMiB / window.Seconds()
}

// write is one foreground write every 5 ms, until ctx ends; it counts those beside a
// seed.
func (m *machine) write(ctx context.Context) (slow, all int) {
	for n := 0; sleep(ctx, 5*time.Millisecond) == nil; n++ {
		took := 2 * time.Millisecond
		long := m.rate() > m.capacity && (m.odd == 0 || n%m.odd == 0)
		if long {
			took = 20 * time.Millisecond
			if m.odd > 0 {
				took /= 2
			}
		}
		if m.stalls > 0 && n%m.stalls == 0 {
			took = 20 * time.Millisecond
		}
		if m.seeding.Load() {
			all++
			if long {
				slow++
			}
		}
		if m.follower {
			_ = sleep(context.Background(), took)
			m.pace.Synced(took)
			continue
		}
		end := m.pace.Begin()
		_ = sleep(context.Background(), took)
		end()
	}
	return slow, all
}

// seed sends MiB by MiB for d, each of which takes at least atLeast, and gives
// the bytes per second.
func (m *machine) seed(ctx context.Context, d, atLeast time.Duration) float64 {
	start, n := time.Now(), 0
	for time.Since(start) < d {
		if m.pace.Wait(ctx, oneMiB) != nil {
			break
		}
		_ = sleep(ctx, atLeast)
		n++
		m.mu.Lock()
		m.recent = append(m.recent, time.Now())
		m.recent = m.recent[max(0, len(m.recent)-1000):]
		m.mu.Unlock()
	}
	return float64(n) * oneMiB / time.Since(start).Seconds()
}

// run seeds for 10 s beside writes that began five seconds before.
func (m *machine) run(t *testing.T) (rate float64, slow, all int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { slow, all = m.write(ctx) })
		_ = sleep(ctx, 5*time.Second)
		m.seeding.Store(true)
		rate = m.seed(ctx, 10*time.Second, time.Millisecond)
		cancel()
		wg.Wait()
	})
	return rate, slow, all
}

// Seeds take what writes leave, and little more.
func TestPaceLeavesRoomForWrites(t *testing.T) {
	for _, follower := range []bool{false, true} {
		for _, capacity := range []float64{100 << 20, 300 << 20} {
			rate, slow, all := (&machine{pace: NewPace(), capacity: capacity, follower: follower}).run(t)
			t.Logf("capacity %.0f MiB/s: seeds %.0f MiB/s, %d of %d writes slow", capacity/oneMiB, rate/oneMiB, slow, all)
			if rate < capacity/3 || rate > capacity*1.1 || slow*4 > all {
				t.Errorf("follower %t, capacity %.0f MiB/s: seeds %.0f MiB/s, %d of %d writes slow", follower, capacity/oneMiB,
					rate/oneMiB, slow, all)
			}
		}
	}
	// Without a pace the same writes suffer: the machine can tell.
	rate, slow, all := (&machine{capacity: 100 << 20}).run(t)
	if rate < 500<<20 || slow*2 < all {
		t.Errorf("no pace: seeds %.0f MiB/s, %d of %d writes slow", rate/oneMiB, slow, all)
	}
}

// Writes of which one in twenty takes long are given way to as well, though their
// mean is what it was, by a fifth.
func TestPaceSeesTheSlowest(t *testing.T) {
	for _, follower := range []bool{false, true} {
		rate, slow, all := (&machine{pace: NewPace(), capacity: 150 << 20, follower: follower, odd: 20}).run(t)
		t.Logf("seeds %.0f MiB/s, %d of %d writes slow", rate/oneMiB, slow, all)
		if rate < 75*oneMiB || rate > 180*oneMiB || slow*40 > all {
			t.Errorf("follower %t: seeds %.0f MiB/s, %d of %d writes slow", follower, rate/oneMiB, slow, all)
		}
	}
}

// Writes that stall by themselves, whatever seeds do, keep no seed at the floor.
func TestPaceOfAMemberThatStalls(t *testing.T) {
	rate, _, _ := (&machine{pace: NewPace(), capacity: 300 << 20, stalls: 125}).run(t)
	if rate < 100*oneMiB || rate > 320*oneMiB {
		t.Errorf("%.0f MiB/s", rate/oneMiB)
	}
}

// What is usual, and what one of a hundred exceeds, is learned without seeds; a
// stall does not pass for usual.
func TestGauge(t *testing.T) {
	var g gauge
	for i := range 4000 {
		took := time.Millisecond
		if i%50 == 0 {
			took = 3 * time.Millisecond
		}
		g.note(took, false)
	}
	if g.usual < time.Millisecond || g.usual > 1100*time.Microsecond || g.high < 2900*time.Microsecond || g.high > 3500*time.Microsecond {
		t.Errorf("usual %s, high %s", g.usual, g.high)
	}
	for i := range 4000 {
		took := time.Millisecond
		if i%200 == 0 {
			took = 3 * time.Millisecond
		}
		g.note(took, false)
	}
	if g.high > 2*time.Millisecond {
		t.Errorf("high %s where one of two hundred is over a millisecond", g.high)
	}
	before := g.usual
	g.note(time.Second, false)
	if g.usual > before+before/8 {
		t.Errorf("usual was %s, is %s after a stall", before, g.usual)
	}
	g.note(10*g.high, true)
	g.note(g.high, true)
	if g.ended != 2 || g.late != 1 || g.of != 2 {
		t.Errorf("%d ended, %d of %d late", g.ended, g.late, g.of)
	}
}

// A first work that waited for an election is forgotten, and one of twenty that takes
// long by itself is neither slow nor late.
func TestGaugeForgets(t *testing.T) {
	var g gauge
	g.note(5*time.Second, false)
	for range 8000 {
		g.note(time.Millisecond, false)
	}
	if g.usual > 1100*time.Microsecond || g.high > 3*time.Millisecond {
		t.Errorf("usual %s, high %s", g.usual, g.high)
	}
	odd := func(i int) time.Duration {
		if i%20 == 0 {
			return 30 * time.Millisecond
		}
		return 2 * time.Millisecond
	}
	for i := range 8000 {
		g.note(odd(i), false)
	}
	slow, late := 0, 0
	for i := range 8000 {
		g.note(odd(i), true)
		if g.ended == 40 {
			if g.slow() {
				slow++
			}
			if g.counted() {
				late++
			}
			g.reset()
		}
	}
	if slow > 10 || late > 0 {
		t.Errorf("%d of 200 looks slow, %d late, with nothing changed: usual %s, high %s", slow, late, g.usual, g.high)
	}
}

// However slow writes are, a seed gets on.
func TestPaceHasAFloor(t *testing.T) {
	rate, slow, all := (&machine{pace: NewPace(), capacity: 0}).run(t)
	if rate < 0.9*paceFloor || rate > 1.5*paceFloor || slow*2 < all {
		t.Errorf("%.0f MiB/s, %d of %d writes slow", rate/oneMiB, slow, all)
	}
}

// Without writes nothing is held back for long.
func TestPaceOfAnIdleMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{pace: NewPace()}
		if rate := m.seed(t.Context(), 5*time.Second, time.Millisecond); rate < 900*oneMiB {
			t.Errorf("%.0f MiB/s, the line takes 1000", rate/oneMiB)
		}
	})
}

// One write that does not end counts as slow while it waits.
func TestPaceSeesAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{pace: NewPace()}
		end := m.pace.Begin()
		if rate := m.seed(t.Context(), 5*time.Second, time.Millisecond); rate > 1.5*paceFloor {
			t.Errorf("%.0f MiB/s", rate/oneMiB)
		}
		end()
		if rate := m.seed(t.Context(), 5*time.Second, time.Millisecond); rate < 800*oneMiB {
			t.Errorf("after it ended: %.0f MiB/s", rate/oneMiB)
		}
	})
}

func TestPaceEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("stopped")
	cancel(reason)
	p := NewPace()
	for range 100 {
		if err := p.Wait(ctx, 64*oneMiB); errors.Is(err, reason) {
			return
		}
	}
	t.Error("a wait does not end with its context")
}
