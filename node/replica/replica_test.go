package replica

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// three is a cluster of three voters led by member 1.
func three(t *testing.T) *cluster {
	c := newCluster(t)
	for id := range uint64(3) {
		c.start(id+1, 1, 1, voters(1, 2, 3))
	}
	c.leader(1)
	return c
}

// cut drops everything from and to the members.
func cut(ids ...uint64) func(*raftpb.Message) bool {
	return func(m *raftpb.Message) bool {
		return slices.Contains(ids, m.GetFrom()) || slices.Contains(ids, m.GetTo())
	}
}

func (o *outcome) want(t *testing.T, code fault.Code) {
	t.Helper()
	if o.calls != 1 || fault.CodeOf(o.err) != code {
		t.Errorf("outcome %+v, want code %q once", o, code)
	}
}

// reading records how a read ended.
type reading struct {
	calls int
	index uint64
	err   error
}

func (r *reading) done(index uint64, err error) { r.calls++; r.index, r.err = index, err }

func (c *cluster) read(id uint64) *reading {
	r := &reading{}
	c.nodes[id].r.ReadIndex(r.done)
	return r
}

func (r *reading) want(t *testing.T, code fault.Code, atLeast uint64) {
	t.Helper()
	if r.calls != 1 || fault.CodeOf(r.err) != code || r.index < atLeast {
		t.Errorf("read %+v, want code %q, index >= %d, once", r, code, atLeast)
	}
}

func TestProposalIsAnswered(t *testing.T) {
	c := three(t)
	at, through := c.put(1, "at the leader"), c.put(2, "through a follower")
	c.settle()
	at.want(t, "")
	through.want(t, "")
	if at.res.Kind != envelope.Put || at.res.Index == 0 || at.res.Index == through.res.Index {
		t.Errorf("results %+v, %+v", at.res, through.res)
	}
	for _, n := range c.nodes {
		if !slices.Contains(n.machine.bodies, "at the leader") || !slices.Contains(n.machine.bodies, "through a follower") {
			t.Errorf("applied %q", n.machine.bodies)
		}
	}
	if len(c.nodes[1].r.waiters)+len(c.nodes[2].r.waiters)+len(c.nodes[1].r.placed)+len(c.nodes[2].r.placed) != 0 {
		t.Error("waiters were left behind")
	}
}

func TestProposalWithoutALeader(t *testing.T) {
	c := newCluster(t)
	c.start(1, 1, 1, voters(1, 2, 3))
	o := c.put(1, "x")
	o.want(t, fault.Unreachable)
	if !strings.Contains(o.err.Error(), "no leader") || !Leaderless(o.err) {
		t.Errorf("%v", o.err)
	}
	c.change(1, state.RemoveNode, 2).want(t, fault.NotLeader)
	c.read(1).want(t, fault.Unreachable, 0)
}

func TestProposalDuringTransfer(t *testing.T) {
	c := three(t)
	c.drop = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgTimeoutNow }
	if err := c.nodes[1].r.TransferLeader(2); err != nil {
		t.Fatal(err)
	}
	o := c.put(1, "x")
	if o.want(t, fault.Unreachable); !Leaderless(o.err) {
		t.Errorf("%v", o.err)
	}
}

func TestProposalOfTheWrongKind(t *testing.T) {
	c := three(t)
	var o outcome
	c.nodes[1].r.Propose(envelope.AddLearner, nil, o.done)
	o.want(t, fault.Usage)
	o = outcome{}
	c.nodes[1].r.Propose(envelope.Kind(9999), nil, o.done)
	o.want(t, fault.Usage)
	o = outcome{}
	c.nodes[1].r.ProposeConf(state.ConfChange{Type: state.AddLearner, NodeID: 4}, envelope.Put, nil, o.done)
	o.want(t, fault.Usage)
	o = outcome{}
	c.nodes[1].r.ProposeConf(state.ConfChange{Type: state.Unsupported, NodeID: 4}, envelope.AddLearner, nil, o.done)
	o.want(t, fault.Usage)
	o = outcome{}
	c.nodes[1].r.ProposeConf(state.ConfChange{Type: state.AddLearner}, envelope.AddLearner, nil, o.done)
	o.want(t, fault.Usage)
}

// TestLostProposalFails: the entry was in a leader's log, and another one was
// committed in its place.
func TestLostProposalFails(t *testing.T) {
	c := three(t)
	c.drop = cut(1)
	lost := c.put(1, "lost")
	change := c.change(1, state.RemoveNode, 3)
	c.ticks(60)
	if lost.calls != 0 {
		t.Fatalf("ended before its fate was certain: %+v", lost)
	}
	// The old leader stepped down without a quorum: the change can not be waited for.
	change.want(t, fault.NotLeader)
	c.drop = nil
	c.ticks(60)
	if lost.want(t, fault.NotLeader); !Leaderless(lost.err) || Leaderless(change.err) {
		t.Errorf("%v; %v", lost.err, change.err)
	}
	for id, n := range c.nodes {
		if slices.Contains(n.machine.bodies, "lost") {
			t.Errorf("member %x applied it", id)
		}
	}
}

