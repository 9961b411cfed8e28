package replica

import (
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// The tests of this file are the ways in which a join hangs, storms or panics
// with the bare library: one leader, two hundred entries, one newcomer. Here each
// ends well or with a typed error.

// leaderWith200 is member 1, the only voter, with its log from index 2 on.
func leaderWith200(t *testing.T) (*cluster, *testNode) {
	c := newCluster(t)
	c.start(1, 1, 1, voters(1))
	n := c.leader(1)
	c.puts(1, 200-int(n.r.Status().Last))
	if last := n.r.Status().Last; last != 200 {
		t.Fatalf("log ends at %d", last)
	}
	return c, n
}

func (c *cluster) wantCaughtUp(id uint64, snaps int) {
	c.t.Helper()
	s := c.nodes[1].r.Status()
	p := s.Progress[id]
	if p.State != "StateReplicate" || p.Match != s.Last {
		c.t.Errorf("member %x: %+v, the log ends at %d", id, p, s.Last)
	}
	if c.snaps[id] != snaps {
		c.t.Errorf("%d MsgSnap to member %x, want %d", c.snaps[id], id, snaps)
	}
	if n := c.nodes[id]; n == nil || n.machine.applied != s.Last {
		c.t.Errorf("member %x did not apply all", id)
	}
}

// mustChange makes a configuration change and waits for it.
func (c *cluster) mustChange(typ state.ConfChangeType, id uint64) {
	c.t.Helper()
	o := c.change(1, typ, id)
	c.settle()
	if o.calls != 1 || o.err != nil {
		c.t.Fatalf("change: %+v", o)
	}
}

func TestSeededLearnerNeedsNoSnapshot(t *testing.T) {
	c, _ := leaderWith200(t)
	c.compact(1, 50)
	c.start(2, 2, 100, voters(1))
	c.mustChange(state.AddLearner, 2)
	c.ticks(3)
	c.wantCaughtUp(2, 0)
}

func TestCompactedLogFreshSnapshot(t *testing.T) {
	c, n := leaderWith200(t)
	c.compact(1, 180)
	c.start(2, 2, 100, voters(1))
	c.mustChange(state.AddLearner, 2)
	c.ticks(2)
	if c.snaps[2] != 0 {
		t.Fatalf("%d MsgSnap that lack the learner", c.snaps[2])
	}
	c.compact(1, 180)
	c.ticks(2)
	if err := n.r.ReportSnapshot(2, raft.SnapshotFinish); err != nil {
		t.Fatal(err)
	}
	c.ticks(2)
	c.wantCaughtUp(2, 1)
}

func TestSnapshotWithoutTheLearnerIsNeverSent(t *testing.T) {
	c, _ := leaderWith200(t)
	c.compact(1, 180)
	c.start(2, 0, 0, nil)
	c.mustChange(state.AddLearner, 2)
	c.ticks(500)
	if c.snaps[2] != 0 {
		t.Errorf("%d MsgSnap that lack the learner", c.snaps[2])
	}
	if p := c.nodes[1].r.Status().Progress[2]; p.Match != 0 || p.State != "StateProbe" || !p.RecentActive {
		t.Errorf("progress %+v", p)
	}
}

func TestLostSnapshotIsSentAgain(t *testing.T) {
	c, n := leaderWith200(t)
	c.compact(1, 180)
	c.start(2, 0, 0, nil)
	c.mustChange(state.AddLearner, 2)
	c.compact(1, 180)
	c.drop = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgSnap }
	c.ticks(50)
	if c.snaps[2] != 1 {
		t.Fatalf("%d MsgSnap without a report, want 1", c.snaps[2])
	}
	// The transport reports the failure; a second report of the same MsgSnap must
	// not end the pause of the next one.
	c.drop = nil
	if err := n.r.ReportSnapshot(2, raft.SnapshotFailure); err != nil {
		t.Fatal(err)
	}
	c.ticks(2)
	if err := n.r.ReportSnapshot(2, raft.SnapshotFinish); err != nil {
		t.Fatal(err)
	}
	c.ticks(2)
	c.wantCaughtUp(2, 2)
}

func TestSecondReportIsIgnored(t *testing.T) {
	c, n := leaderWith200(t)
	c.compact(1, 180)
	c.start(2, 0, 0, nil)
	c.mustChange(state.AddLearner, 2)
	c.compact(1, 180)
	c.drop = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgSnap }
	c.ticks(2)
	for range 2 {
		if err := n.r.ReportSnapshot(2, raft.SnapshotFailure); err != nil {
			t.Fatal(err)
		}
	}
	c.ticks(2)
	if p := n.r.Status().Progress[2]; p.State != "StateSnapshot" || c.snaps[2] != 2 {
		t.Fatalf("%d MsgSnap, %+v", c.snaps[2], p)
	}
	// This one is for the second MsgSnap; without it the member stays paused.
	if err := n.r.ReportSnapshot(2, raft.SnapshotFailure); err != nil {
		t.Fatal(err)
	}
	if p := n.r.Status().Progress[2]; p.State != "StateProbe" {
		t.Fatalf("%+v after the report", p)
	}
	if err := n.r.ReportSnapshot(9, raft.SnapshotFailure); err != nil {
		t.Fatal(err)
	}
}

