package policy

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// world draws a history of views that a member could see.
type world struct {
	v       View
	changed time.Duration            // of the leadership
	renewed map[uint64]time.Duration // of leases, since the leadership changed
}

func (w *world) step(t *rapid.T) {
	v := &w.v
	v.Now += time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond
	if rapid.IntRange(0, 19).Draw(t, "election") == 0 {
		v.Term++
		v.Leader = rapid.IntRange(0, 3).Draw(t, "leader") > 0
		w.changed, w.renewed = v.Now, map[uint64]time.Duration{}
	}
	v.Last += uint64(rapid.IntRange(0, 300).Draw(t, "entries"))
	v.Commit = v.Last
	v.Applied = v.Last - min(v.Last, uint64(rapid.IntRange(0, 5).Draw(t, "unapplied")))
	v.DurableApplied = max(v.DurableApplied, v.Applied-min(v.Applied, uint64(rapid.IntRange(0, 200).Draw(t, "volatile"))))
	v.DurableApplied = min(v.DurableApplied, v.Applied)
	v.PendingConf = rapid.Bool().Draw(t, "pending")
	w.leases(t)
	w.members(t)
	w.renewals()
}

func (w *world) leases(t *rapid.T) {
	v := &w.v
	switch rapid.IntRange(0, 9).Draw(t, "lease") {
	case 0, 1:
		// A lease opened by the entry last applied, or sharing a live one's hold.
		l := &entryv1.SeedLease{Id: v.Applied, Hold: v.Applied, CapBytes: uint64(rapid.IntRange(1, 5000).Draw(t, "cap")), TtlMs: uint64(rapid.IntRange(1, 20000).Draw(t, "ttl")), MemberId: uint64(rapid.IntRange(0, 5).Draw(t, "for"))}
		if n := len(v.Leases); n > 0 {
			if v.Leases[n-1].GetId() >= l.Id {
				return
			}
			if rapid.Bool().Draw(t, "clone") {
				l.Hold = v.Leases[rapid.IntRange(0, n-1).Draw(t, "of")].GetHold()
			}
		}
		v.Leases = append(slices.Clone(v.Leases), l)
	case 2:
		if n := len(v.Leases); n > 0 {
			i := rapid.IntRange(0, n-1).Draw(t, "renewed")
			l := &entryv1.SeedLease{Id: v.Leases[i].GetId(), Hold: v.Leases[i].GetHold(), CapBytes: v.Leases[i].GetCapBytes(), TtlMs: v.Leases[i].GetTtlMs(), MemberId: v.Leases[i].GetMemberId(), Renewal: v.Leases[i].GetRenewal() + 1}
			v.Leases = slices.Clone(v.Leases)
			v.Leases[i] = l
			delete(w.renewed, l.GetId())
		}
	}
}

func (w *world) members(t *rapid.T) {
	v := &w.v
	v.Members = nil
	for id := uint64(1); id <= 5; id++ {
		m := &entryv1.MemberRecord{Id: id, State: entryv1.MemberState_MEMBER_STATE_MEMBER, VoterIntent: id != 5, StayLearner: id == 5, Learner: id > 3}
		if id == 3 {
			m.State = entryv1.MemberState_MEMBER_STATE_RESERVED
		}
		v.Members = append(v.Members, m)
		pr := v.Progress[id]
		pr.Match = max(pr.Match, v.Last-min(v.Last, uint64(rapid.IntRange(0, 3000).Draw(t, "lag"))))
		pr.RecentActive = rapid.IntRange(0, 3).Draw(t, "active") > 0
		pr.State = rapid.SampledFrom([]string{StateReplicate, StateReplicate, StateReplicate, StateProbe, StateSnapshot}).Draw(t, "state")
		v.Progress[id] = pr
	}
}

// renewals notes when each lease was first seen with its renewal number.
func (w *world) renewals() {
	for _, l := range w.v.Leases {
		if _, known := w.renewed[l.GetId()]; !known {
			w.renewed[l.GetId()] = w.v.Now
		}
	}
}

// do has the effect of an action, and of some entries that the leader commits.
func (w *world) do(t *rapid.T, actions []Action) {
	v := &w.v
	for _, a := range actions {
		switch a := a.(type) {
		case Truncate:
			v.First = a.Index + 1
		case ExpireLease:
			w.drop(t, a.ID)
		case CloseLease:
			w.drop(t, a.ID)
		}
	}
}

func (w *world) drop(t *rapid.T, id uint64) {
	if rapid.Bool().Draw(t, "lost") {
		return
	}
	w.v.Leases = slices.DeleteFunc(slices.Clone(w.v.Leases), func(l *entryv1.SeedLease) bool { return l.GetId() == id })
}