func TestRefusedChange(t *testing.T) {
	c := three(t)
	for _, n := range c.nodes {
		n.machine.refuse = fault.Newf(fault.Refused, "apply", "not reserved")
	}
	o := c.change(1, state.AddLearner, 4)
	c.settle()
	o.want(t, fault.Refused)
	if o.res.Index == 0 {
		t.Error("a refusal by the state machine has no index")
	}
	if s := c.nodes[1].r.Status(); len(s.Learners) != 0 || c.nodes[1].r.HasPendingConf() {
		t.Errorf("%+v", s)
	}
}

func TestCancel(t *testing.T) {
	c := three(t)
	c.nodes[1].manual = true
	var o outcome
	var rd reading
	c.nodes[1].r.Cancel(c.nodes[1].r.Propose(envelope.Put, nil, o.done))
	later := c.nodes[1].r.Propose(envelope.Put, []byte("x"), o.done)
	c.nodes[1].r.Cancel(c.nodes[1].r.ReadIndex(rd.done))
	asked := c.nodes[1].r.ReadIndex(rd.done)
	c.ready(1) // the entry is placed, the read asked for
	c.nodes[1].r.Cancel(later)
	c.nodes[1].r.Cancel(asked)
	c.nodes[1].r.Cancel(12345)
	if n := len(c.nodes[1].r.waiters) + len(c.nodes[1].r.placed); n != 0 {
		t.Errorf("%d waiters left", n)
	}
	c.nodes[1].manual = false
	for range 5 {
		c.append(1)
		c.apply(1)
		c.settle()
	}
	if o.calls+rd.calls != 0 {
		t.Error("a cancelled request was answered")
	}
}

func TestReads(t *testing.T) {
	c := three(t)
	c.puts(1, 3)
	last := c.nodes[1].r.Status().Last
	before := c.sent[raftpb.MsgReadIndex]
	var rs []*reading
	for range 10 {
		rs = append(rs, c.read(1), c.read(2))
	}
	c.settle()
	for _, r := range rs {
		r.want(t, "", last)
	}
	if got := c.sent[raftpb.MsgReadIndex] - before; got != 1 {
		t.Errorf("%d requests for ten reads of a follower", got)
	}
}

func TestReadWaitsForApply(t *testing.T) {
	c := three(t)
	n := c.nodes[2]
	n.manual = true
	o := c.put(1, "x")
	c.settle()
	for range 3 { // append everything, apply nothing
		c.append(2)
		c.settle()
	}
	o.want(t, "")
	r := c.read(2)
	c.ticks(1)
	c.append(2)
	c.settle()
	if r.calls != 0 {
		t.Fatalf("served at %d, applied %d", r.index, n.machine.applied)
	}
	n.manual = false
	c.apply(2)
	c.settle()
	r.want(t, "", o.res.Index)
	if n.machine.applied < r.index {
		t.Errorf("applied %d, read at %d", n.machine.applied, r.index)
	}
}

func TestLostReadIsAskedAgain(t *testing.T) {
	c := three(t)
	c.drop = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgReadIndex }
	r := c.read(2)
	c.ticks(5)
	c.drop = nil
	if r.calls != 0 {
		t.Fatal("served without an answer")
	}
	c.ticks(10)
	r.want(t, "", 1)
}

func TestReadFailsWhenTheLeaderChanges(t *testing.T) {
	c := three(t)
	c.drop = cut(1)
	r := c.read(1)
	c.ticks(40)
	r.want(t, fault.NotLeader, 0)
}

// TestLateAnswerIsIgnored: the answer to a request that was asked again is not
// taken for that of the new one.
func TestLateAnswerIsIgnored(t *testing.T) {
	c := three(t)
	var late []*raftpb.Message
	c.drop = func(m *raftpb.Message) bool {
		if m.GetType() == raftpb.MsgReadIndexResp {
			late = append(late, m)
			return true
		}
		return false
	}
	first := c.read(2)
	c.settle()
	c.nodes[2].r.Cancel(1) // nothing
	c.ticks(10)            // asked again
	c.puts(1, 3)
	second := c.read(2)
	c.drop = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgReadIndexResp }
	if err := c.nodes[2].r.Step(late[0]); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if first.calls != 0 || second.calls != 0 {
		t.Fatalf("served by a late answer: %+v %+v", first, second)
	}
	c.drop = nil
	c.ticks(20)
	first.want(t, "", 1)
	second.want(t, "", c.nodes[1].r.Status().Commit)
}