func TestWrongSeedTermMakesNoProgress(t *testing.T) {
	c, n := leaderWith200(t)
	c.compact(1, 50)
	c.start(2, 1, 100, voters(1)) // entry 100 has term 2
	c.mustChange(state.AddLearner, 2)
	before := c.sent[raftpb.MsgApp]
	c.ticks(100)
	if p := n.r.Status().Progress[2]; p.Match != 0 || p.State != "StateProbe" {
		t.Errorf("progress %+v", p)
	}
	if got := c.sent[raftpb.MsgApp] - before; got > 250 {
		t.Errorf("%d MsgApp in 100 ticks", got)
	}
	// The cluster works on, and the learner can be removed.
	c.puts(1, 1)
	c.mustChange(state.RemoveNode, 2)
}

func TestSeedOfAnotherClusterIsNotAcknowledged(t *testing.T) {
	c, n := leaderWith200(t)
	c.start(2, 2, 500, voters(1))
	c.mustChange(state.AddLearner, 2)
	c.ticks(100)
	if p := n.r.Status().Progress[2]; p.Match != 0 {
		t.Errorf("progress %+v, the log ends at %d", p, n.r.Status().Last)
	}
	if c.snaps[2] != 0 || len(n.rejects) == 0 {
		t.Errorf("%d MsgSnap, rejects %v", c.snaps[2], n.rejects)
	}
	c.puts(1, 1)
	c.mustChange(state.RemoveNode, 2)
}

func TestTwoChangesInFlight(t *testing.T) {
	c, n := leaderWith200(t)
	first, second := c.change(1, state.AddLearner, 2), c.change(1, state.AddLearner, 3)
	if second.calls != 1 || !fault.Is(second.err, fault.Refused) {
		t.Fatalf("second change: %+v", second)
	}
	if first.calls != 0 || !n.r.HasPendingConf() {
		t.Fatalf("first change: %+v", first)
	}
	c.settle()
	if first.calls != 1 || first.err != nil || n.r.HasPendingConf() {
		t.Fatalf("first change: %+v", first)
	}
	c.mustChange(state.AddLearner, 3)
}

// TestChangeReplacedByAnEmptyEntry gets past the check of TestTwoChangesInFlight,
// as a difference between our bookkeeping and the library's would.
func TestChangeReplacedByAnEmptyEntry(t *testing.T) {
	c, n := leaderWith200(t)
	n.manual = true
	first := c.change(1, state.AddLearner, 2)
	c.settle()
	n.r.conf.index = 0
	second := c.change(1, state.AddLearner, 3)
	if second.calls != 0 {
		t.Fatalf("second change: %+v", second)
	}
	c.settle()
	if second.calls != 1 || !fault.Is(second.err, fault.Refused) {
		t.Fatalf("second change: %+v", second)
	}
	n.manual = false
	for range 5 {
		c.append(1)
		c.apply(1)
		c.settle()
	}
	if first.calls != 1 || first.err != nil {
		t.Fatalf("first change: %+v", first)
	}
}

func TestWipedDirectoryIsAnErrorNotAPanic(t *testing.T) {
	c := newCluster(t)
	for id := range uint64(3) {
		c.start(id+1, 1, 1, voters(1, 2, 3))
	}
	c.leader(1)
	c.puts(1, 10)
	c.start(2, 1, 1, voters(1, 2, 3)) // same ID, nothing of its log
	c.ticks(5)
	if !fault.Is(c.fatal[2], fault.Corrupt) || fault.HintOf(c.fatal[2]) == "" {
		t.Fatalf("wiped member: %v", c.fatal[2])
	}
	c.puts(1, 1)
}

func TestAbsentNewcomerDoesNotStopCommits(t *testing.T) {
	c, _ := leaderWith200(t)
	// A voter is never added directly.
	o := c.change(1, state.AddVoter, 2)
	c.settle()
	if o.calls != 1 || !fault.Is(o.err, fault.Refused) {
		t.Fatalf("direct voter addition: %+v", o)
	}
	// As a learner it is no part of the quorum, and can be removed again.
	c.mustChange(state.AddLearner, 2)
	c.puts(1, 10)
	c.mustChange(state.RemoveNode, 2)
}

func TestPromotionNeedsContact(t *testing.T) {
	c, _ := leaderWith200(t)
	c.start(2, 2, 100, voters(1))
	c.mustChange(state.AddLearner, 2)
	c.ticks(5)
	c.drop = func(m *raftpb.Message) bool { return m.GetTo() == 2 || m.GetFrom() == 2 }
	c.ticks(25) // two check-quorum rounds
	o := c.change(1, state.AddVoter, 2)
	c.settle()
	if o.calls != 1 || !fault.Is(o.err, fault.Refused) {
		t.Fatalf("promotion of an unreachable learner: %+v", o)
	}
	c.puts(1, 1)
	c.drop = nil
	c.ticks(5)
	c.mustChange(state.AddVoter, 2)
	c.puts(1, 1)
}

