package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
)

// The ways in which a join hangs, storms or panics with the bare library, with
// the whole flow around it. The file of the same name in package replica has
// them one level down.

func contains(s, part string) bool { return strings.Contains(s, part) }

// genesisOf names the cluster as its first leader committed it.
func genesisOf(h *harness) ident.Cluster {
	h.t.Helper()
	rec := h.Leader().Machine().Cluster()
	nonce, err := ident.NonceFrom(rec.GetGenesisNonce())
	h.must(err)
	return ident.Cluster{ID: rec.GetClusterId(), Genesis: nonce}
}

// refusesSeed installs a seed for this cluster on an empty disk and gives the
// error.
func (h *harness) refusesSeed(seed *snapshot.Seed) error {
	h.t.Helper()
	d := datadir.At(newDisk(), dataDir)
	stage, err := snapshot.OpenStage(context.Background(), d, seed.ManifestBytes())
	h.must(err)
	for _, at := range missingChunks(stage) {
		data, err := seed.ReadChunk(context.Background(), at.file, at.index, nil)
		h.must(err)
		h.must(stage.Put(at.file, at.index, data))
	}
	err = stage.Install(context.Background(), datadir.Identity{Cluster: genesisOf(h), MemberID: 9, Name: "x"}, snapshot.InstallOptions{})
	return errors.Join(err, stage.Discard())
}

func TestSeededJoinSendsNoSnapshot(t *testing.T) {
	h := found(t, "n1")
	h.fill("n1", 200)
	h.waitFor("the log to be truncated", func() bool { first, _ := h.Node("n1").Log().FirstIndex(); return first > 100 })
	j := h.joined("n2", Options{})
	if h.SnapshotsSent("n2") != 0 || j.Seeds != 1 || j.EntriesAfterAdd > 64 {
		t.Errorf("%d MsgSnap, %+v", h.SnapshotsSent("n2"), j)
	}
	h.rest()
}

// TestLearnerBehindTheLogGetsOneSnapshot: the learner was away while the log was
// truncated past it.
func TestLearnerBehindTheLogGetsOneSnapshot(t *testing.T) {
	h := found(t, "n1")
	h.joined("n2", Options{Learner: true})
	h.RunFor(5 * Second)
	h.must(h.Node("n2").Stop())
	h.fill("n1", 300)
	h.waitFor("the log to be truncated", func() bool {
		first, _ := h.Node("n1").Log().FirstIndex()
		return first > 200
	})
	h.must(h.Node("n2").Restart())
	h.rest()
	if got := h.SnapshotsSent("n2"); got != 1 {
		t.Errorf("%d MsgSnap", got)
	}
}

// TestSnapshotThatPredatesTheLearner: the leader has a snapshot at hand that was
// made before the learner was added.
func TestSnapshotThatPredatesTheLearner(t *testing.T) {
	h := foundWith(t, Config{Seed: 11, Policy: policy.Options{LearnerTimeout: 200 * time.Second}}, "n1")
	n1 := h.Node("n1")
	h.fill("n1", 30)
	n1.at(n1.epoch, n1.recapture)
	stale := n1.captured.Position()
	h.cutOff("n2")
	j := h.Add("n2", Options{Deadline: 100 * Second})
	h.waitFor("the learner", func() bool { return len(n1.Machine().ConfState().GetLearners()) == 1 })
	h.fill("n1", 200)
	// Its lease is the only thing in the way of the truncation.
	h.waitFor("the lease to end", func() bool { return len(n1.Machine().SeedLeases()) == 0 })
	h.waitFor("the log to be truncated", func() bool {
		first, _ := n1.Log().FirstIndex()
		return first > n1.Machine().Member(h.Node("n2").ID()).GetAddedAt()+10
	})
	sent := 0
	h.Intercept(func(_ *Node, m *raftpb.Message) bool {
		if m.GetType() == raftpb.MsgSnap {
			sent++
			meta := m.GetSnapshot().GetMetadata()
			if meta.GetIndex() == stale.Index || len(meta.GetConfState().GetLearners()) != 1 {
				t.Errorf("MsgSnap at %d with %+v", meta.GetIndex(), meta.GetConfState())
			}
		}
		return true
	})
	h.waitFor("the learner to catch up or be removed", func() bool {
		rec := n1.Machine().Member(h.Node("n2").ID())
		return rec.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || !rec.GetLearner()
	})
	if sent == 0 || sent > 3 || h.SnapshotsSent("n2") != sent {
		t.Errorf("%d MsgSnap, %d sent", sent, h.SnapshotsSent("n2"))
	}
	h.waitFor("the join", func() bool { return j.Ended })
	h.rest()
}

