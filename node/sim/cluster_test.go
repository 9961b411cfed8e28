package sim

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
)

func TestLeaderElection(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	term := h.Node("n1").Status().Term
	for _, n := range h.Nodes() {
		if s := n.Status(); s.Leader != h.Node("n1").ID() || s.Term != term {
			t.Errorf("%s follows %x in term %d", n.Name(), s.Leader, s.Term)
		}
	}
	h.must(h.Node("n1").Crash(0))
	h.waitFor("another leader", func() bool { return h.Leader() != nil && h.Leader() != h.Node("n1") })
	if got := h.Leader().Status().Term; got <= term {
		t.Errorf("the new leader's term is %d, the old one's %d", got, term)
	}
	h.rest()
}

func TestHeartbeatPreventsElection(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	term := h.Node("n1").Status().Term
	h.Trace()
	h.RunFor(200 * Second)
	for _, line := range h.Trace() {
		for _, bad := range []string{"PreCandidate", "MsgPreVote"} {
			if contains(line, bad) {
				t.Fatalf("an election under a live leader: %s", line)
			}
		}
	}
	// Without heartbeats a follower asks around, and the others stay with their
	// leader: the term does not change.
	h.cutOff("n2")
	h.waitFor("a pre-candidate", func() bool { return h.Node("n2").Status().State == "StatePreCandidate" })
	h.RunFor(20 * Second)
	h.Intercept(nil)
	h.RunFor(5 * Second)
	if got := h.Node("n1").Status(); got.Term != term || !got.IsLeader() || h.Node("n2").Status().Leader != h.Node("n1").ID() {
		t.Errorf("n1 %+v", got)
	}
}

func TestWriteReplicateCommit(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	op := h.want(h.Put("n1", "k", "v"), OK)
	h.RunFor(Second)
	for _, n := range h.Nodes() {
		if got := h.want(h.Get(n.Name(), "k"), OK); got.Value != "v" || got.Revision < op.Revision {
			t.Errorf("%s", got)
		}
		if n.Log().HardState().GetCommit() != h.Node("n1").Log().HardState().GetCommit() {
			t.Errorf("%s committed up to %d", n.Name(), n.Log().HardState().GetCommit())
		}
	}
}

// TestCommitConsistency: a fifth of the messages is lost and the leader dies in
// the middle. Most calls get through nevertheless, and what they say is true.
func TestCommitConsistency(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.SetDrop(20)
	var puts, gets [3][]*Op // before a crash, during the election, under the new leader
	for part := range puts {
		h.waitFor("a leader", func() bool { return h.Leader() != nil })
		if part == 1 {
			h.must(h.Leader().Crash(0))
		}
		for i := range 30 {
			puts[part] = append(puts[part], h.Put(h.Nodes()[i%3].Name(), "k", string(rune('a'+i%26))))
			gets[part] = append(gets[part], h.Get(h.Nodes()[(i+1)%3].Name(), "k"))
			h.RunFor(60)
		}
	}
	h.rest()
	for _, part := range []int{0, 2} {
		p, g := succeeded(puts[part]), succeeded(gets[part])
		if p < 10 || g < 10 {
			t.Errorf("part %d: of 30 calls each, %d writes and %d reads were answered", part, p, g)
		}
	}
}

func succeeded(ops []*Op) (n int) {
	for _, op := range ops {
		if op.Outcome == OK {
			n++
		}
	}
	return n
}

// TestOraclesCanFail: each check finds what it is there for.
func TestOraclesCanFail(t *testing.T) {
	h := found(t, "n1")
	op := h.want(h.Put("n1", "k", "v"), OK)
	if b := h.Check(); len(b) != 0 {
		t.Fatal(b)
	}
	op.Revision += 100
	if len(h.Check()) == 0 {
		t.Error("a lost write was not noticed")
	}
	op.Revision -= 100
	got := h.want(h.Get("n1", "k"), OK)
	got.Value = "stale"
	if len(h.Check()) == 0 {
		t.Error("a read of a value that was never written was not noticed")
	}
	got.Value = "v"
	n := h.Node("n1")
	h.sawEntry(n, state.Entry{Index: 1, Term: 99})
	if len(h.Check()) == 0 {
		t.Error("another entry at index 1 was not noticed")
	}
	h.broken = nil
	h.joins = append(h.joins, &Join{Node: "n9"})
	if len(h.Check()) == 0 {
		t.Error("a join that hangs was not noticed")
	}
}

