package lessor

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/raftloop"
)

const (
	propExtend   = time.Second
	propInterval = 10 * time.Second
)

// entry is one of the log: a change of a lease, or a leader's first one.
type entry struct {
	term   uint64
	change lease.Change
	first  bool
}

// member is the one that is elected again and again, as the next leader or as
// another one: it has applied less than the one before had, and has in its log what
// that one answered for.
type member struct {
	now     time.Duration
	term    uint64
	l       *Lessor
	log     []entry
	applied int // entries of the log
	table   map[int64]lease.Lease
	// told is when a lease ends at the earliest, by what its client was told.
	told map[int64]time.Duration
	late int // entries of leaders before that were applied by the next one
}

func newMember() *member {
	m := &member{table: map[int64]lease.Lease{}, told: map[int64]time.Duration{}}
	m.l = New(Config{Options: policy.LessorOptions{CheckpointInterval: propInterval}, Extend: propExtend,
		Now: func() time.Duration { return m.now }, Behind: func() bool { return true },
		Read: func() ([]lease.Lease, error) { return slices.Collect(maps.Values(m.table)), nil }})
	m.elect(0)
	return m
}

// elect has the next leader begin with a log of which it has applied all but some.
func (m *member) elect(lag int) {
	m.l.Role(raftloop.Role{State: raft.StateFollower, Term: m.term + 1})
	m.table, m.applied = map[int64]lease.Lease{}, 0
	for n := len(m.log) - lag; m.applied < n; m.applied++ {
		m.change(m.log[m.applied].change)
	}
	m.term += 2
	m.l.Role(raftloop.Role{State: raft.StateLeader, Term: m.term})
	m.log = append(m.log, entry{term: m.term, first: true})
}

// change does to the table what the state machine does.
func (m *member) change(c lease.Change) (seen []lease.Change) {
	old, there := m.table[c.ID]
	switch {
	case c.ID == 0, !there && (c.Gone || c.TTL == 0):
		return nil
	case c.Gone:
		delete(m.table, c.ID)
	case there:
		old.Remaining = c.Remaining
		c.Lease = old
		m.table[c.ID] = old
	default:
		m.table[c.ID] = c.Lease
	}
	return []lease.Change{c}
}

// apply applies the next n entries as one job.
func (m *member) apply(n int) error {
	var results []state.Result
	for range min(n, len(m.log)-m.applied) {
		e := m.log[m.applied]
		m.applied++
		if e.term < m.term && !e.first {
			m.late++
		}
		_, there := m.table[e.change.ID]
		if told := m.told[e.change.ID]; e.change.Gone && there && m.now < told {
			return fmt.Errorf("lease %d ended at %s, %s early", e.change.ID, m.now, told-m.now)
		}
		seen := m.change(e.change)
		if _, known := m.told[e.change.ID]; !known && !e.change.Gone && !there && len(seen) > 0 {
			m.told[e.change.ID] = m.now + time.Duration(e.change.TTL)*time.Second
		}
		results = append(results, state.Result{Term: e.term, Leases: seen})
	}
	return m.l.Applied(results)
}

// renew is a keep-alive, asked again until it is answered, or the entry that it
// needs is in the log and not applied.
func (m *member) renew(id int64, wait func() bool) error {
	for {
		out, err := m.l.Renew(Confirmation{term: m.term, asked: m.now}, id)
		switch {
		case err != nil || out.Verdict == policy.Unknown || out.Verdict == policy.RanOut:
			return nil // another member has to be asked, or nothing was promised
		case out.Verdict == policy.Renewed:
			m.told[id] = m.now + time.Duration(out.TTL)*time.Second
			return nil
		}
		m.log = append(m.log, entry{term: m.term, change: lease.Change{Lease: lease.Lease{ID: id}}})
		if !wait() {
			return nil
		}
		if err := m.apply(len(m.log)); err != nil {
			return err
		}
	}
}

// tick asks for what is due, as Tick does.
func (m *member) tick() {
	w := m.l.timers.Tick(m.now)
	for _, id := range w.Revoke {
		m.log = append(m.log, entry{term: m.term, change: lease.Change{Lease: lease.Lease{ID: id}, Gone: true}})
	}
	for _, l := range w.Checkpoint {
		m.log = append(m.log, entry{term: m.term, change: lease.Change{Lease: lease.Lease{ID: l.ID, Remaining: l.Remaining}}})
	}
}

func (m *member) step(t *rapid.T, next *int64) error {
	m.now += time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond
	switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
	case what == 0:
		*next++
		m.log = append(m.log, entry{term: m.term, change: lease.Change{Lease: lease.Lease{ID: *next, TTL: rapid.Int64Range(20, 60).Draw(t, "ttl")}}})
	case what == 1:
		m.elect(rapid.IntRange(0, min(len(m.log), 4)).Draw(t, "lag"))
	case what < 5:
		id := rapid.Int64Range(1, max(1, *next)).Draw(t, "lease")
		if err := m.renew(id, func() bool { return rapid.Bool().Draw(t, "wait") }); err != nil {
			return err
		}
	}
	m.tick()
	return m.apply(rapid.IntRange(0, 6).Draw(t, "apply"))
}

// TestElectionsOvertakeCommits: whichever part of what the leaders before left is
// applied when one begins, no lease ends before what its client was told.
func TestElectionsOvertakeCommits(t *testing.T) {
	overtaken, gone := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		m, next := newMember(), int64(0)
		for range rapid.IntRange(20, 200).Draw(rt, "steps") {
			if err := m.step(rt, &next); err != nil {
				rt.Fatal(err)
			}
		}
		if err := m.apply(len(m.log)); err != nil {
			rt.Fatal(err)
		}
		for range 100 { // longer than any lease
			m.now += time.Second
			m.tick()
			if err := m.apply(len(m.log)); err != nil {
				rt.Fatal(err)
			}
		}
		if len(m.table) > 0 {
			rt.Fatalf("leases left: %v", m.table)
		}
		overtaken, gone = overtaken+m.late, gone+len(m.told)
	})
	if overtaken == 0 || gone == 0 {
		t.Errorf("%d entries were overtaken, %d leases ended", overtaken, gone)
	}
}