func TestLostSnapshotMessages(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.must(h.Node("n3").Stop())
	h.fill("n1", 300)
	h.waitFor("the log to be truncated", func() bool { first, _ := h.Node("n1").Log().FirstIndex(); return first > 200 })
	lost := 0
	h.Intercept(func(_ *Node, m *raftpb.Message) bool {
		if m.GetType() == raftpb.MsgSnap && lost < 3 {
			lost++
			return false
		}
		return true
	})
	h.must(h.Node("n3").Restart())
	h.waitFor("n3 to catch up", func() bool { return h.Node("n3").current() })
	if lost != 3 || h.SnapshotsSent("n3") != 4 {
		t.Errorf("%d lost, %d sent", lost, h.SnapshotsSent("n3"))
	}
	h.rest()
}

// TestFilesBehindAMessageAreReplaced: while the message is on its way, the sender
// makes its files anew. They are not taken for those of the message, whose index
// the log would be reset to.
func TestFilesBehindAMessageAreReplaced(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	n1, n3 := h.Node("n1"), h.Node("n3")
	h.must(n3.Stop())
	h.fill("n1", 300)
	h.waitFor("the log to be truncated", func() bool { first, _ := n1.Log().FirstIndex(); return first > 200 })
	replaced := 0
	h.Intercept(func(_ *Node, m *raftpb.Message) bool {
		if m.GetType() == raftpb.MsgSnap && n1.captured != nil && replaced < 3 {
			h.must(n1.captured.Remove())
			seed, err := n1.capture(fmt.Sprint("another-", replaced))
			h.must(err)
			n1.captured = seed
			if seed.Position().Index != m.GetSnapshot().GetMetadata().GetIndex() {
				replaced++
			}
		}
		return true
	})
	h.must(n3.Restart())
	for i := 0; !n3.current(); i++ {
		h.want(h.Put("n1", "k", fmt.Sprint(i)), OK)
		if i > 2000 {
			t.Fatal("n3 does not catch up")
		}
	}
	if replaced != 3 || n3.Fatal() != nil {
		t.Errorf("replaced %d times, n3: %v", replaced, n3.Fatal())
	}
	h.rest()
}

// TestSourceOfASnapshotCrashes: the files stop coming in the middle.
func TestSourceOfASnapshotCrashes(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.must(h.Node("n3").Stop())
	h.fill("n1", 300)
	h.waitFor("the log to be truncated", func() bool { first, _ := h.Node("n1").Log().FirstIndex(); return first > 200 })
	h.must(h.Node("n3").Restart())
	h.waitFor("the transfer", func() bool { return h.Node("n3").installing })
	h.RunFor(40)
	h.must(h.Node("n1").Crash(0))
	h.rest()
}

// TestTargetOfASnapshotCrashes at many moments: before it is staged, while it is
// being written, after.
func TestTargetOfASnapshotCrashes(t *testing.T) {
	for wait := int64(0); wait <= 300; wait += 20 {
		h := found(t, "n1", "n2", "n3")
		h.must(h.Node("n3").Stop())
		h.fill("n1", 120)
		h.waitFor("the log to be truncated", func() bool { first, _ := h.Node("n1").Log().FirstIndex(); return first > 60 })
		h.must(h.Node("n3").Restart())
		h.waitFor("the transfer", func() bool { return h.Node("n3").installing })
		h.RunFor(wait)
		h.must(h.Node("n3").Crash(0))
		h.rest()
	}
}

// newcomer gives the identity of one that the leader would admit: reserved,
// bound, seeded under a live lease.
func (h *harness) newcomer() datadir.Identity {
	h.t.Helper()
	nonce := ident.Nonce{7}
	rec := h.commit(envelope.ReserveMember, &entryv1.ReserveMember{Name: "newcomer", PeerUrls: []string{peerURL("newcomer")}}).(*entryv1.MemberRecord)
	lease := h.commit(envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: 60_000, CapBytes: 1 << 30, MemberId: rec.GetId()}).(*entryv1.SeedLease)
	h.commit(envelope.BindMember, &entryv1.BindMember{Id: rec.GetId(), DirectoryNonce: nonce.Bytes()})
	id := datadir.Identity{Cluster: h.cluster, MemberID: rec.GetId(), Directory: nonce,
		Seed: &datadir.SeedRef{Position: h.Leader().position(), LeaseID: lease.GetId()}}
	h.must(h.Leader().admissible(id))
	return id
}

