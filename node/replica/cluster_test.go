package replica

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// fakeMachine applies entries without storing more than their bodies.
type fakeMachine struct {
	applied uint64
	conf    raftpb.ConfState
	bodies  []string
	refuse  error // given to every configuration change
}

func (m *fakeMachine) apply(e state.Entry) state.Result {
	m.applied = e.Index
	res := state.Result{Index: e.Index, Term: e.Term}
	if len(e.Data) > 0 {
		env, err := envelope.Decode(e.Data)
		if err != nil {
			panic(err)
		}
		res.Kind, res.RequestID = env.Kind, env.RequestID
		m.bodies = append(m.bodies, string(env.Body))
	}
	if e.Conf == nil {
		return res
	}
	if m.refuse != nil {
		res.Err = m.refuse
		return res
	}
	id := e.Conf.NodeID
	not := func(x uint64) bool { return x == id }
	m.conf.Voters = slices.DeleteFunc(slices.Clone(m.conf.Voters), not)
	m.conf.Learners = slices.DeleteFunc(slices.Clone(m.conf.Learners), not)
	switch e.Conf.Type {
	case state.AddVoter:
		m.conf.Voters = append(m.conf.Voters, id)
	case state.AddLearner:
		m.conf.Learners = append(m.conf.Learners, id)
	}
	res.ConfChanged = true
	res.ConfState = &entryv1.ConfState{Voters: m.conf.Voters, Learners: m.conf.Learners}
	return res
}

// testNode is a Replica with its storage.
type testNode struct {
	r       *Replica
	store   *raft.MemoryStorage
	machine *fakeMachine
	role    string
	manual  bool // jobs are kept in work until the test does them
	work    Work
	rejects []string
}

// cluster delivers messages and does jobs at once, in a fixed order.
type cluster struct {
	t     *testing.T
	nodes map[uint64]*testNode
	queue []*raftpb.Message
	drop  func(m *raftpb.Message) bool
	sent  map[raftpb.MessageType]int // to whom does not matter
	snaps map[uint64]int             // MsgSnap by target
	fatal map[uint64]error
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, nodes: make(map[uint64]*testNode), sent: make(map[raftpb.MessageType]int),
		snaps: make(map[uint64]int), fatal: make(map[uint64]error)}
}

// start adds a member whose log begins after term/index, with a configuration:
// the shape of a seeded node.
func (c *cluster) start(id, term, index uint64, conf *raftpb.ConfState) *testNode {
	c.t.Helper()
	n := &testNode{store: raft.NewMemoryStorage(), machine: &fakeMachine{applied: index}}
	if index > 0 {
		n.machine.conf = raftpb.ConfState{Voters: conf.Voters, Learners: conf.Learners}
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}
		if err := n.store.ApplySnapshot(snap); err != nil {
			c.t.Fatal(err)
		}
		if err := n.store.SetHardState(&raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &index}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.nodes[id] = n
	c.open(id)
	return n
}

func (c *cluster) open(id uint64) {
	c.t.Helper()
	n := c.nodes[id]
	r, err := New(Config{ID: id, ElectionTicks: 10, HeartbeatTicks: 1, Seed: 1, Boot: uint32(id), Storage: n.store, Applied: n.machine.applied,
		Reject: func(m *raftpb.Message, reason error) {
			n.rejects = append(n.rejects, fmt.Sprintf("%s: %v", m.GetType(), reason))
		}})
	if err != nil {
		c.t.Fatal(err)
	}
	n.r = r
}

// ready takes the work of one member and, unless it is manual, does it.
func (c *cluster) ready(id uint64) bool {
	c.t.Helper()
	n := c.nodes[id]
	w, ok, err := n.r.Ready()
	if c.failed(id, err) || !ok {
		return false
	}
	if w.Role != nil {
		n.role = w.Role.State.String()
	}
	c.send(w.Send)
	n.work.Appends = append(n.work.Appends, w.Appends...)
	n.work.Applies = append(n.work.Applies, w.Applies...)
	if !n.manual {
		c.append(id)
		c.apply(id)
	}
	return true
}

func (c *cluster) send(ms []*raftpb.Message) {
	for _, m := range ms {
		c.sent[m.GetType()]++
		if m.GetType() == raftpb.MsgSnap {
			c.snaps[m.GetTo()]++
		}
		if c.drop != nil && c.drop(m) {
			continue
		}
		c.queue = append(c.queue, proto.Clone(m).(*raftpb.Message))
	}
}

