package sim

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestLeasesUnderFaults: whatever crashes, leads or is cut off, no lease ends
// before the time its client was told last, and in the end all are gone from
// every node, with their keys.
func TestLeasesUnderFaults(t *testing.T) {
	ended, kept, saved, shared, seeds := 0, 0, 0, 0, uint64(6)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		x := newNemesis(t, 100+seed, false)
		next := int64(0)
		x.c.RunFor(3 * Second)
		for range 60 {
			next++
			nodes := x.c.Nodes()
			x.c.Grant(nodes[x.rng.IntN(len(nodes))].Name(), next, 1+x.rng.Int64N(30))
			for range 6 {
				x.c.RunFor(x.rng.Int64N(600))
				id := max(1, next-x.rng.Int64N(12))
				for _, n := range x.c.Nodes() { // more than one may believe that it leads
					x.c.KeepAlive(n.Name(), id)
				}
			}
			x.harmLeader()
		}
		if err := x.c.Settle(120 * Second); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		var left int
		if !x.c.RunUntil(120*Second, func() bool {
			var err error
			if left, err = x.c.leasesLeft(); err != nil {
				t.Fatal(err)
			}
			return left == 0
		}) {
			t.Errorf("seed %d: %d leases and keys are left", seed, left)
		}
		if err := x.c.Settle(60 * Second); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		for _, b := range x.c.Check() {
			t.Errorf("seed %d: %s", seed, b)
		}
		for _, call := range x.c.leases.calls {
			if call.KeepAlive && call.Outcome == OK && call.TTL > 0 {
				kept++
			}
		}
		ended, saved, shared = ended+len(x.c.leases.ended), saved+x.c.leases.saved, shared+x.c.leases.shared
		x.must(x.c.Close())
	}
	if ended == 0 || kept == 0 || saved == 0 || shared == 0 {
		t.Errorf("%d leases ended, %d keep-alives were answered, %d of them at once, %d checkpoints were applied", ended, kept, shared, saved)
	}
}

// harmLeader ends leaderships, which is what leases are sensitive to, and
// sometimes does any other harm.
func (x *nemesis) harmLeader() {
	l := x.c.Leader()
	switch kind := x.rng.IntN(8); {
	case kind == 0:
		x.harm()
	case kind <= 3:
		for _, n := range x.c.Nodes() {
			if _, ok := n.identity(); ok && !n.Up() && n.Fatal() == nil {
				x.must(n.Restart())
			}
		}
	case kind == 4 && l != nil:
		x.must(l.Crash(0))
	case kind == 5 && l != nil:
		_ = l.rep.TransferLeader(x.c.Nodes()[x.rng.IntN(3)].ID()) // refused where it makes no sense
		l.pump()
	case kind == 6:
		x.c.Heal()
	}
}

// TestLeaseAcrossLeaders: a lease that nobody renews ends in time, however often
// the leader changes, since what is left of it is noted.
func TestLeaseAcrossLeaders(t *testing.T) {
	h := found(t, "a", "b", "c")
	const ttl = 60
	call := h.Grant("b", 1, ttl)
	h.waitFor("the grant", func() bool { return call.Outcome == OK })
	changes := int64(0)
	for h.Now() < call.End+(ttl-5)*Second {
		h.RunFor(9 * Second)
		changes++
		h.lead([]string{"b", "c", "a"}[changes%3])
	}
	h.waitFor("the end of the lease", func() bool { _, ended := h.leases.ended[1]; return ended })
	// Without checkpoints each leader would have begun anew.
	if took, most := h.leases.ended[1]-call.Start, ttl*Second+changes*(checkpointInterval+3*Second); took < ttl*Second || took > most {
		t.Errorf("a lease of %d seconds took %d units and %d changes of leader, at most %d", ttl, took, changes, most)
	}
}

// TestDeposedLeaderRenews: a leader that hands over and hears nothing of it goes on
// answering for a while, and what it says holds under the next one.
func TestDeposedLeaderRenews(t *testing.T) {
	const ttl, step = 3, Second / 20
	answered := 0
	for offset := range int64(10) { // of the leader's own look at its quorum
		h := found(t, "a", "b", "c")
		a := h.lead("a")
		grant := h.Grant("a", 1, ttl)
		h.waitFor("the grant", func() bool { return grant.Outcome == OK })
		h.RunFor(offset * Tick)
		confirmed := h.KeepAlive("a", 1)
		h.waitFor("the keep-alive", func() bool { return confirmed.Outcome == OK })
		h.Intercept(func(to *Node, _ *raftpb.Message) bool { return to != a })
		h.must(a.rep.TransferLeader(h.nodes["b"].ID()))
		a.pump()
		h.waitFor("the next leader", func() bool { _, leads := h.nodes["b"].rep.Leads(); return leads })
		for range 3 * Second / step {
			call := h.KeepAlive("a", 1)
			h.RunFor(step)
			if call.Outcome == OK && call.TTL == ttl {
				answered++
			}
		}
		h.Intercept(nil)
		h.waitFor("the end of the lease", func() bool { _, ended := h.leases.ended[1]; return ended })
		for _, b := range h.Check() {
			t.Errorf("offset %d: %s", offset, b)
		}
	}
	if answered == 0 {
		t.Error("the deposed leader answered nothing")
	}
}

// TestLeaseOracle is the check's own test.
func TestLeaseOracle(t *testing.T) {
	h := found(t, "a", "b", "c")
	call := h.Grant("a", 1, 5)
	h.waitFor("the end of the lease", func() bool { _, ended := h.leases.ended[1]; return ended })
	if broken := h.Check(); len(broken) > 0 {
		t.Fatal(broken)
	}
	wants := func(text string) {
		t.Helper()
		if !slices.ContainsFunc(h.Check(), func(b string) bool { return strings.Contains(b, text) }) {
			t.Errorf("%q went unnoticed: %v", text, h.Check())
		}
	}
	end := h.leases.ended[1]
	h.leases.ended[1] = call.Start + 4*Second
	wants("lease 1 ended at")
	h.leases.ended[1] = end
	h.leases.calls = append(h.leases.calls, &LeaseCall{ID: 1, KeepAlive: true, Start: call.End + 1, End: end - 1, Outcome: OK})
	wants("lease 1 was said to be gone")
}
