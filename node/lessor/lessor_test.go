package lessor

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
)

func leads(term uint64) raftloop.Role { return raftloop.Role{State: raft.StateLeader, Term: term} }

// applied has entries applied, one of each term.
func applied(t *testing.T, l *Lessor, terms ...uint64) {
	t.Helper()
	var results []state.Result
	for _, term := range terms {
		results = append(results, state.Result{Term: term})
	}
	if err := l.Applied(results); err != nil {
		t.Fatal(err)
	}
}

// TestLessorFollowsTheLeadership: timers are those of the term in which this
// member leads, read once for it, when all that it inherited is applied, and whoever
// waits for the end of a lease hears when that is here, or somebody else's to tell.
func TestLessorFollowsTheLeadership(t *testing.T) {
	var l *Lessor
	var meanwhile raftloop.Role
	reads := 0
	l = New(Config{Extend: time.Second, Now: func() time.Duration { return 0 }, Read: func() ([]lease.Lease, error) {
		if reads++; meanwhile.Term > 0 {
			l.Role(meanwhile)
		}
		return []lease.Lease{{ID: 1, TTL: 60}, {ID: 2, TTL: 60}}, nil
	}})
	step := func(what string, wantReads int, wantLeads bool) {
		t.Helper()
		if reads != wantReads || l.timers.Leading() != wantLeads {
			t.Fatalf("%s: %d reads, leading %t", what, reads, l.timers.Leading())
		}
	}
	applied(t, l, 1)
	step("a follower", 0, false)
	l.Role(leads(2))
	l.Role(leads(2))
	applied(t, l)
	applied(t, l, 1, 1)
	step("only what others left is applied", 0, false)
	applied(t, l, 1, 2)
	step("its first entry is applied", 1, true)
	applied(t, l, 2)
	step("another one is", 1, true)
	l.Role(raftloop.Role{State: raft.StateFollower, Term: 3})
	applied(t, l, 2, 3)
	step("a follower again", 1, false)
	l.Role(leads(4))
	meanwhile = leads(5)
	applied(t, l, 4)
	step("the term ends as leases are read", 2, false)
	meanwhile.Term = 0
	applied(t, l, 4)
	step("the term that ended", 2, false)
	applied(t, l, 5)
	step("the next one", 3, true)
	first, second, other := l.endOf(1), l.endOf(1), l.endOf(2)
	if first != second || len(l.waiting) != 2 {
		t.Errorf("who waits again takes more memory: %d channels, the same %t", len(l.waiting), first == second)
	}
	if err := l.Applied([]state.Result{{Term: 5, Leases: []lease.Change{{Lease: lease.Lease{ID: 1}, Gone: true}}}}); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []<-chan struct{}{first, second} {
		select {
		case <-ended:
		default:
			t.Error("a revocation was not told")
		}
	}
	select {
	case <-other:
		t.Error("another lease was taken for it")
	default:
	}
	l.Role(raftloop.Role{State: raft.StateFollower, Term: 6})
	select {
	case <-other:
	default:
		t.Error("the end of the leadership was not told")
	}
	if l.timers.Leading() || len(l.waiting) != 0 {
		t.Error("something is left of the leadership")
	}
	l.cfg.Read = func() ([]lease.Lease, error) { return nil, errors.New("broken") }
	l.Role(leads(7))
	if err := l.Applied([]state.Result{{Term: 7}}); err == nil || l.timers.Leading() {
		t.Errorf("leases that can not be read: %v", err)
	}
}

