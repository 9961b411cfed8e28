package sim

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/lessor"
	"github.com/chainfire/cfseed/node/policy"
)

// checkpointInterval is short, so that leases of seconds have checkpoints.
const checkpointInterval = 4 * Second

// leaseHistory is what clients did to etcd's leases, and when each ended: when
// the first node applied that. No lease is granted twice, and none is revoked by
// a client.
type leaseHistory struct {
	calls []*LeaseCall
	ended map[int64]int64
	// saved checkpoints were applied, and shared keep-alives answered by what a quorum
	// had confirmed for another one; for tests that want some.
	saved, shared int
}

// LeaseCall is a grant or a keep-alive. One that is never answered stays Pending.
type LeaseCall struct {
	ID, TTL    int64 // of a keep-alive what was answered: 0, there is no such lease
	KeepAlive  bool
	Start, End int64
	Outcome    Outcome
}

// newLessor gives a node its timers.
func (n *Node) newLessor() *lessor.Lessor {
	return lessor.New(lessor.Config{
		Behind:  func() bool { st := n.rep.Status(); return st.Applied < st.Commit },
		Options: policy.LessorOptions{CheckpointInterval: millis(checkpointInterval)}, Extend: millis(10 * Tick),
		Now:  func() time.Duration { return millis(n.c.now - n.began) },
		Read: func() ([]lease.Lease, error) { return n.machine.Leases() },
	})
}

func (c *Cluster) leaseCall(node string, call *LeaseCall, do func(*Node)) *LeaseCall {
	call.Start = c.now
	n := c.nodes[node]
	if n == nil || !n.up {
		call.Outcome, call.End = Failed, c.now
		return call
	}
	c.leases.calls = append(c.leases.calls, call)
	n.at(n.epoch, func() error { do(n); return nil })
	return call
}

func (c *Cluster) endLeaseCall(call *LeaseCall, err error) {
	if call.Outcome != Pending {
		c.breach("the call of lease %d was answered twice", call.ID)
		return
	}
	call.End, call.Outcome = c.now, OK
	if err != nil {
		call.Outcome = Failed
	}
	c.tracef("lease %d keep-alive=%t ttl=%d: %s %v", call.ID, call.KeepAlive, call.TTL, call.Outcome, err)
}

// Grant grants a lease of seconds through a node, and puts a key with it.
func (c *Cluster) Grant(node string, id, ttl int64) *LeaseCall {
	call := &LeaseCall{ID: id, TTL: ttl}
	return c.leaseCall(node, call, func(n *Node) {
		err := n.propose(envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: id, TTL: ttl},
			func(_ state.Result, err error) { c.endLeaseCall(call, err) })
		if err == nil {
			put := &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "leased %d", id), Lease: id}
			err = n.propose(envelope.Put, put, func(state.Result, error) {})
		}
		if err != nil {
			c.breach("%s: %v", n.name, err)
		}
	})
}

// KeepAlive renews a lease at a node that leads, or did not long ago; others
// refuse.
func (c *Cluster) KeepAlive(node string, id int64) *LeaseCall {
	call := &LeaseCall{ID: id, KeepAlive: true}
	return c.leaseCall(node, call, func(n *Node) {
		n.renew(call, lessor.Confirmation{})
	})
}

// confirm asks a quorum, and renews then.
func (n *Node) confirm(call *LeaseCall) {
	by, err := n.lessor.Ask(n.rep)
	if err != nil {
		n.c.endLeaseCall(call, err)
		return
	}
	n.rep.ReadIndex(func(_ uint64, err error) {
		if err != nil {
			n.c.endLeaseCall(call, err)
			return
		}
		n.lessor.Confirmed(by)
		n.renew(call, by)
	})
}

func (n *Node) renew(call *LeaseCall, by lessor.Confirmation) {
	out, err := n.lessor.Renew(by, call.ID)
	switch {
	case err != nil:
		n.c.endLeaseCall(call, err)
	case out.Unconfirmed:
		n.confirm(call)
	case out.Verdict == policy.RanOut:
		n.c.endLeaseCall(call, fault.Newf(fault.Timeout, "renew", "lease %d has run out", call.ID))
	case out.Verdict == policy.Checkpointed:
		req := &etcdserverpb.LeaseCheckpointRequest{Checkpoints: []*etcdserverpb.LeaseCheckpoint{{ID: call.ID}}}
		if err := n.propose(envelope.LeaseCheckpoint, req, func(_ state.Result, err error) {
			if err != nil {
				n.c.endLeaseCall(call, err)
				return
			}
			n.renew(call, by)
		}); err != nil {
			n.c.breach("%s: %v", n.name, err)
		}
	default:
		if call.TTL = out.TTL; by == (lessor.Confirmation{}) {
			n.c.leases.shared++
		}
		n.c.endLeaseCall(call, nil)
	}
}

// leaseTime has a node's timers follow what was applied. Who has applied an entry of
// the term in which it leads keeps time.
func (n *Node) leaseTime(results []state.Result) error {
	if err := n.lessor.Applied(results); err != nil {
		return err
	}
	term, leads := n.rep.Leads()
	if k := len(results); k == 0 || !leads || results[k-1].Term != term {
		return nil
	}
	if _, _, err := n.lessor.Left(n.rep, 0); err != nil {
		n.c.breach("%s applied an entry of its term %d and keeps no time: %v", n.name, term, err)
	}
	return nil
}

// sawLeases notes what an entry did to leases.
func (c *Cluster) sawLeases(res state.Result) {
	for _, ch := range res.Leases {
		if _, known := c.leases.ended[ch.ID]; ch.Gone && !known {
			c.leases.ended[ch.ID] = c.now
		}
		if !ch.Gone && ch.Remaining > 0 {
			c.leases.saved++
		}
	}
}

// checkLeases looks for leases that ended before the time that a client was
// told, and for keep-alives that were told of an end that there was not.
func (c *Cluster) checkLeases(add func(string, ...any)) {
	granted := map[int64]int64{}
	for _, call := range c.leases.calls {
		if call.Outcome == OK && !call.KeepAlive {
			granted[call.ID] = call.End
		}
	}
	for _, call := range c.leases.calls {
		if call.Outcome != OK {
			continue
		}
		end, ended := c.leases.ended[call.ID]
		switch {
		case call.TTL > 0 && ended && end < call.Start+call.TTL*Second:
			add("lease %d ended at %d, answered for %d seconds at %d", call.ID, end, call.TTL, call.Start)
		case call.TTL == 0 && (!ended || end > call.End):
			if at, was := granted[call.ID]; was && at < call.Start {
				add("lease %d was said to be gone at %d, and was not", call.ID, call.End)
			}
		}
	}
}

// leasesLeft counts leases and their keys at the nodes that run.
func (c *Cluster) leasesLeft() (left int, err error) {
	for _, n := range c.Nodes() {
		if !n.up {
			continue
		}
		all, err := n.machine.Leases()
		if err != nil {
			return 0, err
		}
		resp, err := n.machine.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte("leased "), RangeEnd: []byte("leased!"), CountOnly: true})
		if err != nil {
			return 0, err
		}
		left += len(all) + int(resp.GetCount())
	}
	return left, nil
}