func (c *cluster) append(id uint64) {
	c.t.Helper()
	n := c.nodes[id]
	for _, j := range n.work.Appends {
		if j.Snapshot != nil {
			if err := n.store.ApplySnapshot(j.Snapshot); err != nil {
				c.t.Fatal(err)
			}
			n.machine.applied = j.Snapshot.GetMetadata().GetIndex()
			cs := j.Snapshot.GetMetadata().GetConfState()
			n.machine.conf = raftpb.ConfState{Voters: cs.GetVoters(), Learners: cs.GetLearners()}
		}
		if err := n.store.Append(j.Entries); err != nil {
			c.t.Fatal(err)
		}
		if j.HardState != nil {
			if err := n.store.SetHardState(j.HardState); err != nil {
				c.t.Fatal(err)
			}
		}
		if c.failed(id, n.r.AppendDone(j)) {
			return
		}
	}
	n.work.Appends = nil
}

func (c *cluster) apply(id uint64) {
	c.t.Helper()
	n := c.nodes[id]
	for _, j := range n.work.Applies {
		var results []state.Result
		for _, e := range j.Entries {
			results = append(results, n.machine.apply(e))
		}
		if c.failed(id, n.r.ApplyDone(j, results)) {
			return
		}
	}
	n.work.Applies = nil
}

// failed notes a fatal error, which ends a member as it ends a process.
func (c *cluster) failed(id uint64, err error) bool {
	if err != nil {
		c.fatal[id] = err
		delete(c.nodes, id)
	}
	return err != nil
}

func (c *cluster) ids() []uint64 {
	var ids []uint64
	for id := range c.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// settle runs everything until nothing is left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for round := 0; ; round++ {
		if round > 5000 {
			c.t.Fatal("no end in sight")
		}
		busy := false
		for _, id := range c.ids() {
			busy = c.ready(id) || busy
		}
		msgs := c.queue
		c.queue = nil
		for _, m := range msgs {
			if n, ok := c.nodes[m.GetTo()]; ok {
				c.failed(m.GetTo(), n.r.Step(m))
			}
		}
		if !busy && len(msgs) == 0 {
			return
		}
	}
}

// ticks lets time pass for all members.
func (c *cluster) ticks(n int) {
	c.t.Helper()
	for range n {
		for _, id := range c.ids() {
			if n, ok := c.nodes[id]; ok {
				c.failed(id, n.r.Tick())
			}
		}
		c.settle()
	}
}

// leader makes the member lead.
func (c *cluster) leader(id uint64) *testNode {
	c.t.Helper()
	n := c.nodes[id]
	if err := n.r.Campaign(); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	if _, ok := n.r.Leads(); !ok {
		c.t.Fatalf("member %x does not lead: %+v", id, n.r.Status())
	}
	return n
}

// outcome records how a request ended.
type outcome struct {
	calls int
	res   state.Result
	err   error
}

func (o *outcome) done(res state.Result, err error) { o.calls++; o.res, o.err = res, err }

func (c *cluster) put(id uint64, body string) *outcome {
	o := &outcome{}
	c.nodes[id].r.Propose(envelope.Put, []byte(body), o.done)
	return o
}

// puts commits n entries through member id.
func (c *cluster) puts(id uint64, n int) {
	c.t.Helper()
	for i := range n {
		o := c.put(id, fmt.Sprint(i))
		c.settle()
		if o.calls != 1 || o.err != nil {
			c.t.Fatalf("put %d: %+v", i, o)
		}
	}
}

func (c *cluster) change(id uint64, typ state.ConfChangeType, node uint64) *outcome {
	kind := map[state.ConfChangeType]envelope.Kind{state.AddVoter: envelope.PromoteMember,
		state.AddLearner: envelope.AddLearner, state.RemoveNode: envelope.RemoveMember}[typ]
	o := &outcome{}
	c.nodes[id].r.ProposeConf(state.ConfChange{Type: typ, NodeID: node}, kind, nil, o.done)
	return o
}

// compact makes a snapshot at what the member applied and drops its log up to
// index.
func (c *cluster) compact(id, index uint64) {
	c.t.Helper()
	n := c.nodes[id]
	cs := &raftpb.ConfState{Voters: n.machine.conf.Voters, Learners: n.machine.conf.Learners}
	if _, err := n.store.CreateSnapshot(n.machine.applied, cs, nil); err != nil {
		c.t.Fatal(err)
	}
	if first, _ := n.store.FirstIndex(); index >= first {
		if err := n.store.Compact(index); err != nil {
			c.t.Fatal(err)
		}
	}
}

func voters(ids ...uint64) *raftpb.ConfState { return &raftpb.ConfState{Voters: ids} }