// TestReadAfterRestartOfASingleVoter: the commit index on disk may lie behind
// what was acknowledged, and the library answers a single voter's read at once.
func TestReadAfterRestartOfASingleVoter(t *testing.T) {
	c := newCluster(t)
	n := c.start(1, 1, 1, voters(1))
	c.ticks(1)
	n.manual = true
	o := c.put(1, "acknowledged")
	c.settle()
	c.append(1) // durable
	w, _, err := n.r.Ready()
	if err != nil || len(w.Applies) != 1 {
		t.Fatalf("%+v %v", w, err)
	}
	n.work = w
	c.apply(1) // acknowledged, and the commit index never written
	o.want(t, "")
	n.machine.applied, n.work = o.res.Index-1, Work{}
	n.machine.bodies = nil
	c.open(1)
	n.manual = false
	// Step by step to leadership, with a read at the first chance.
	if err := n.r.Tick(); err != nil {
		t.Fatal(err)
	}
	var r *reading
	for range 20 {
		if _, leads := n.r.Leads(); leads && r == nil {
			r = c.read(1)
		}
		c.ready(1)
	}
	r.want(t, "", o.res.Index)
	if !slices.Contains(n.machine.bodies, "acknowledged") {
		t.Error("the read missed an acknowledged write")
	}
}

// TestSnapshotEndsWaiters: what a snapshot jumps over is never seen applied, and
// the snapshot waits for what is being applied.
func TestSnapshotEndsWaiters(t *testing.T) {
	c := three(t)
	n := c.nodes[3]
	n.manual = true
	o := c.put(3, "through a follower")
	c.settle()
	c.append(3)
	c.settle()
	if _, _, err := n.r.Ready(); err != nil {
		t.Fatal(err)
	}
	c.drop = cut(3)
	c.puts(1, 20)
	c.compact(1, c.nodes[1].machine.applied)
	c.ticks(1)
	held := len(n.work.Applies)
	if held == 0 {
		t.Fatal("this test needs entries that are being applied")
	}
	c.drop = nil
	for range 6 {
		c.ticks(1)
		c.append(3) // appends go on
		c.settle()
	}
	if c.snaps[3] == 0 {
		t.Fatal("no snapshot was sent")
	}
	if n.r.Restoring() == 0 || o.calls != 0 {
		t.Fatalf("the snapshot did not wait: restoring %d, waiter %+v", n.r.Restoring(), o)
	}
	n.manual = false
	c.apply(3)
	c.settle()
	c.ticks(2)
	if n.r.Restoring() != 0 || n.machine.applied < 20 {
		t.Fatalf("restoring %d, applied %d", n.r.Restoring(), n.machine.applied)
	}
	if o.calls != 1 || o.err != nil && (!fault.Is(o.err, fault.Timeout) || Leaderless(o.err)) {
		t.Errorf("waiter %+v", o)
	}
	if n.r.WouldRestore(&raftpb.Message{Type: raftpb.MsgApp.Enum()}) {
		t.Error("WouldRestore of an append")
	}
}

func TestConfigurationMismatchIsFatal(t *testing.T) {
	c := three(t)
	c.nodes[2].machine.conf.Voters = []uint64{1, 2}
	c.change(1, state.AddLearner, 4)
	c.settle()
	if !fault.Is(c.fatal[2], fault.Different) {
		t.Errorf("member 2: %v", c.fatal[2])
	}
	if len(c.fatal) != 1 {
		t.Errorf("fatal %v", c.fatal)
	}
}

