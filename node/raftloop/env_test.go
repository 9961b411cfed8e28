package raftloop

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// testNode is a Loop with its storage and the jobs it has handed out.
type testNode struct {
	loop    *Loop
	store   *raft.MemoryStorage
	appends []*AppendJob
	applies []*ApplyJob
	seed    uint64
	applied uint64
}

// env is a cluster of Loops driven by a text file.
type env struct {
	members map[uint64]*testNode
	inbox   map[uint64][]*raftpb.Message
	out     strings.Builder
}

func newEnv() *env {
	return &env{members: make(map[uint64]*testNode), inbox: make(map[uint64][]*raftpb.Message)}
}

func (e *env) printf(format string, args ...any) { fmt.Fprintf(&e.out, format, args...) }

func (e *env) ids() []uint64 {
	var ids []uint64
	for id := range e.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// start creates a member whose storage holds a snapshot at index with the given
// configuration, the shape of a node that is bootstrapped or seeded.
func (e *env) start(id uint64, voters, learners []uint64, term, index, seed uint64) error {
	store := raft.NewMemoryStorage()
	if len(voters) > 0 {
		cs := &raftpb.ConfState{Voters: voters, Learners: learners}
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: cs}}
		if err := store.ApplySnapshot(snap); err != nil {
			return err
		}
		if err := store.SetHardState(&raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &index}); err != nil {
			return err
		}
	}
	m := &testNode{store: store, seed: seed, applied: index}
	e.members[id] = m
	return e.open(id)
}

func (e *env) open(id uint64) error {
	m := e.members[id]
	l, err := New(Config{
		ID: id, ElectionTicks: 10, HeartbeatTicks: 1, Seed: m.seed, Storage: m.store, Applied: m.applied,
		OnReject: func(msg *raftpb.Message, reason error) {
			e.printf("%x: rejected %s from %x: %v\n", id, msg.GetType(), msg.GetFrom(), reason)
		},
	})
	m.loop, m.appends, m.applies = l, nil, nil
	return err
}

// ready takes the steps of one member and prints them.
func (e *env) ready(id uint64) (bool, error) {
	m := e.members[id]
	s, ok, err := m.loop.Ready()
	if err != nil || !ok {
		return false, err
	}
	if s.Role != nil {
		e.printf("%x: %s leader=%x term=%d\n", id, s.Role.State, s.Role.Leader, s.Role.Term)
	}
	for _, r := range s.Reads {
		e.printf("%x: read %q at %d\n", id, r.RequestCtx, r.Index)
	}
	e.send(s.Messages)
	for _, j := range s.Appends {
		m.appends = append(m.appends, j)
		e.printf("%x: append%s\n", id, describe(j))
	}
	if s.Apply != nil {
		m.applies = append(m.applies, s.Apply)
		e.printf("%x: apply %d..%d\n", id, s.Apply.Entries[0].GetIndex(), s.Apply.Entries[len(s.Apply.Entries)-1].GetIndex())
	}
	return true, nil
}

func describe(j *AppendJob) string {
	var b strings.Builder
	if j.MustSync {
		b.WriteString(" sync")
	}
	if j.HardState != nil {
		fmt.Fprintf(&b, " term=%d vote=%x commit=%d", j.HardState.GetTerm(), j.HardState.GetVote(), j.HardState.GetCommit())
	}
	if j.Snapshot != nil {
		fmt.Fprintf(&b, " snapshot=%d", j.Snapshot.GetMetadata().GetIndex())
	}
	for _, e := range j.Entries {
		fmt.Fprintf(&b, " %d/%d", e.GetTerm(), e.GetIndex())
	}
	return b.String()
}

func (e *env) send(ms []*raftpb.Message) {
	for _, m := range ms {
		e.inbox[m.GetTo()] = append(e.inbox[m.GetTo()], proto.Clone(m).(*raftpb.Message))
	}
}

