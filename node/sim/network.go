package sim

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Partition cuts the network into groups; a node in none of them is alone.
func (c *Cluster) Partition(groups ...[]string) {
	c.link = func(from, to string) bool {
		for _, g := range groups {
			if slices.Contains(g, from) && slices.Contains(g, to) {
				return true
			}
		}
		return false
	}
}

// Heal connects everybody again.
func (c *Cluster) Heal() { c.link = nil }

// SetDrop makes messages get lost.
func (c *Cluster) SetDrop(percent int) { c.cfg.DropPercent = percent }

// Intercept sees each message as it arrives and decides whether it does; nil
// lets all pass. The sender learns of a MsgSnap that does not.
func (c *Cluster) Intercept(pass func(to *Node, m *raftpb.Message) bool) { c.probe = pass }

// SnapshotsSent counts the MsgSnap sent to a node.
func (c *Cluster) SnapshotsSent(to string) int { return c.snaps[to] }

func (c *Cluster) connected(from, to *Node) bool {
	return from == to || c.link == nil || c.link(from.name, to.name)
}

// send puts a message on its way. A message that can not be sent is reported as
// a transport would: it notices a dead peer, but not a lost packet.
func (c *Cluster) send(from *Node, m *raftpb.Message) {
	to := c.byID[m.GetTo()]
	b, err := proto.Marshal(m)
	if err != nil {
		c.breach("%s can not encode a message: %v", from.name, err)
		return
	}
	if m.GetType() == raftpb.MsgSnap && to != nil {
		c.snaps[to.name]++
	}
	epoch := from.epoch
	lost := c.chance(c.cfg.DropPercent)
	c.after(c.between(c.cfg.MinDelay, c.cfg.MaxDelay), func() {
		switch {
		case to == nil || !to.up || !c.connected(from, to):
			c.undeliverable(from, epoch, m)
		case lost:
			c.tracef("lost %s %s->%s", m.GetType(), from.name, to.name)
			if m.GetType() == raftpb.MsgSnap {
				c.undeliverable(from, epoch, m)
			}
		case c.probe != nil && !c.probe(to, m):
			c.tracef("held back %s %s->%s", m.GetType(), from.name, to.name)
			if m.GetType() == raftpb.MsgSnap {
				c.undeliverable(from, epoch, m)
			}
		default:
			c.deliver(from, to, b)
		}
	})
}

// undeliverable tells the sender, if it still runs.
func (c *Cluster) undeliverable(from *Node, epoch int, m *raftpb.Message) {
	from.at(epoch, func() error {
		if m.GetType() == raftpb.MsgSnap {
			c.tracef("%s snapshot to %x failed", from.name, m.GetTo())
			return from.rep.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
		}
		return from.rep.ReportUnreachable(m.GetTo())
	})
}

// deliver steps a message at its receiver.
func (c *Cluster) deliver(from, to *Node, b []byte) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		c.breach("%s can not decode a message: %v", to.name, err)
		return
	}
	c.tracef("%s recv %s from %s", to.name, m.GetType(), from.name)
	if m.GetType() == raftpb.MsgSnap {
		c.receiveSnapshot(from, to, m)
		return
	}
	to.at(to.epoch, func() error { return to.rep.Step(m) })
}