// TestProperties checks, for every action ever asked for: a truncation stays
// behind every hold, behind what is durably applied less the trailing entries,
// gains a step; only the leader asks for entries, at most one configuration
// change at a time and none while one is pending; no lease ends before its time
// to live under this leadership; a learner that is to stay is left alone. Two
// policies shown the same do the same.
func TestProperties(t *testing.T) {
	asked := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		o := Options{TrailingEntries: 50, StepEntries: 20, MaxFollowerLagEntries: 1000, LearnerTimeout: 5 * time.Second, ReservationTTL: 5 * time.Second}
		w := &world{renewed: map[uint64]time.Duration{}, v: View{
			SelfID: 1, Term: 1, Leader: true, ElectionTimeout: time.Second, First: 1, Progress: map[uint64]Progress{},
			Cluster: &entryv1.ClusterRecord{}, LogBytesAfter: func(i uint64) uint64 { return 1 },
		}}
		one, two := New(o), New(o)
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			w.step(t)
			actions := one.Decide(w.v)
			if again := two.Decide(w.v); !slices.Equal(actions, again) {
				t.Fatalf("%v, then %v", actions, again)
			}
			w.check(t, o, actions, asked)
			w.do(t, actions)
		}
	})
	for _, kind := range []string{"truncate", "expire", "close", "cancel", "promote"} {
		if asked[kind] == 0 {
			t.Errorf("never asked to %s: the drawn world is too poor", kind)
		}
	}
}

func (w *world) check(t *rapid.T, o Options, actions []Action, asked map[string]int) {
	changes := 0
	for _, a := range actions {
		if _, local := a.(Truncate); !local && !w.v.Leader {
			t.Fatalf("a follower asks to %s", a)
		}
		switch a := a.(type) {
		case Truncate:
			asked["truncate"]++
			w.checkTruncation(t, o, a.Index)
		case ExpireLease:
			asked["expire"]++
			l := w.v.Leases[slices.IndexFunc(w.v.Leases, func(l *entryv1.SeedLease) bool { return l.GetId() == a.ID })]
			if a.Renewal != l.GetRenewal() {
				t.Fatalf("%s, but it is at renewal %d", a, l.GetRenewal())
			}
			if since := max(w.renewed[a.ID], w.changed); w.v.Now-since < milliseconds(l.GetTtlMs()) {
				t.Fatalf("%s after %s of %d ms", a, w.v.Now-since, l.GetTtlMs())
			}
		case CloseLease:
			asked["close"]++
		case CancelReservation:
			asked["cancel"]++
			if w.v.Now-w.changed < o.ReservationTTL {
				t.Fatalf("%s %s after the election", a, w.v.Now-w.changed)
			}
		case Promote:
			asked["promote"]++
			changes++
			if a.ID != 4 {
				t.Fatalf("%s: not a learner that is to vote", a)
			}
		case RemoveLearner:
			changes++
			if a.ID != 4 || w.v.Now-w.changed < o.LearnerTimeout {
				t.Fatalf("%s", a)
			}
		}
	}
	if changes > 1 || (changes == 1 && w.v.PendingConf) {
		t.Fatalf("%d configuration changes, pending %t", changes, w.v.PendingConf)
	}
}

func (w *world) checkTruncation(t *rapid.T, o Options, index uint64) {
	for _, l := range w.v.Leases {
		if index > l.GetHold() {
			t.Fatalf("truncation to %d passes the hold %d of lease %d", index, l.GetHold(), l.GetId())
		}
	}
	if index+o.TrailingEntries > w.v.DurableApplied {
		t.Fatalf("truncation to %d, durably applied %d", index, w.v.DurableApplied)
	}
	if index+1 < w.v.First+o.StepEntries {
		t.Fatalf("truncation to %d gains %d entries", index, index+1-w.v.First)
	}
}

// TestHugeTTL: a time to live that no duration can hold is very long, not over.
func TestHugeTTL(t *testing.T) {
	if d := milliseconds(1 << 63); d < 1000*time.Hour {
		t.Fatal(d)
	}
	p := New(Options{})
	v := View{Leader: true, SelfID: 1, ElectionTimeout: time.Second, Cluster: &entryv1.ClusterRecord{},
		Leases: []*entryv1.SeedLease{{Id: 1, Hold: 1, TtlMs: 1 << 63, CapBytes: 1}}}
	for range 10 {
		v.Now += time.Hour
		if a := p.Decide(v); len(a) != 0 {
			t.Fatal(a)
		}
	}
}