func (e *env) append(id uint64) (bool, error) {
	m := e.members[id]
	if len(m.appends) == 0 {
		return false, nil
	}
	j := m.appends[0]
	m.appends = m.appends[1:]
	if j.Snapshot != nil {
		if err := m.store.ApplySnapshot(j.Snapshot); err != nil {
			return false, err
		}
		m.applied = j.Snapshot.GetMetadata().GetIndex()
	}
	if err := m.store.Append(j.Entries); err != nil {
		return false, err
	}
	if j.HardState != nil {
		if err := m.store.SetHardState(j.HardState); err != nil {
			return false, err
		}
	}
	out, err := m.loop.Appended(j)
	e.send(out)
	return true, err
}

func (e *env) apply(id uint64) (bool, error) {
	m := e.members[id]
	if len(m.applies) == 0 {
		return false, nil
	}
	j := m.applies[0]
	m.applies = m.applies[1:]
	for _, ent := range j.Entries {
		m.applied = ent.GetIndex()
		if ent.GetType() != raftpb.EntryConfChange {
			continue
		}
		cc := &raftpb.ConfChange{}
		if err := proto.Unmarshal(ent.GetData(), cc); err != nil {
			return false, err
		}
		cs, err := m.loop.ApplyConfChange(cc)
		if err != nil {
			return false, err
		}
		e.printf("%x: configuration voters=%x learners=%x\n", id, cs.GetVoters(), cs.GetLearners())
	}
	return true, m.loop.Applied(j)
}

func (e *env) deliver(id uint64) (bool, error) {
	msgs := e.inbox[id]
	e.inbox[id] = nil
	m, ok := e.members[id]
	if !ok {
		return false, nil
	}
	for _, msg := range msgs {
		if err := m.loop.Step(msg); err != nil {
			return false, err
		}
	}
	return len(msgs) > 0, nil
}

// stabilize runs all members until nothing is left to do.
func (e *env) stabilize() error {
	for round, busy := 0, true; busy; round++ {
		if round > 10000 {
			return fmt.Errorf("no end in sight")
		}
		busy = false
		for _, id := range e.ids() {
			for _, f := range []func(uint64) (bool, error){e.deliver, e.ready, e.append, e.apply} {
				did, err := f(id)
				if err != nil {
					return err
				}
				busy = busy || did
			}
		}
	}
	return nil
}

func ids(d *datadriven.TestData, key string) []uint64 {
	var out []uint64
	for _, a := range d.CmdArgs {
		if a.Key != key {
			continue
		}
		for _, v := range a.Vals {
			id, _ := strconv.ParseUint(v, 16, 64)
			out = append(out, id)
		}
	}
	return out
}

func number(d *datadriven.TestData, key string, def uint64) uint64 {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) == 1 {
			v, _ := strconv.ParseUint(a.Vals[0], 10, 64)
			return v
		}
	}
	return def
}

// TestText runs the schedules in testdata. Members are named by their hex IDs;
// the first argument of a command is the member.
func TestText(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		e := newEnv()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			e.out.Reset()
			if err := e.run(d); err != nil {
				e.printf("error: %v\n", err)
			}
			if e.out.Len() == 0 {
				return "ok\n"
			}
			return e.out.String()
		})
	})
}

func (e *env) run(d *datadriven.TestData) error {
	var id uint64
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
		id, _ = strconv.ParseUint(d.CmdArgs[0].Key, 16, 64)
	}
	m := e.members[id]
	switch d.Cmd {
	case "start":
		return e.start(id, ids(d, "voters"), ids(d, "learners"), number(d, "term", 1), number(d, "index", 10), number(d, "seed", 1))
	case "restart":
		e.inbox[id] = nil
		return e.open(id)
	case "tick":
		return e.tick(id, int(number(d, "n", 1)))
	case "tick-until-campaign":
		return e.tickUntilCampaign(id)
	case "campaign":
		return m.loop.Campaign()
	case "propose":
		return m.loop.Propose([]byte(d.Input))
	case "change":
		return e.change(d, m)
	case "read":
		return m.loop.ReadIndex([]byte(d.Input))
	case "transfer":
		return m.loop.TransferLeader(ids(d, "to")[0])
	case "ready":
		_, err := e.ready(id)
		return err
	case "append":
		_, err := e.append(id)
		return err
	case "apply":
		_, err := e.apply(id)
		return err
	case "deliver":
		_, err := e.deliver(id)
		return err
	case "drop":
		for _, msg := range e.inbox[id] {
			e.printf("dropped %s from %x\n", msg.GetType(), msg.GetFrom())
		}
		e.inbox[id] = nil
		return nil
	case "stabilize":
		return e.stabilize()
	case "snapshot":
		return e.snapshot(d, m)
	case "report":
		return m.loop.ReportSnapshot(ids(d, "to")[0], raft.SnapshotFinish)
	case "status":
		e.status(id)
		return nil
	case "step":
		return e.step(d, id)
	}
	return fmt.Errorf("unknown command %s", d.Cmd)
}