// seededAt gives the same identity with another position.
func seededAt(id datadir.Identity, pos ident.Position) datadir.Identity {
	ref := *id.Seed
	ref.Position, id.Seed = pos, &ref
	return id
}

// turnedAway wants the leader to refuse a ticket, for the reason that the words
// are of, and to propose nothing for it.
func (h *harness) turnedAway(id datadir.Identity, code fault.Code, words string) {
	h.t.Helper()
	last, err := h.Leader().Log().LastIndex()
	h.must(err)
	ended := false
	h.spawn(func(p *proc) { err, ended = (&Join{}).tryAdmit(p, id), true })
	h.waitFor("the leader's answer", func() bool { return ended })
	if !fault.Is(err, code) || !contains(fmt.Sprint(err), words) {
		h.t.Errorf("a seed at %s: %v, want %s: %s", id.Seed.Position, err, code, words)
	}
	if now, err := h.Leader().Log().LastIndex(); err != nil || now != last {
		h.t.Errorf("the log went from %d to %d, %v", last, now, err)
	}
}

func TestWrongSeedTermIsRefused(t *testing.T) {
	h := found(t, "n1")
	h.fill("n1", 30)
	good := h.newcomer()
	pos := good.Seed.Position
	h.turnedAway(seededAt(good, ident.Position{Term: pos.Term + 1, Index: pos.Index}), fault.Refused, "the log says")
	// A log that says another term than the state does not even start.
	j := h.Add("n2", Options{Learner: true})
	h.waitFor("the seed", func() bool { _, ok := h.Node("n2").identity(); return ok })
	n2 := h.Node("n2")
	h.must(n2.Crash(0))
	id, _ := n2.identity()
	h.must(n2.disk.RemoveAll(n2.dir().Raft()))
	forged := raftlog.SeedState{Position: id.Seed.Position, State: 1}
	forged.Position.Term++
	h.must(raftlog.Seed(n2.dir().Raft(), n2.logOptions(), forged))
	if err := n2.Restart(); !fault.Is(err, fault.Corrupt) {
		t.Errorf("%v", err)
	}
	h.waitFor("the join", func() bool { return j.Ended })
	h.fill("n1", 10)
}

// TestSeedPastTheLogIsRefused: a seed of a cluster that wrote more.
func TestSeedPastTheLogIsRefused(t *testing.T) {
	h := found(t, "n1")
	good := h.newcomer()
	pos := good.Seed.Position
	h.turnedAway(seededAt(good, ident.Position{Term: pos.Term, Index: pos.Index + 1000}), fault.Refused, "not of this cluster")
	h.fill("n1", 10)
}

func TestOldSeedIsToBeFetchedAgain(t *testing.T) {
	h := found(t, "n1")
	n1 := h.Node("n1")
	old := n1.position()
	h.fill("n1", 200)
	h.waitFor("the log to be truncated", func() bool { first, _ := n1.Log().FirstIndex(); return first > old.Index+1 })
	h.turnedAway(seededAt(h.newcomer(), old), fault.Reseed, "the log begins at")
}

func TestTwoChangesAtOnce(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	n1 := h.Node("n1")
	first := h.change(n1, state.RemoveNode, h.Node("n2").ID())
	at := h.Now()
	second := h.change(n1, state.RemoveNode, h.Node("n3").ID())
	if !second.ended || !errors.Is(second.err, replica.ErrConfPending) || h.Now() != at {
		t.Fatalf("%+v", second)
	}
	h.wantChange(first, "")
	h.must(h.Node("n2").Stop())
	h.fill("n1", 5)
}

// TestChangeOutlivesNoLeader: the change's leader loses its quorum before it is
// committed; its waiter is told.
func TestChangeOutlivesNoLeader(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.Partition([]string{"n1"}, []string{"n2", "n3"})
	o := h.change(h.Node("n1"), state.RemoveNode, h.Node("n3").ID())
	h.wantChange(o, fault.NotLeader)
	h.rest()
}