func TestLeaderOnlyWrite(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.Trace()
	h.want(h.Put("n2", "k", "through a follower"), OK)
	forwarded := false
	for _, line := range h.Trace() {
		forwarded = forwarded || contains(line, "n2->n1 MsgProp")
		if contains(line, "send n2->") && contains(line, "MsgApp ") {
			t.Errorf("a follower replicates: %s", line)
		}
	}
	if !forwarded {
		t.Error("the follower did not forward the write")
	}
	h.wantChange(h.change(h.Node("n2"), state.RemoveNode, h.Node("n3").ID()), fault.NotLeader)
	h.Partition([]string{"n1", "n3"}, []string{"n2"})
	h.RunFor(5 * Second)
	h.want(h.Put("n2", "k", "alone"), Failed)
	h.want(h.Put("n1", "k", "with a quorum"), OK)
	h.rest()
}

// TestPutRightAfterAddLearner: the write comes in the very moment the learner is
// added, and again and again until it votes.
func TestPutRightAfterAddLearner(t *testing.T) {
	h := found(t, "n1")
	h.fill("n1", 50)
	j := h.Add("n2", Options{})
	h.waitFor("the learner", func() bool { return len(h.Leader().Machine().ConfState().GetLearners()) == 1 })
	for !j.Ended {
		h.want(h.Put("n1", "k", "v"), OK)
	}
	if !j.OK() || h.SnapshotsSent("n2") != 0 {
		t.Errorf("%+v, %d MsgSnap", j, h.SnapshotsSent("n2"))
	}
	h.rest()
}

func TestLearnerOnlyReplication(t *testing.T) {
	h := found(t, "n1")
	h.joined("n2", Options{Learner: true})
	h.fill("n1", 30)
	h.RunFor(Second)
	n1, n2 := h.Node("n1"), h.Node("n2")
	if n1.Machine().Digest() != n2.Machine().Digest() {
		t.Error("the learner's state differs")
	}
	// It counts for nothing: writes go on without it, and it never campaigns.
	h.Partition([]string{"n1"}, []string{"n2"})
	h.fill("n1", 10)
	term := n2.Status().Term
	h.RunFor(100 * Second)
	if s := n2.Status(); s.Term != term || s.State != "StateFollower" {
		t.Errorf("learner %+v", s)
	}
	h.rest()
	if cs := n1.Machine().ConfState(); len(cs.GetVoters()) != 1 || len(cs.GetLearners()) != 1 {
		t.Errorf("%+v", cs)
	}
}

// TestPromoteRightAfterAdd: asked for in the moment the learner is added, the
// promotion is refused at once, and comes by itself when it is safe.
func TestPromoteRightAfterAdd(t *testing.T) {
	h := found(t, "n1")
	h.fill("n1", 50)
	j := h.Add("n2", Options{})
	h.waitFor("the learner", func() bool { return len(h.Leader().Machine().ConfState().GetLearners()) == 1 })
	at := h.Now()
	o := h.change(h.Node("n1"), state.AddVoter, h.Node("n2").ID())
	if !o.ended || !fault.Is(o.err, fault.Refused) || h.Now() != at {
		t.Fatalf("%+v", o)
	}
	h.want(h.Put("n1", "k", "v"), OK)
	h.waitFor("the join", func() bool { return j.Ended })
	if !j.OK() {
		t.Errorf("%+v", j)
	}
	h.rest()
}

func TestDirectVoterAddition(t *testing.T) {
	h := found(t, "n1")
	h.wantChange(h.change(h.Node("n1"), state.AddVoter, 0x77), fault.Refused)
	h.fill("n1", 10)
	if cs := h.Node("n1").Machine().ConfState(); len(cs.GetVoters()) != 1 {
		t.Errorf("%+v", cs)
	}
	h.rest()
}