func (e *env) tick(id uint64, n int) error {
	for range n {
		if err := e.members[id].loop.Tick(); err != nil {
			return err
		}
	}
	return nil
}

// tickUntilCampaign ticks one member alone and says after how many ticks it
// campaigned.
func (e *env) tickUntilCampaign(id uint64) error {
	l := e.members[id].loop
	for n := 1; n <= 100; n++ {
		was := l.prev
		deadline, elapsed := l.timer.deadline, l.timer.elapsed
		if err := l.Tick(); err != nil {
			return err
		}
		if l.prev.state != raft.StateFollower && (l.prev != was || elapsed+1 >= deadline) {
			e.printf("%x: campaigned after %d ticks\n", id, n)
			return nil
		}
	}
	e.printf("%x: silent for 100 ticks\n", id)
	return nil
}

func (e *env) change(d *datadriven.TestData, m *testNode) error {
	cc := &raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum()}
	for key, typ := range map[string]raftpb.ConfChangeType{
		"add": raftpb.ConfChangeAddNode, "learner": raftpb.ConfChangeAddLearnerNode, "remove": raftpb.ConfChangeRemoveNode,
	} {
		if v := ids(d, key); len(v) == 1 {
			cc.Type, cc.NodeId = typ.Enum(), &v[0]
		}
	}
	return m.loop.ProposeConfChange(cc)
}

// snapshot compacts a member's log up to what it applied; stale=(ids) leaves the
// configuration of the snapshot at these voters.
func (e *env) snapshot(d *datadriven.TestData, m *testNode) error {
	cs := &raftpb.ConfState{Voters: m.loop.conf.Voters, Learners: m.loop.conf.Learners}
	if v := ids(d, "stale"); len(v) > 0 {
		cs = &raftpb.ConfState{Voters: v}
	}
	index := number(d, "index", m.applied)
	if _, err := m.store.CreateSnapshot(index, cs, nil); err != nil {
		return err
	}
	return m.store.Compact(number(d, "compact", m.applied))
}

func (e *env) status(id uint64) {
	s := e.members[id].loop.Status()
	e.printf("%x: %s leader=%x term=%d vote=%x commit=%d last=%d\n", id, s.State, s.Leader, s.Term, s.Vote, s.Commit, s.Last)
	for _, p := range e.ids() {
		if pr, ok := s.Progress[p]; ok && p != id {
			e.printf("  %x: %s match=%d next=%d\n", p, pr.State, pr.Match, pr.Next)
		}
	}
}

// step steps a hand-made message: key=value of its fields.
func (e *env) step(d *datadriven.TestData, id uint64) error {
	typ := raftpb.MessageType(raftpb.MessageType_value[strings.TrimSpace(d.Input)])
	m := &raftpb.Message{Type: &typ, To: &id, From: new(ids(d, "from")[0]), Term: new(number(d, "term", 0)),
		Index: new(number(d, "index", 0)), LogTerm: new(number(d, "logterm", 0)), Commit: new(number(d, "commit", 0))}
	for _, t := range ids(d, "entries") {
		i := m.GetIndex() + 1 + uint64(len(m.Entries))
		m.Entries = append(m.Entries, &raftpb.Entry{Index: &i, Term: &t, Data: []byte("x")})
	}
	return e.members[id].loop.Step(m)
}
