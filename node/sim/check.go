package sim

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Check gives the promises that were broken; empty means none. Members that run
// are compared; call it after the cluster came to rest (Settle).
func (c *Cluster) Check() []string {
	out := slices.Clone(c.broken)
	add := func(format string, args ...any) { out = append(out, c.readable(fmt.Sprintf(format, args...))) }
	c.checkHistory(add)
	c.checkAcknowledged(add)
	c.checkStates(add)
	c.checkLeases(add)
	for _, j := range c.joins {
		if !j.Ended {
			add("join of %s hangs in phase %q", j.Node, j.Phase)
		}
	}
	return out
}

// CheckClean gives what a cluster at rest should not have any more: leases,
// reservations, learners that are not caught up or were to become voters, files
// of seeds.
func (c *Cluster) CheckClean() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, c.readable(fmt.Sprintf(format, args...))) }
	l := c.Leader()
	if l == nil {
		return []string{"no leader"}
	}
	for _, s := range l.machine.SeedLeases() {
		add("lease %d of %x is left", s.GetId(), s.GetMemberId())
	}
	for _, m := range l.machine.Members() {
		switch {
		case m.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED:
			add("reservation of %s is left", m.GetName())
		case m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && m.GetLearner() && !m.GetStayLearner():
			add("%s is still a learner", m.GetName())
		}
	}
	for _, n := range c.Nodes() {
		if !n.up {
			continue
		}
		if names, err := n.disk.List(n.dir().Staging()); err == nil && len(names) > 0 {
			add("%s has staged files %v", n.name, names)
		}
	}
	return out
}

// checkHistory asks whether some order explains all that clients saw.
func (c *Cluster) checkHistory(add func(string, ...any)) {
	byKey := make(map[string][]porcupine.Operation)
	var keys []string
	for i, op := range c.ops {
		if op.Outcome == Failed || !op.Put && op.Outcome != OK {
			continue
		}
		end := op.End
		if op.Outcome != OK {
			end = math.MaxInt64
		}
		if _, ok := byKey[op.Key]; !ok {
			keys = append(keys, op.Key)
		}
		byKey[op.Key] = append(byKey[op.Key], porcupine.Operation{ClientId: i, Input: op, Call: op.Start, Output: op, Return: end})
	}
	for _, key := range keys {
		if !porcupine.CheckOperations(register(), byKey[key]) {
			add("the history of key %q is not linearizable", key)
		}
	}
}

// register is a single value that is written and read.
func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(s, in, _ any) (bool, any) {
			op := in.(*Op)
			if op.Put {
				return true, op.Value
			}
			return op.Value == s.(string), s
		},
	}
}

// checkAcknowledged looks for acknowledged writes that are gone.
func (c *Cluster) checkAcknowledged(add func(string, ...any)) {
	for _, n := range c.Nodes() {
		if !n.up || !n.current() {
			continue
		}
		for _, op := range c.ops {
			if !op.Put || op.Outcome != OK {
				continue
			}
			resp, err := n.machine.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte(op.Key)})
			if err != nil {
				add("%s: %v", n.name, err)
				return
			}
			if len(resp.GetKvs()) != 1 || resp.GetKvs()[0].GetModRevision() < op.Revision {
				add("%s lost the write of %q at revision %d", n.name, op.Key, op.Revision)
			}
		}
	}
}

// current reports whether the node is a member that has applied all that the
// leader has.
func (n *Node) current() bool {
	l := n.c.Leader()
	return l != nil && n.position() == l.position()
}

// checkStates compares the states of all running nodes that are at the leader's
// position, and each state with its own digest and member table.
func (c *Cluster) checkStates(add func(string, ...any)) {
	var first *Node
	for _, n := range c.Nodes() {
		if !n.up {
			continue
		}
		n.checkConf(add)
		n.checkDigest(add)
		if !n.current() {
			continue
		}
		if first == nil {
			first = n
		} else if first.machine.Digest() != n.machine.Digest() {
			add("%s and %s differ at %s", first.name, n.name, n.position())
		}
	}
}

func (n *Node) checkDigest(add func(string, ...any)) {
	v := n.store.View()
	got, err := v.ScanDigest(context.Background())
	if cerr := v.Close(); err == nil {
		err = cerr
	}
	if err != nil || got != n.machine.Digest() {
		add("%s: the digest of its records is not the running one (%v)", n.name, err)
	}
}

// checkConf compares the configuration with the member table, and with Raft's.
func (n *Node) checkConf(add func(string, ...any)) {
	var voters, learners []uint64
	for _, m := range n.machine.Members() {
		switch {
		case m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER:
		case m.GetLearner():
			learners = append(learners, m.GetId())
		default:
			voters = append(voters, m.GetId())
		}
	}
	cs := n.machine.ConfState()
	if !slices.Equal(cs.GetVoters(), voters) || !slices.Equal(cs.GetLearners(), learners) {
		add("%s: configuration %x %x, member table %x %x", n.name, cs.GetVoters(), cs.GetLearners(), voters, learners)
	}
	s := n.rep.Status()
	if s.Applied == n.position().Index && (!slices.Equal(s.Voters, voters) || !slices.Equal(s.Learners, learners)) {
		add("%s: raft has %x %x, member table %x %x", n.name, s.Voters, s.Learners, voters, learners)
	}
}

// Settle ends all faults, starts everybody who has an identity and was not
// removed, and waits until the cluster has a leader, has committed a write, and
// every pending join has ended. It reports what did not come about in time.
func (c *Cluster) Settle(limit int64) error {
	c.Heal()
	c.SetDrop(0)
	c.Intercept(nil)
	end := c.now + limit
	for _, n := range c.Nodes() {
		n.SetStalled(false)
		if _, ok := n.identity(); ok && !n.up && n.fatal == nil {
			if err := n.Restart(); err != nil {
				return err
			}
		}
	}
	if !c.RunUntil(end-c.now, func() bool { return c.Leader() != nil }) {
		return fmt.Errorf("no leader after %d units", limit)
	}
	for committed := false; !committed; {
		if c.now >= end {
			return fmt.Errorf("no write was committed in %d units", limit)
		}
		if l := c.Leader(); l != nil {
			op := c.Put(l.name, "settle", fmt.Sprint(c.now))
			c.RunUntil(end-c.now, func() bool { return op.Outcome != Pending })
			committed = op.Outcome == OK
		}
		c.RunFor(100)
	}
	return c.settleMembers(end)
}

// settleMembers waits for the joins, and for all members to be current.
func (c *Cluster) settleMembers(end int64) error {
	joins := func() bool { return !slices.ContainsFunc(c.joins, func(j *Join) bool { return !j.Ended }) }
	if !c.RunUntil(end-c.now, joins) {
		return fmt.Errorf("a join did not end")
	}
	var late string
	ok := c.RunUntil(end-c.now, func() bool {
		l := c.Leader()
		if l == nil {
			late = "the leader"
			return false
		}
		cs := l.machine.ConfState()
		for _, id := range slices.Concat(cs.GetVoters(), cs.GetLearners()) {
			if n := c.byID[id]; n.up && !n.current() {
				late = n.name
				return false
			}
		}
		return true
	})
	if !ok {
		return fmt.Errorf("%s did not catch up", late)
	}
	return nil
}