// TestWhatARenewalNeeds: a quorum that followed this member in its term, not long
// ago, and nothing since that could have ended the lease.
func TestWhatARenewalNeeds(t *testing.T) {
	const extend, asked = time.Second, 10 * time.Second
	mine := Confirmation{term: 2, asked: asked}
	for name, c := range map[string]struct {
		shared, own Confirmation
		age         time.Duration
		behind      bool
		handing     bool
		id          int64
		want        bool // renewed
	}{
		"nothing was confirmed":                {id: 1},
		"shared":                               {shared: mine, id: 1, want: true},
		"shared, young enough":                 {shared: mine, age: extend/2 - 1, id: 1, want: true},
		"shared, too old":                      {shared: mine, age: extend / 2, id: 1},
		"shared, and more is committed":        {shared: mine, behind: true, id: 1},
		"shared, before the leadership goes":   {shared: mine, handing: true, id: 1},
		"shared, of an earlier term":           {shared: Confirmation{term: 1, asked: asked}, id: 1},
		"shared, of a lease not known":         {shared: mine, id: 9},
		"its own":                              {own: mine, id: 1, want: true},
		"its own, though more is committed":    {own: mine, behind: true, id: 1, want: true},
		"its own, while the leadership goes":   {own: mine, handing: true, id: 1, want: true},
		"its own, as old as the next one adds": {own: mine, age: extend, id: 1},
		"its own, young enough":                {own: mine, age: extend - 1, id: 1, want: true},
		"its own, of an earlier term":          {own: Confirmation{term: 1, asked: asked}, id: 1},
	} {
		t.Run(name, func(t *testing.T) {
			now := asked
			l := New(Config{Extend: extend, Now: func() time.Duration { return now }, Behind: func() bool { return c.behind },
				Read: func() ([]lease.Lease, error) { return []lease.Lease{{ID: 1, TTL: 60}}, nil }})
			if _, err := l.Renew(c.own, c.id); !fault.Is(err, fault.NotLeader) {
				t.Fatalf("without leading: %v", err)
			}
			l.Role(leads(2))
			if _, err := l.Renew(c.own, c.id); !fault.Is(err, fault.NotLeader) {
				t.Fatalf("before the leases are read: %v", err)
			}
			applied(t, l, 2)
			l.Confirmed(c.shared)
			if c.handing {
				l.HandOver()
			}
			now += c.age
			out, err := l.Renew(c.own, c.id)
			if err != nil || out.Unconfirmed == c.want || (c.want && (out.Verdict != policy.Renewed || out.TTL != 60)) {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
}

// TestUnknownByItsOwnConfirmation: that a lease is gone is said after a quorum was
// asked for it.
func TestUnknownByItsOwnConfirmation(t *testing.T) {
	var all []lease.Lease
	l := New(Config{Extend: time.Second, Now: func() time.Duration { return 0 }, Behind: func() bool { return false },
		Read: func() ([]lease.Lease, error) { return all, nil }})
	l.Role(leads(2))
	applied(t, l, 2)
	if out, err := l.Renew(Confirmation{term: 2}, 9); err != nil || out.Unconfirmed || out.Verdict != policy.Unknown {
		t.Errorf("%+v, %v", out, err)
	}
	l.HandOver()
	l.Role(leads(3))
	all = []lease.Lease{{ID: 1, TTL: 60}}
	applied(t, l, 3)
	l.Confirmed(Confirmation{term: 3})
	if out, err := l.Renew(Confirmation{}, 1); err != nil || out.Unconfirmed {
		t.Errorf("a leadership that was handed over is remembered in the next one: %+v, %v", out, err)
	}
}

func TestInContact(t *testing.T) {
	heard := func(ids ...uint64) replica.Status {
		st := replica.Status{ID: 1, Leader: 1, Voters: []uint64{1, 2, 3, 4}, Progress: map[uint64]replica.Progress{}}
		for _, id := range ids {
			st.Progress[id] = replica.Progress{RecentActive: true}
		}
		return st
	}
	follower := heard(2, 3, 4)
	follower.Leader = 2
	for name, c := range map[string]struct {
		st   replica.Status
		want bool
	}{
		"three of four": {heard(2, 3), true}, "two of four": {heard(2), false}, "a learner is no voter": {heard(2, 9), false},
		"alone": {replica.Status{ID: 1, Leader: 1, Voters: []uint64{1}}, true}, "a follower": {follower, false},
	} {
		if got := inContact(c.st); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