func TestPromotionNeedsAReachableQuorum(t *testing.T) {
	c := newCluster(t)
	for id := range uint64(3) {
		c.start(id+1, 1, 1, voters(1, 2, 3))
	}
	c.leader(1)
	c.start(4, 1, 1, voters(1, 2, 3))
	c.mustChange(state.AddLearner, 4)
	c.ticks(3)
	c.drop = func(m *raftpb.Message) bool { return m.GetTo() == 3 || m.GetFrom() == 3 }
	c.ticks(25)
	// 1, 2 and 4 of {1, 2, 3, 4}: fine.
	c.mustChange(state.AddVoter, 4)
	c.puts(1, 1)

	// 1 and 5 of {1, 2, 3, 4, 5}: not a quorum. The leader learns of
	// it before it has to step down.
	c.start(5, 1, 1, voters(1, 2, 3))
	c.mustChange(state.AddLearner, 5)
	c.ticks(1)
	n := c.nodes[1]
	c.drop = func(m *raftpb.Message) bool { return m.GetFrom() > 1 && m.GetFrom() < 5 }
	// Two rounds of check-quorum end the leadership; after the first the leader
	// still leads and knows who was silent.
	for range 19 {
		if n.r.Status().Progress[2].RecentActive || n.r.Status().Progress[3].RecentActive {
			if err := n.r.Tick(); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
	}
	if _, leads := n.r.Leads(); !leads {
		t.Fatal("the leader stepped down too early for this test")
	}
	o := c.change(1, state.AddVoter, 5)
	c.settle()
	if o.calls != 1 || !fault.Is(o.err, fault.Refused) {
		t.Fatalf("promotion without a quorum: %+v", o)
	}
}

// bootstrapEntries are the configuration entries of a new cluster.
func bootstrapEntries(t *testing.T, ids ...uint64) []*raftpb.Entry {
	t.Helper()
	var out []*raftpb.Entry
	for i, id := range ids {
		cc := &raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id,
			Context: envelope.Envelope{Kind: envelope.BootstrapVoter}.Append(nil)}
		data, err := proto.Marshal(cc)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)), Data: data})
	}
	return out
}

// TestPromotionRightAfterAQuorumCheck: at a check of the quorum the library takes
// every member for silent. Asking in step with the checks must not fail for ever.
func TestPromotionRightAfterAQuorumCheck(t *testing.T) {
	c, n := leaderWith200(t)
	c.start(2, 2, 100, voters(1))
	c.mustChange(state.AddLearner, 2)
	c.ticks(5)
	blinked := false
	for range 20 {
		if err := n.r.Tick(); err != nil {
			t.Fatal(err)
		}
		blinked = blinked || !n.r.loop.Status().Progress[2].RecentActive
		if p := n.r.Status().Progress[2]; !p.RecentActive {
			t.Fatalf("%+v", p)
		}
		if blinked {
			break
		}
		c.settle()
	}
	if !blinked {
		t.Fatal("no check of the quorum was seen")
	}
	c.mustChange(state.AddVoter, 2)
}

// silentFor runs a node alone and gives whether its term stayed.
func silentFor(t *testing.T, conf *raftpb.ConfState, ticks int) bool {
	c := newCluster(t)
	n := c.start(7, 5, 100, conf)
	c.ticks(ticks)
	s := n.r.Status()
	return s.Term == 5 && s.Vote == 0 && s.State == "StateFollower" && c.sent[raftpb.MsgPreVote]+c.sent[raftpb.MsgVote] == 0
}

func TestSeededNodeIsSilent(t *testing.T) {
	if !silentFor(t, voters(1), 600) || !silentFor(t, &raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}, 600) {
		t.Error("a seeded node that is no member campaigned")
	}
	// What a rewritten configuration would do.
	if silentFor(t, voters(7), 600) {
		t.Error("a node whose configuration is itself stayed silent: this test can not fail")
	}
}

// TestBootstrapByEntries: the log of a new cluster holds its configuration
// entries, so its first empty learner needs no snapshot.
func TestBootstrapByEntries(t *testing.T) {
	c := newCluster(t)
	n := c.start(1, 0, 0, nil)
	if err := n.store.Append(bootstrapEntries(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := n.store.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64), Commit: new(uint64(1))}); err != nil {
		t.Fatal(err)
	}
	c.open(1)
	c.ticks(2)
	if _, ok := n.r.Leads(); !ok {
		t.Fatalf("not leading: %+v", n.r.Status())
	}
	c.puts(1, 20)
	c.start(2, 0, 0, nil)
	c.mustChange(state.AddLearner, 2)
	c.ticks(3)
	c.wantCaughtUp(2, 0)
}
