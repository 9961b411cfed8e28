package lessor

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
)

// TestLessorFollowsTheLeadership: timers are those of the term in which this
// member leads, read once for it, and whoever waits for the end of a lease hears
// when that is here, or somebody else's to tell.
func TestLessorFollowsTheLeadership(t *testing.T) {
	var reads []func([]lease.Lease)
	l := New(Config{Extend: time.Second, Now: func() time.Duration { return 0 },
		Read: func(then func([]lease.Lease)) { reads = append(reads, then) }})
	leads := func(term uint64) raftloop.Role { return raftloop.Role{State: raft.StateLeader, Term: term} }
	all := []lease.Lease{{ID: 1, TTL: 60}, {ID: 2, TTL: 60}}
	l.Role(leads(2))
	l.Role(leads(2))
	if len(reads) != 1 || l.timers.Leading() {
		t.Fatalf("%d reads, leading %t", len(reads), l.timers.Leading())
	}
	l.Role(raftloop.Role{State: raft.StateFollower, Term: 3})
	l.Role(leads(4))
	reads[0](all) // of the term before
	if l.timers.Leading() {
		t.Fatal("the leases of another term were taken")
	}
	reads[1](all)
	if !l.timers.Leading() {
		t.Fatal("it does not lead")
	}
	first, second, other := l.endOf(1), l.endOf(1), l.endOf(2)
	if first != second || len(l.waiting) != 2 {
		t.Errorf("who waits again takes more memory: %d channels, the same %t", len(l.waiting), first == second)
	}
	l.Applied([]state.Result{{Leases: []lease.Change{{Lease: lease.Lease{ID: 1}, Gone: true}}}})
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
	l.Role(raftloop.Role{State: raft.StateFollower, Term: 5})
	select {
	case <-other:
	default:
		t.Error("the end of the leadership was not told")
	}
	if l.timers.Leading() || len(l.waiting) != 0 {
		t.Error("something is left of the leadership")
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
