package sim

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// Outcome is how a client's call ended.
type Outcome int

// Outcomes. A call that Failed has had no effect and never will; of one that is
// Unknown nothing is known.
const (
	Pending Outcome = iota
	OK
	Failed
	Unknown
)

// String names the outcome.
func (o Outcome) String() string { return [...]string{"pending", "ok", "failed", "unknown"}[o] }

// Op is one call of a client.
type Op struct {
	Put        bool
	Key, Value string // of a get: what was read, "" for nothing
	Node       string
	Start, End int64
	Outcome    Outcome
	Revision   int64 // of the write, or of the state that was read
	Err        error

	node  *Node
	epoch int
}

// callTimeout is how long a client waits.
const callTimeout = 5 * Second

// Put writes through a node.
func (c *Cluster) Put(node, key, value string) *Op {
	op, n := c.newOp(node, &Op{Put: true, Key: key, Value: value})
	if n == nil {
		return op
	}
	var id uint64
	n.at(n.epoch, func() error {
		b, err := marshal(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
		if err != nil {
			return err
		}
		id = n.rep.Propose(envelope.Put, b, func(res state.Result, err error) {
			if resp, ok := res.Response.(*etcdserverpb.PutResponse); ok && err == nil {
				op.Revision = resp.GetHeader().GetRevision()
			}
			c.end(op, err)
		})
		return nil
	})
	c.expire(op, func() { n.rep.Cancel(id) })
	return op
}

// Get reads through a node, linearizably.
func (c *Cluster) Get(node, key string) *Op {
	op, n := c.newOp(node, &Op{Key: key})
	if n == nil {
		return op
	}
	var id uint64
	n.at(n.epoch, func() error {
		id = n.rep.ReadIndex(func(_ uint64, err error) {
			if err == nil {
				err = n.read(op)
			}
			c.end(op, err)
		})
		return nil
	})
	c.expire(op, func() { n.rep.Cancel(id) })
	return op
}

// read takes the key's value from the node's state.
func (n *Node) read(op *Op) error {
	resp, err := n.machine.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte(op.Key)})
	if err != nil {
		return err
	}
	op.Revision = resp.GetHeader().GetRevision()
	if len(resp.GetKvs()) == 1 {
		op.Value = string(resp.GetKvs()[0].GetValue())
	}
	return nil
}

func (c *Cluster) newOp(node string, op *Op) (*Op, *Node) {
	op.Node, op.Start = node, c.now
	n := c.nodes[node]
	if n == nil || !n.up {
		op.Outcome, op.End = Failed, c.now
		op.Err = fault.Newf(fault.Unreachable, "call", "%s is down", node)
		return op, nil
	}
	op.node, op.epoch = n, n.epoch
	c.ops = append(c.ops, op)
	return op, n
}

// end notes how a call ended. A put that was not proposed, or whose place in the
// log went to another entry, has failed for good.
func (c *Cluster) end(op *Op, err error) {
	if op.Outcome != Pending {
		c.breach("%s was answered twice", op)
		return
	}
	op.End, op.Err = c.now, err
	switch fault.CodeOf(err) {
	case "":
		op.Outcome = OK
	case fault.Timeout:
		op.Outcome = Unknown
	default:
		op.Outcome = Failed
	}
	c.tracef("client %s", op)
}

// expire ends a call that is still pending when the client's patience ends.
func (c *Cluster) expire(op *Op, cancel func()) {
	c.after(callTimeout, func() {
		if op.Outcome != Pending {
			return
		}
		if op.node.up && op.node.epoch == op.epoch {
			cancel()
		}
		c.end(op, fault.Newf(fault.Timeout, "call", "no answer"))
	})
}

// abandon ends the calls of a node that is gone: nobody will answer.
func (c *Cluster) abandon(n *Node) {
	for _, op := range c.ops {
		if op.Outcome == Pending && op.node == n {
			c.end(op, fault.Newf(fault.Timeout, "call", "%s went down", n.name))
		}
	}
}

// String describes the call.
func (o *Op) String() string {
	kind := "get"
	if o.Put {
		kind = "put"
	}
	s := fmt.Sprintf("%s %s=%q at %s: %s", kind, o.Key, o.Value, o.Node, o.Outcome)
	if o.Outcome == OK {
		s += fmt.Sprintf(" revision=%d", o.Revision)
	}
	if o.Err != nil {
		s += " (" + o.Err.Error() + ")"
	}
	return s
}
