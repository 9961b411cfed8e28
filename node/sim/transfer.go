package sim

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/snapshot"
)

// parts is the number of events a seed travels in, whatever its size.
const parts = 4

// chunkAt names a chunk of a seed.
type chunkAt struct{ file, index int }

// transfer moves a seed's chunks into a stage, a part at a time. Between two
// parts, either end may have gone or the network may have been cut.
func (p *proc) transfer(from *Node, seed *snapshot.Seed, to *Node, stage *snapshot.Stage) error {
	fromEpoch, toEpoch := from.epoch, to.epoch
	for left := parts; left > 0; left-- {
		p.sleep(p.c.between(5, 60))
		switch {
		case to.epoch != toEpoch:
			return fault.Newf(fault.Interrupted, "transfer", "%s went down", to.name)
		case !from.up || from.epoch != fromEpoch:
			return fault.Newf(fault.Unreachable, "transfer", "%s went down", from.name)
		case !p.c.connected(from, to):
			return fault.Newf(fault.Timeout, "transfer", "no progress from %s", from.name)
		}
		missing := missingChunks(stage)
		for _, at := range missing[:(len(missing)+left-1)/left] {
			data, err := seed.ReadChunk(context.Background(), at.file, at.index, nil)
			if err != nil {
				return err
			}
			if err := stage.Put(at.file, at.index, data); err != nil {
				return err
			}
		}
		p.c.tracef("%s has part %d of %d from %s", to.name, parts-left+1, parts, from.name)
	}
	return nil
}

func missingChunks(stage *snapshot.Stage) []chunkAt {
	var out []chunkAt
	for _, r := range stage.Missing() {
		for i := range r.Count {
			out = append(out, chunkAt{r.File, r.First + i})
		}
	}
	return out
}

// capture makes a seed of the node's state.
func (n *Node) capture(name string) (*snapshot.Seed, error) {
	dir := n.disk.PathJoin(n.dir().Seeds(), name)
	if err := datadir.MkdirAllSynced(n.disk, n.dir().Seeds()); err != nil {
		return nil, err
	}
	if err := n.disk.RemoveAll(dir); err != nil { // left by a crash
		return nil, err
	}
	return snapshot.Capture(context.Background(), n.disk, n.store, dir)
}

// raftSnapshot is asked by the library for what to send to a member that is
// behind the log. What was captured is made anew when it is of no use any more,
// which takes a while.
func (n *Node) raftSnapshot() (*raftpb.Snapshot, error) {
	if s := n.captured; s != nil && n.serves(s) {
		return &raftpb.Snapshot{Metadata: policy.SnapshotOf(s.Manifest()).Metadata()}, nil
	}
	if !n.capturing {
		n.capturing = true
		n.after(n.c.between(10, 50), n.recapture)
	}
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

func (n *Node) recapture() error {
	n.capturing = false
	if n.captured != nil {
		if err := n.captured.Remove(); err != nil {
			return err
		}
		n.captured = nil
	}
	s, err := n.capture(fmt.Sprintf("raft-%d", n.c.now))
	if err != nil {
		return err
	}
	n.captured = s
	n.c.tracef("%s captured %s for a raft snapshot", n.name, s.Position())
	return nil
}

// serves reports whether a seed is of use to any member that falls behind now.
// No lease holds the log for it here, so it may have to be made again.
func (n *Node) serves(s *snapshot.Seed) bool {
	first, err := n.log.FirstIndex()
	return err == nil && policy.SnapshotOf(s.Manifest()).Serves(n.machine.ConfState(), first)
}

// receiveSnapshot fetches, stages and verifies the files behind a MsgSnap before
// the message is stepped, and reports to the sender exactly once.
func (c *Cluster) receiveSnapshot(from, to *Node, m *raftpb.Message) {
	epoch, senderEpoch := to.epoch, from.epoch
	report := func(status raft.SnapshotStatus) {
		c.after(c.between(c.cfg.MinDelay, c.cfg.MaxDelay), func() {
			from.at(senderEpoch, func() error { return from.rep.ReportSnapshot(m.GetTo(), status) })
		})
	}
	if !to.rep.WouldRestore(m) {
		to.at(epoch, func() error { return to.rep.Step(m) })
		report(raft.SnapshotFinish)
		return
	}
	seed := from.captured
	meta := m.GetSnapshot().GetMetadata()
	if to.installing || seed == nil || !policy.SnapshotOf(seed.Manifest()).Matches(meta) {
		report(raft.SnapshotFailure)
		return
	}
	to.installing = true
	c.spawn(func(p *proc) {
		num, err := p.stageState(from, seed, to, meta)
		if to.epoch == epoch {
			to.installing = false
		}
		if err != nil || to.epoch != epoch {
			c.tracef("%s snapshot %s from %s failed: %v", to.name, seed.Position(), from.name, fault.CodeOf(err))
			report(raft.SnapshotFailure)
			return
		}
		to.staged[meta.GetIndex()] = num
		to.at(epoch, func() error { return to.rep.Step(m) })
		if to.up && to.epoch == epoch && to.rep.Restoring() != meta.GetIndex() {
			// The log had caught up meanwhile.
			delete(to.staged, meta.GetIndex())
			if err := to.disk.RemoveAll(to.dir().State(num)); err != nil {
				to.die(err)
			}
		}
		report(raft.SnapshotFinish)
	})
}

// stageState makes a seed the next state of a running member.
func (p *proc) stageState(from *Node, seed *snapshot.Seed, to *Node, meta *raftpb.SnapshotMetadata) (uint64, error) {
	epoch := to.epoch
	num := to.log.State() + 1
	stage, err := snapshot.OpenMemberStage(context.Background(), to.dir(), seed.ManifestBytes())
	if err != nil {
		return 0, err
	}
	if err := p.transfer(from, seed, to, stage); err != nil {
		if to.epoch == epoch {
			return 0, joined(err, stage.Discard())
		}
		return 0, err // the stage was on a disk that is gone
	}
	if !policy.SnapshotOf(stage.Manifest()).Matches(meta) {
		return 0, joined(fault.Newf(fault.Different, "raft snapshot", "other files than the message speaks of"), stage.Discard())
	}
	return num, stage.InstallState(context.Background(), num)
}
