package policy

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state/lease"
)

const (
	propExtend   = time.Second
	propInterval = 10 * time.Second
)

// group is a cluster as leases see it: one table that entries change when they
// are committed, and a leader's Lessor. A change of leader loses entries.
type group struct {
	now     time.Duration
	leader  *Lessor // nil while there is none
	table   map[int64]lease.Lease
	log     []lease.Change // not committed
	began   map[int64]time.Duration
	slack   map[int64]time.Duration // by which changes of leaders may lengthen a lease
	ended   map[int64]time.Duration // revoked because it ran out, and when
	without time.Duration           // since when there is no leader
}

func newGroup() *group {
	g := &group{table: map[int64]lease.Lease{}, began: map[int64]time.Duration{}, slack: map[int64]time.Duration{}, ended: map[int64]time.Duration{}}
	g.elect()
	return g
}

func (g *group) elect() {
	g.leader = NewLessor(LessorOptions{CheckpointInterval: propInterval})
	var all []lease.Lease
	for _, id := range slices.Sorted(maps.Keys(g.table)) {
		all = append(all, g.table[id])
	}
	g.leader.Promote(g.now, all, propExtend)
	for id := range g.table {
		// At most one interval has passed since the last checkpoint was due, which
		// one election may have lost; its seconds are rounded up.
		g.slack[id] += g.now - g.without + 2*propInterval + propExtend + time.Second
	}
}

// commit carries out the first n entries.
func (g *group) commit(n int) error {
	for _, c := range g.log[:n] {
		old, there := g.table[c.ID]
		switch {
		case !c.Gone && !there && c.Remaining != 0, c.Gone && !there:
			continue // refused, or passed over
		case c.Gone:
			if early := g.began[c.ID] + seconds(old.TTL); g.now < early {
				return fmt.Errorf("lease %d ended at %s, %s early", c.ID, g.now, early-g.now)
			}
			delete(g.table, c.ID)
			g.ended[c.ID] = g.now
		case !there:
			g.table[c.ID], g.began[c.ID], g.slack[c.ID] = c.Lease, g.now, 0
		default:
			old.Remaining = c.Remaining
			g.table[c.ID] = old
			c.Lease = old
		}
		if g.leader != nil {
			g.leader.Apply(g.now, c)
		}
	}
	g.log = slices.Clone(g.log[n:])
	return nil
}

func (g *group) tick() {
	if g.leader == nil {
		return
	}
	w := g.leader.Tick(g.now)
	for _, id := range w.Revoke {
		g.log = append(g.log, lease.Change{Lease: lease.Lease{ID: id}, Gone: true})
	}
	for _, l := range w.Checkpoint {
		g.log = append(g.log, lease.Change{Lease: l})
	}
}

// renew is a keep-alive; it is answered only when the verdict says Renewed.
func (g *group) renew(id int64) {
	if g.leader == nil {
		return
	}
	switch ttl, v := g.leader.Renew(g.now, id); v {
	case Renewed:
		g.began[id], g.slack[id] = g.now, 0
		if ttl != g.table[id].TTL {
			panic("renewed with another time to live")
		}
	case Checkpointed:
		g.log = append(g.log, lease.Change{Lease: lease.Lease{ID: id, TTL: g.table[id].TTL}})
	}
}

// late names a lease that is there longer than anything allows.
func (g *group) late() error {
	for id, l := range g.table {
		end := g.began[id] + seconds(l.TTL) + g.slack[id] + DefaultRevokeRetry + 4*time.Second
		if g.leader != nil && len(g.log) == 0 && g.now > end {
			return fmt.Errorf("lease %d is there at %s, %s late", id, g.now, g.now-end)
		}
	}
	return nil
}

func (g *group) step(t *rapid.T, next *int64) error {
	g.now += time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond
	id := rapid.Int64Range(1, max(1, *next)).Draw(t, "lease")
	switch rapid.IntRange(0, 19).Draw(t, "what") {
	case 0, 1:
		*next++
		g.log = append(g.log, lease.Change{Lease: lease.Lease{ID: *next, TTL: rapid.Int64Range(1, 60).Draw(t, "ttl")}})
	case 2:
		if err := g.commit(rapid.IntRange(0, len(g.log)).Draw(t, "survive")); err != nil {
			return err
		}
		if g.leader != nil {
			g.without = g.now
		}
		g.log, g.leader = nil, nil
	case 3, 4, 5:
		if g.leader == nil {
			g.elect()
		}
	case 6, 7, 8, 9, 10, 11:
		g.renew(id)
	}
	g.tick()
	// An entry waits for two steps at most while there is a leader.
	if g.leader != nil {
		return g.commit(rapid.IntRange(len(g.log)*2/3, len(g.log)).Draw(t, "commit"))
	}
	return nil
}

// TestLessorProperty: whatever leaders come and go and whichever entries they
// lose, no lease ends before its time, counted from the last answered renewal,
// and each ends, later by no more than the changes of leaders explain.
func TestLessorProperty(t *testing.T) {
	ended, checkpoints := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		g, next := newGroup(), int64(0)
		for range rapid.IntRange(10, 200).Draw(rt, "steps") {
			if err := g.step(rt, &next); err != nil {
				rt.Fatal(err)
			}
			if err := g.late(); err != nil {
				rt.Fatal(err)
			}
			for _, l := range g.table {
				if l.Remaining > 0 {
					checkpoints++
				}
			}
		}
		if g.leader == nil {
			g.elect()
		}
		for range 100 { // longer than any lease
			g.now += time.Second
			g.tick()
			if err := g.commit(len(g.log)); err != nil {
				rt.Fatal(err)
			}
		}
		if len(g.table) > 0 {
			rt.Fatalf("leases left: %v", g.table)
		}
		ended += len(g.ended)
	})
	if ended == 0 || checkpoints == 0 {
		t.Errorf("%d leases ended, %d times one was checkpointed", ended, checkpoints)
	}
}

// TestGroupSeesEarlyAndLate is the oracle's own test.
func TestGroupSeesEarlyAndLate(t *testing.T) {
	g := newGroup()
	g.log = []lease.Change{{Lease: lease.Lease{ID: 1, TTL: 10}}}
	if err := g.commit(1); err != nil {
		t.Fatal(err)
	}
	g.now = 9 * time.Second
	g.log = []lease.Change{{Lease: lease.Lease{ID: 1}, Gone: true}}
	if err := g.commit(1); err == nil {
		t.Error("an early end went unnoticed")
	}
	g.log = nil
	if g.now = 10*time.Second + DefaultRevokeRetry; g.late() != nil {
		t.Error("a lease that may be there is called late")
	}
	if g.now = time.Minute; g.late() == nil {
		t.Error("a lease that stays went unnoticed")
	}
}

// BenchmarkLessor is a leader's tick with leases that are all kept alive.
func BenchmarkLessor(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := make([]lease.Lease, n)
			for i := range all {
				all[i] = lease.Lease{ID: int64(i + 1), TTL: 60}
			}
			l := NewLessor(LessorOptions{})
			l.Promote(0, all, time.Second)
			now, at := time.Duration(0), int64(0)
			b.ReportAllocs()
			for b.Loop() {
				now += tick
				for range n / 200 { // each three times in its 60 seconds
					at = at%int64(n) + 1
					if _, v := l.Renew(now, at); v != Renewed {
						b.Fatal(v)
					}
				}
				if w := l.Tick(now); len(w.Revoke) > 0 {
					b.Fatal(w)
				}
			}
		})
	}
}
