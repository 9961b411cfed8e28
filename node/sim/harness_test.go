package sim

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// harness is a cluster with the test's complaints.
type harness struct {
	*Cluster
	t *testing.T
}

// found starts a cluster and waits until everybody knows the leader, which is
// the first node.
func found(t *testing.T, names ...string) *harness {
	t.Helper()
	return foundWith(t, Config{Seed: 11}, names...)
}

func foundWith(t *testing.T, cfg Config, names ...string) *harness {
	t.Helper()
	cfg.Trace = true
	h := &harness{New(cfg), t}
	t.Cleanup(func() {
		if t.Failed() {
			lines := h.Trace()
			t.Log("end of the trace:\n" + strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	h.must(h.Bootstrap(names...))
	h.waitFor("a leader", func() bool { return h.Leader() != nil })
	h.RunFor(4 * Second)
	h.lead(names[0])
	return h
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) waitFor(what string, cond func() bool) {
	h.t.Helper()
	if !h.RunUntil(100*Second, cond) {
		h.t.Fatalf("waited in vain for %s", what)
	}
}

// lead makes a node the leader.
func (h *harness) lead(name string) *Node {
	h.t.Helper()
	l, n := h.Leader(), h.Node(name)
	if l != n {
		h.must(l.rep.TransferLeader(n.id))
		l.pump()
		h.waitFor(name+" to lead", func() bool { return h.Leader() == n })
		h.RunFor(Second)
	}
	return n
}

// want wants a call to end in some way.
func (h *harness) want(op *Op, o Outcome) *Op {
	h.t.Helper()
	h.RunUntil(2*callTimeout, func() bool { return op.Outcome != Pending })
	if op.Outcome != o {
		h.t.Fatalf("%s, want %s", op, o)
	}
	return op
}

// fill commits puts through a node.
func (h *harness) fill(node string, count int) {
	h.t.Helper()
	for i := range count {
		h.want(h.Put(node, "fill", fmt.Sprint(i)), OK)
	}
}

// joined adds a node and waits for the join.
func (h *harness) joined(name string, o Options) *Join {
	h.t.Helper()
	j := h.Add(name, o)
	h.waitFor("the join of "+name, func() bool { return j.Ended })
	if !j.OK() {
		h.t.Fatalf("join of %s: %+v", name, j)
	}
	return j
}

// outcome is how a configuration change ended.
type outcome struct {
	ended bool
	res   state.Result
	err   error
}

// change asks a node for a configuration change, without waiting.
func (h *harness) change(at *Node, typ state.ConfChangeType, id uint64) *outcome {
	h.t.Helper()
	o := &outcome{}
	kind := map[state.ConfChangeType]envelope.Kind{state.AddVoter: envelope.PromoteMember, state.RemoveNode: envelope.RemoveMember}[typ]
	at.at(at.epoch, func() error {
		done := func(res state.Result, err error) { o.ended, o.res, o.err = true, res, err }
		if typ == state.RemoveNode {
			return at.change(typ, id, kind, &entryv1.RemoveMember{Id: id}, done)
		}
		return at.change(typ, id, kind, &entryv1.PromoteMember{Id: id}, done)
	})
	return o
}

// commit has an entry committed by the leader and gives the answer.
func (h *harness) commit(kind envelope.Kind, body proto.Message) proto.Message {
	h.t.Helper()
	l, o := h.Leader(), &outcome{}
	l.at(l.epoch, func() error {
		return l.propose(kind, body, func(res state.Result, err error) { o.ended, o.res, o.err = true, res, err })
	})
	h.waitFor(kind.String(), func() bool { return o.ended })
	h.must(o.err)
	h.must(o.res.Err)
	return o.res.Response
}

func (h *harness) wantChange(o *outcome, code fault.Code) {
	h.t.Helper()
	h.RunUntil(callTimeout, func() bool { return o.ended })
	if !o.ended || fault.CodeOf(o.err) != code {
		h.t.Fatalf("configuration change %+v, want code %q", o, code)
	}
}

// rest lets the cluster come to rest and wants it whole.
func (h *harness) rest() {
	h.t.Helper()
	if err := h.Settle(120 * Second); err != nil {
		h.t.Fatal(err)
	}
	h.RunUntil(60*Second, func() bool { return len(h.CheckClean()) == 0 })
	for _, b := range append(h.Check(), h.CheckClean()...) {
		h.t.Error(b)
	}
}

// cutOff lets nothing through to a node, and counts what was held back.
func (h *harness) cutOff(name string, types ...raftpb.MessageType) *int {
	count := 0
	h.Intercept(func(to *Node, m *raftpb.Message) bool {
		if to.name != name {
			return true
		}
		for _, typ := range types {
			if m.GetType() == typ {
				count++
				return false
			}
		}
		return len(types) != 0
	})
	return &count
}