func TestApplyDoneChecksResults(t *testing.T) {
	for name, spoil := range map[string]func([]state.Result) []state.Result{
		"missing": func(rs []state.Result) []state.Result { return rs[1:] },
		"index":   func(rs []state.Result) []state.Result { rs[0].Index++; return rs },
		"change":  func(rs []state.Result) []state.Result { rs[0].ConfChanged = true; return rs },
	} {
		c := three(t)
		n := c.nodes[1]
		n.manual = true
		c.put(1, "x")
		for range 3 {
			c.settle()
			c.append(1)
		}
		j := n.work.Applies[0]
		var rs []state.Result
		for _, e := range j.Entries {
			rs = append(rs, n.machine.apply(e))
		}
		if err := n.r.ApplyDone(j, spoil(rs)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestAnswerComesOnce: who waits for an entry may be told on another goroutine, as
// soon as it is applied, and is told once; who waits for a change is told when it is
// in force.
func TestAnswerComesOnce(t *testing.T) {
	c := three(t)
	n := c.nodes[1]
	n.manual = true
	put, dropped := c.put(1, "x"), c.put(1, "y")
	n.r.Cancel(n.r.nextID)
	change := c.change(1, state.AddLearner, 9)
	for len(n.work.Applies) == 0 {
		c.settle()
		c.append(1)
	}
	c.settle()
	for _, j := range n.work.Applies {
		var rs []state.Result
		for _, e := range j.Entries {
			rs = append(rs, n.machine.apply(e))
		}
		told := make(chan struct{})
		go func() { defer close(told); j.Answer(rs) }()
		<-told
		if change.calls != 0 {
			t.Fatalf("a change was answered before it was in force: %+v", change)
		}
		if len(rs) > 1 && put.calls != 1 {
			t.Errorf("not answered: %+v", put)
		}
		if err := n.r.ApplyDone(j, rs); err != nil {
			t.Fatal(err)
		}
	}
	if put.calls != 1 || put.err != nil || put.res.RequestID == 0 || dropped.calls != 0 || change.calls != 1 || change.err != nil {
		t.Errorf("put %+v, cancelled %+v, change %+v", put, dropped, change)
	}
}

func TestForwardedChangeIsDropped(t *testing.T) {
	c := three(t)
	for name, data := range map[string][]byte{
		"change in a normal entry": envelope.Envelope{Kind: envelope.AddLearner}.Append(nil),
		"not an entry":             []byte("x"),
	} {
		before := c.nodes[1].r.Status().Last
		m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Entries: []*raftpb.Entry{{Data: data}}}
		if err := c.nodes[1].r.Step(m); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if s := c.nodes[1].r.Status(); s.Last != before || len(c.nodes[1].rejects) == 0 {
			t.Errorf("%s: appended", name)
		}
	}
}

func TestTransferLeader(t *testing.T) {
	c := three(t)
	c.start(4, 1, 1, voters(1, 2, 3))
	c.mustChange(state.AddLearner, 4)
	for id, want := range map[uint64]fault.Code{4: fault.Refused, 9: fault.Refused} {
		if err := c.nodes[1].r.TransferLeader(id); fault.CodeOf(err) != want {
			t.Errorf("to %x: %v", id, err)
		}
	}
	if err := c.nodes[2].r.TransferLeader(3); !fault.Is(err, fault.NotLeader) {
		t.Errorf("at a follower: %v", err)
	}
	c.drop = cut(3)
	c.ticks(20)
	if err := c.nodes[1].r.TransferLeader(3); !fault.Is(err, fault.Refused) {
		t.Errorf("to a member that is not in contact: %v", err)
	}
	if err := c.nodes[1].r.TransferLeader(2); err != nil {
		t.Fatal(err)
	}
	c.ticks(1)
	if s := c.nodes[2].r.Status(); !s.IsLeader() || c.nodes[1].r.Leader() != 2 {
		t.Errorf("%+v", s)
	}
}

// TestNewLeaderKnowsWhatIsPending: a leader that took over a change in its log
// refuses another until that one is applied.
func TestNewLeaderKnowsWhatIsPending(t *testing.T) {
	c := three(t)
	n := c.nodes[2]
	n.manual = true
	inherited := c.put(1, "it might as well be a change")
	for range 5 {
		c.settle()
		c.append(2) // and nothing is applied
	}
	inherited.want(t, "")
	if err := c.nodes[1].r.TransferLeader(2); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c.settle()
		if _, leads := n.r.Leads(); leads {
			break
		}
		c.append(2)
	}
	if _, leads := n.r.Leads(); !leads {
		t.Fatalf("%+v", n.r.Status())
	}
	refused := c.change(2, state.AddLearner, 4)
	refused.want(t, fault.Refused)
	if !errors.Is(refused.err, ErrConfPending) {
		t.Errorf("%v", refused.err)
	}
	if !n.r.HasPendingConf() || c.nodes[1].r.HasPendingConf() {
		t.Error("HasPendingConf")
	}
	n.manual = false
	c.append(2)
	c.apply(2)
	c.settle()
	o := c.change(2, state.AddLearner, 4)
	c.settle()
	o.want(t, "")
}

func TestRequestIDsOfTwoBootsDiffer(t *testing.T) {
	c := three(t)
	a := c.nodes[1].r.Propose(envelope.Put, nil, nil)
	b := c.nodes[2].r.Propose(envelope.Put, nil, nil)
	if a == b || a>>32 != 1 || b>>32 != 2 || uint32(a) == 0 {
		t.Errorf("request IDs %x and %x", a, b)
	}
}

func TestTrace(t *testing.T) {
	c := three(t)
	var lines []string
	c.nodes[1].r.cfg.Trace = func(line string) { lines = append(lines, line) }
	c.puts(1, 1)
	o := c.change(1, state.AddLearner, 4)
	c.settle()
	o.want(t, "")
	all := strings.Join(lines, "\n")
	for _, want := range []string{"append sync=true", "put#", "applied 2/3 put#", "(change)", "voters=[1 2 3] learners=[4]"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in the trace:\n%s", want, all)
		}
	}
}