// TestTwoNewClustersSameURLs: two clusters founded with the same flags have the
// same cluster ID, and are told apart by what their first leaders committed.
func TestTwoNewClustersSameURLs(t *testing.T) {
	a, b := found(t, "n1"), found(t, "n1")
	b.cluster.Genesis = ident.Nonce{1} // as another draw would give
	b.must(b.Node("n1").Crash(0))
	b.Node("n1").Wipe()
	fresh := &harness{New(Config{Seed: 12, Trace: true}), t}
	defer func() { fresh.must(fresh.Close()) }()
	fresh.must(fresh.Bootstrap("n1"))
	fresh.waitFor("a leader", func() bool { return fresh.Leader() != nil })
	fresh.RunFor(4 * Second)

	one, two := genesisOf(a), genesisOf(fresh)
	if one.ID != two.ID || one.Same(two) {
		t.Fatalf("clusters %v and %v", one, two)
	}
	seed, err := fresh.Node("n1").capture("foreign")
	fresh.must(err)
	if err := a.refusesSeed(seed); !fault.Is(err, fault.Refused) {
		t.Errorf("a seed of the other cluster: %v", err)
	}
}

// TestLearnerRecreatedEmptyMidReplication: the learner's directory is lost while
// it replicates, and made anew as a founder's under the old ID. The first
// heartbeat, which says how far its log has been, ends it with a typed error;
// the others go on. A new join under the same name is refused until the old
// member is removed.
func TestLearnerRecreatedEmptyMidReplication(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.joined("n4", Options{Learner: true})
	h.fill("n1", 20)
	n1, n4 := h.Node("n1"), h.Node("n4")
	old, term := n4.ID(), n1.Status().Term
	h.must(n4.Crash(0))
	n4.Wipe()
	entries, err := foundingEntries([]string{"n1", "n2", "n3"})
	h.must(err)
	h.must(n4.found(old, entries))
	heard := 0
	h.Intercept(func(to *Node, _ *raftpb.Message) bool {
		if to == n4 {
			heard++
		}
		return true
	})
	for range 2 { // started again, it fares no better
		heard = 0
		h.must(n4.Restart())
		h.waitFor("the end of n4", func() bool { return !n4.Up() })
		if !fault.Is(n4.Fatal(), fault.Corrupt) || fault.HintOf(n4.Fatal()) == "" || heard == 0 {
			t.Fatalf("after %d messages: %v", heard, n4.Fatal())
		}
		h.fill("n1", 20)
	}
	h.Intercept(nil)
	h.RunFor(Second)
	if s := n1.Status(); s.Term != term || !s.IsLeader() || !h.Node("n2").current() || !h.Node("n3").current() {
		t.Errorf("%s, %s, %s", n1, h.Node("n2"), h.Node("n3"))
	}

	n4.Wipe()
	j := h.Add("n4", Options{Learner: true})
	h.waitFor("the join", func() bool { return j.Ended })
	if !fault.Is(j.Err, fault.Refused) {
		t.Fatalf("%+v", j)
	}
	h.wantChange(h.change(n1, state.RemoveNode, old), "")
	h.joined("n4", Options{Learner: true})
	if n4.ID() == old {
		t.Error("the ID was used again")
	}
	h.rest()
}

func TestFollowerApplies(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.fill("n1", 100)
	h.RunFor(Second)
	for _, n := range h.Nodes() {
		if n.Status().Applied != h.Node("n1").Status().Commit {
			t.Errorf("%s", n)
		}
	}
	h.rest()
}

// TestCommitIndexNotStale: within a heartbeat of the acknowledgement everybody
// knows that the write is committed, though nothing follows it.
func TestCommitIndexNotStale(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	for range 20 {
		h.want(h.Put("n1", "k", "v"), OK)
		commit := h.Node("n1").Status().Commit
		h.RunFor(2 * Tick)
		for _, n := range h.Nodes() {
			if got := n.Status().Commit; got < commit {
				t.Fatalf("%s knows of %d, committed is %d", n.Name(), got, commit)
			}
		}
	}
}

// TestNonBootstrapVoterAnswersAppendEntries: a voter that joined counts: with
// one of the two founders' votes gone, nothing would commit without it.
func TestNonBootstrapVoterAnswersAppendEntries(t *testing.T) {
	h := found(t, "n1")
	h.joined("n2", Options{})
	answers := 0
	h.Intercept(func(to *Node, m *raftpb.Message) bool {
		if m.GetType() == raftpb.MsgAppResp && m.GetFrom() == h.Node("n2").ID() && !m.GetReject() {
			answers++
		}
		return true
	})
	h.fill("n1", 20)
	if answers < 20 {
		t.Errorf("%d answers to 20 writes", answers)
	}
	h.Intercept(nil)
	h.cutOff("n2")
	h.want(h.Put("n1", "k", "needs n2"), Unknown)
	h.rest()
}
