package sim

import (
	"fmt"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// TestLeaderChangesMidSeed: the pull goes on, since the lease is replicated, and
// the new leader admits; nobody falls back to a Raft snapshot.
func TestLeaderChangesMidSeed(t *testing.T) {
	for part := range int64(parts) {
		h := found(t, "n1", "n2", "n3")
		h.fill("n1", 100)
		j := h.Add("n4", Options{From: "n2"})
		h.waitFor("the seed", func() bool { return j.Phase == "seed" })
		h.RunFor(part * 30)
		h.must(h.Leader().Crash(0))
		h.waitFor("the join", func() bool { return j.Ended })
		if !j.OK() || h.SnapshotsSent("n4") != 0 || j.Seeds != 1 {
			t.Errorf("part %d: %+v, %d MsgSnap", part, j, h.SnapshotsSent("n4"))
		}
		h.rest()
	}
}

// TestSourceKilledMidSeed: another source takes over, with the same lease.
func TestSourceKilledMidSeed(t *testing.T) {
	for part := range int64(parts) {
		h := found(t, "n1", "n2", "n3")
		h.fill("n1", 50)
		j := h.Add("n4", Options{})
		h.waitFor("the seed", func() bool { return j.Phase == "seed" })
		h.RunFor(part * 30)
		h.must(h.Node("n1").Crash(0)) // the leader is the source
		h.waitFor("the join", func() bool { return j.Ended })
		if !j.OK() || h.SnapshotsSent("n4") != 0 {
			t.Errorf("part %d: %+v, %d MsgSnap", part, j, h.SnapshotsSent("n4"))
		}
		h.rest()
	}
}

// TestRemovedOnTheWay: the newcomer is removed at any point of its join.
func TestRemovedOnTheWay(t *testing.T) {
	for wait := int64(0); wait < 1600; wait += 100 {
		h := found(t, "n1", "n2", "n3")
		h.fill("n1", 50)
		j := h.Add("n4", Options{Deadline: 30 * Second})
		h.waitFor("the reservation", func() bool { return len(h.Leader().Machine().Members()) == 4 })
		h.RunFor(wait)
		o := h.change(h.Node("n1"), state.RemoveNode, h.Node("n4").ID())
		h.RunUntil(callTimeout, func() bool { return o.ended })
		h.waitFor("the join", func() bool { return j.Ended })
		if o.err == nil && !fault.Is(j.Err, fault.Refused) && !j.OK() {
			t.Errorf("after %d units: %v", wait, j.Err)
		}
		if n := h.Node("n4"); n.Up() {
			h.must(n.Stop())
		}
		h.RunFor(30 * Second)
		l := h.Leader()
		if left := len(l.Machine().SeedLeases()); left != 0 {
			t.Errorf("after %d units: %d leases left", wait, left)
		}
		rec := l.Machine().Member(h.Node("n4").ID())
		if o.err == nil && rec.GetState() != entryv1.MemberState_MEMBER_STATE_REMOVED {
			t.Errorf("after %d units: %+v", wait, rec)
		}
		h.fill(l.Name(), 3)
	}
}

// TestKilledBetweenAddAndPromotion: every subset of the nodes loses its power,
// at several points between the learner's addition and its promotion.
func TestKilledBetweenAddAndPromotion(t *testing.T) {
	names := []string{"n1", "n2", "n3", "n4"}
	for set := 1; set < 1<<len(names); set++ {
		h := foundWith(t, Config{Seed: uint64(set)}, names[:3]...)
		j := h.Add("n4", Options{Deadline: 60 * Second})
		h.waitFor("the learner", func() bool {
			l := h.Leader()
			return l != nil && len(l.Machine().ConfState().GetLearners()) == 1
		})
		h.RunFor(int64(set) * 90)
		for i, name := range names {
			if set&(1<<i) != 0 {
				h.must(h.Node(name).Crash(0))
			}
		}
		h.RunFor(int64(set%4) * Second)
		h.rest()
		if !j.Ended {
			t.Errorf("set %04b: the join hangs", set)
		}
	}
}

// TestWritesGoOnWhileTheNewcomerDies: from one voter to two, the newcomer dies at
// each step; until the promotion is committed, not one write waits for it.
func TestWritesGoOnWhileTheNewcomerDies(t *testing.T) {
	for wait := int64(0); wait < 1600; wait += 200 {
		h := found(t, "n1")
		h.Add("n2", Options{Deadline: 30 * Second})
		h.waitFor("the reservation", func() bool { return len(h.Leader().Machine().Members()) == 2 })
		h.RunFor(wait)
		h.must(h.Node("n2").Crash(0))
		if len(h.Node("n1").Machine().ConfState().GetVoters()) == 2 {
			break // promoted: from here on it counts
		}
		for i := range 10 {
			op := h.want(h.Put("n1", "k", fmt.Sprint(i)), OK)
			if op.End-op.Start > 2*Tick {
				t.Errorf("dead after %d units: a write took %d", wait, op.End-op.Start)
			}
		}
	}
}