// TestLostLogIsAnError: the state is there, the log is gone.
func TestLostLogIsAnError(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.fill("n1", 30)
	n3 := h.Node("n3")
	h.must(n3.Stop())
	h.must(n3.disk.RemoveAll(n3.dir().Raft()))
	if err := n3.Restart(); !fault.Is(err, fault.Corrupt) {
		t.Fatalf("%v", err)
	}
	h.fill("n1", 10)
}

// TestAbsentNewcomer: reserved, and never seen again.
func TestAbsentNewcomer(t *testing.T) {
	h := found(t, "n1")
	h.Add("n2", Options{})
	h.waitFor("the reservation", func() bool { return len(h.Leader().Machine().Members()) == 2 })
	h.must(h.Node("n2").Crash(0))
	for range 50 {
		h.want(h.Put("n1", "k", "v"), OK)
		h.RunFor(Second)
	}
	h.rest()
	if rec := h.Leader().Machine().Members()[1]; rec.GetName() == "n2" && rec.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED {
		t.Errorf("%+v", rec)
	}
}

func TestPromotionOfAnUnreachableLearner(t *testing.T) {
	h := found(t, "n1")
	h.joined("n2", Options{Learner: true})
	h.must(h.Node("n2").Stop())
	h.RunFor(10 * Second)
	h.wantChange(h.change(h.Node("n1"), state.AddVoter, h.Node("n2").ID()), fault.Refused)
	h.fill("n1", 10)
	h.must(h.Node("n2").Restart())
	h.RunFor(5 * Second)
	h.wantChange(h.change(h.Node("n1"), state.AddVoter, h.Node("n2").ID()), "")
	h.fill("n1", 10)
	h.rest()
}

// TestSeededNodeIsSilentUntilAdmitted: the seed's configuration is the source's,
// without the newcomer, so it does not campaign and its term stays.
func TestSeededNodeIsSilentUntilAdmitted(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	h.Trace()
	h.Intercept(func(to *Node, m *raftpb.Message) bool { return to.name != "n4" })
	j := h.Add("n4", Options{Deadline: 3 * Second})
	h.waitFor("the node", func() bool { return h.Node("n4").Up() })
	n4 := h.Node("n4")
	cs := n4.Machine().ConfState()
	if len(cs.GetVoters()) != 3 || len(cs.GetLearners()) != 0 {
		t.Errorf("the seed's configuration: %+v", cs)
	}
	term := n4.Status().Term
	h.RunFor(500 * Tick)
	if s := n4.Status(); s.Term != term || s.Vote != 0 || s.State != "StateFollower" {
		t.Errorf("%+v", s)
	}
	for _, line := range h.Trace() {
		if contains(line, "send n4->") {
			t.Errorf("%s", line)
		}
	}
	h.waitFor("the join", func() bool { return j.Ended })
}

// TestFirstLearnerOfANewCluster: a cluster is founded by configuration entries,
// so its log begins at 1 and its first learner needs no snapshot.
func TestFirstLearnerOfANewCluster(t *testing.T) {
	h := found(t, "n1")
	if first, err := h.Node("n1").Log().FirstIndex(); first != 1 || err != nil {
		t.Errorf("the log begins at %d: %v", first, err)
	}
	h.joined("n2", Options{Learner: true})
	if h.SnapshotsSent("n2") != 0 {
		t.Errorf("%d MsgSnap", h.SnapshotsSent("n2"))
	}
	h.rest()
}

// TestHoldKeepsTheLog: while a lease lives, nobody truncates past its hold,
// however long the transfer takes.
func TestHoldKeepsTheLog(t *testing.T) {
	h := found(t, "n1", "n2", "n3")
	var lease *entryv1.SeedLease
	n1 := h.Node("n1")
	n1.at(n1.epoch, func() error {
		return n1.propose(envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: 60_000, CapBytes: 1 << 30, Target: "slow"},
			func(res state.Result, err error) { lease, _ = res.Response.(*entryv1.SeedLease) })
	})
	h.waitFor("the lease", func() bool { return lease != nil })
	h.fill("n1", 300)
	h.RunFor(20 * Second)
	for _, n := range h.Nodes() {
		if first, _ := n.Log().FirstIndex(); first > lease.GetHold()+1 {
			t.Errorf("%s keeps its log from %d on, the hold is %d", n.Name(), first, lease.GetHold())
		}
	}
	h.waitFor("the lease to end", func() bool { return len(n1.Machine().SeedLeases()) == 0 })
	h.waitFor("the log to be truncated", func() bool { first, _ := n1.Log().FirstIndex(); return first > lease.GetHold() })
	h.rest()
}
