// Package raftloop wraps the Raft library into a deterministic machine: events
// in (ticks, messages, proposals, finished writes), ordered steps out. It has no
// goroutine, no clock and no I/O besides reads of the storage it is given.
//
// What it adds to raft.RawNode:
//
//   - Elections follow a timer of its own, drawn from a seed. The library's
//     timer, which draws from crypto/rand, never decides: a follower ticks the
//     library at most ElectionTicks-1 times between two contacts with a leader,
//     which is below the least timeout the library can draw, and a candidate
//     never ticks it. At ElectionTicks own ticks without contact the leader is
//     forgotten, so that the library's lease check does not hold up the vote for
//     somebody else; at ElectionTicks plus jitter the node campaigns.
//   - Messages off the network are checked before the library sees them, since
//     it panics on what it takes for impossible. What does not pass is dropped
//     and reported, never fatal; a panic of the library all the same becomes an
//     error and breaks the Loop.
//   - A read index is asked for only after the leader has committed an entry of
//     its own term. The library skips that wait in a configuration with one
//     voter, whose commit index after a restart may lie behind acknowledged
//     writes.
//   - Configurations are simple. A joint one is never proposed, and a snapshot
//     that carries one is dropped.
//   - A snapshot is handed to the library only if its configuration knows every
//     member and it reaches the log's first entry: others are sent and ignored
//     for ever.
//
// A Loop is used from one goroutine. Every error it returns is fatal to the
// node, except raft.ErrProposalDropped.
package raftloop

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
)

// Loop is the machine. Create it with New.
type Loop struct {
	cfg    Config
	rn     *raft.RawNode
	broken error // sticky

	conf raftpb.ConfState // configuration in force
	last uint64           // last index handed out for appending or stored

	// ownTerm is the index of the first entry of the leader's own term, 0 while
	// none was handed out or this node does not lead.
	ownTerm uint64
	held    []*raftpb.Message // read index requests that wait for ownTerm
	joining uint64            // member that the change being applied adds; 0: none

	appends []*AppendJob // handed out and not yet reported
	applies []*ApplyJob

	prev  view // what the library showed after the last call
	timer timer
	role  Role // last one handed out
}

// view is the part of the library's status that decides about contact, and how
// far the log is committed.
type view struct {
	state  raft.StateType
	term   uint64
	vote   uint64
	lead   uint64
	commit uint64
}

// maxHeldReads bounds the read index requests kept for a leader that has not
// committed in its term; more are dropped and asked again by the follower.
const maxHeldReads = 1024

// New starts a Loop from what the storage holds.
func New(cfg Config) (*Loop, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Logger == nil {
		cfg.Logger = discard{}
	}
	if err := checkStorage(cfg); err != nil {
		return nil, err
	}
	l := &Loop{cfg: cfg}
	l.timer.rng = rand.New(rand.NewPCG(cfg.Seed, cfg.ID))
	_, conf, err := cfg.Storage.InitialState()
	if err != nil {
		return nil, fault.New(fault.CodeOf(err), "read raft state", err)
	}
	if conf != nil {
		if err := checkConf(conf); err != nil {
			return nil, fault.New(fault.Corrupt, "read raft configuration", err)
		}
		l.setConf(conf)
	}
	if l.last, err = cfg.Storage.LastIndex(); err != nil {
		return nil, fault.New(fault.CodeOf(err), "read raft log", err)
	}
	err = l.call("start raft", func() (err error) {
		l.rn, err = raft.NewRawNode(cfg.raft(guardedStorage{cfg.Storage, l}))
		return err
	})
	if err != nil {
		return nil, err
	}
	l.prev = l.view()
	l.role = l.currentRole()
	l.resetTimer()
	return l, nil
}

// call runs f, which calls the library, and turns a panic into an error after
// which the Loop refuses everything.
func (l *Loop) call(op string, f func() error) (err error) {
	if l.broken != nil {
		return l.broken
	}
	defer func() {
		switch v := recover().(type) {
		case nil:
			if err != nil && !errors.Is(err, raft.ErrProposalDropped) {
				l.broken = err
			}
		case runtime.Error:
			l.broken = fault.Newf(fault.Internal, op, "%w\n%s", v, debug.Stack())
			err = l.broken
		case error:
			l.broken = fault.New(fault.CodeOf(v), op, v)
			err = l.broken
		default:
			l.broken = fault.Newf(fault.Internal, op, "%v", v)
			err = l.broken
		}
	}()
	return f()
}

// Step takes a message off the network; the Loop owns it from then on. A message
// that the library could not survive is dropped and reported to OnReject. For a
// MsgSnap the snapshot's files must be verified and ready to be used.
func (l *Loop) Step(m *raftpb.Message) error {
	if l.broken != nil {
		return l.broken
	}
	if err := l.check(m); err != nil {
		l.reject(m, err)
		return nil
	}
	if m.GetType() == raftpb.MsgHeartbeat && m.GetTerm() >= l.prev.term && m.GetCommit() > l.last {
		l.broken = fault.Newf(fault.Corrupt, "step heartbeat",
			"member %x knows that this log reached index %d, but it ends at %d", m.GetFrom(), m.GetCommit(), l.last).
			WithHint("the raft log of this member was lost: remove the member and join again with an empty data directory")
		return l.broken
	}
	if m.GetType() == raftpb.MsgReadIndex && l.mustHold() {
		l.hold(m)
		return nil
	}
	return l.stepLibrary(m)
}

func (l *Loop) stepLibrary(m *raftpb.Message) error {
	err := l.call("step "+m.GetType().String(), func() error {
		err := l.rn.Step(m)
		switch {
		case errors.Is(err, raft.ErrProposalDropped), errors.Is(err, raft.ErrStepPeerNotFound),
			errors.Is(err, raft.ErrStepLocalMsg):
			l.reject(m, err)
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return l.observe(m)
}

// Propose hands data to the leader, which may be another member. It returns
// raft.ErrProposalDropped when there is none or it takes nothing at present;
// nil promises nothing.
func (l *Loop) Propose(data []byte) error {
	if err := l.call("propose", func() error { return l.rn.Propose(data) }); err != nil {
		return err
	}
	return l.observe(nil)
}

// ProposeConfChange appends a simple change at the leader. As in Propose; besides,
// the library replaces the change by an empty entry when another may be pending
// (see ConfChangePending).
func (l *Loop) ProposeConfChange(cc *raftpb.ConfChange) error {
	if err := l.call("propose change", func() error { return l.rn.ProposeConfChange(cc) }); err != nil {
		return err
	}
	return l.observe(nil)
}

// ApplyConfChange puts an applied change into force and gives the configuration
// after it. It must be called before Applied for the job that holds the change.
func (l *Loop) ApplyConfChange(cc *raftpb.ConfChange) (*raftpb.ConfState, error) {
	var cs *raftpb.ConfState
	// The library may send to the new member before the call returns.
	if cc.GetType() != raftpb.ConfChangeRemoveNode {
		l.joining = cc.GetNodeId()
	}
	err := l.call("apply change", func() error {
		cs = l.rn.ApplyConfChange(cc)
		return nil
	})
	l.joining = raft.None
	if err != nil {
		return nil, err
	}
	l.setConf(cs)
	return cs, l.observe(nil)
}

// ReadIndex asks the leader for an index that is safe to read at; the answer
// comes in Steps.Reads under the same ctx, or never.
func (l *Loop) ReadIndex(ctx []byte) error {
	m := &raftpb.Message{Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{Data: ctx}}}
	if l.mustHold() {
		l.hold(m)
		return nil
	}
	return l.stepLibrary(m)
}

// mustHold reports whether a read has to wait for the leader's first commit.
func (l *Loop) mustHold() bool {
	return l.prev.state == raft.StateLeader && !l.committedInTerm()
}

func (l *Loop) committedInTerm() bool {
	return l.ownTerm != 0 && l.rn.BasicStatus().GetCommit() >= l.ownTerm
}

func (l *Loop) hold(m *raftpb.Message) {
	if len(l.held) >= maxHeldReads {
		l.reject(m, errors.New("too many reads wait for the leader's first commit"))
		return
	}
	l.held = append(l.held, m)
}

// TransferLeader starts handing leadership to a voter; only at the leader.
func (l *Loop) TransferLeader(to uint64) error {
	if l.prev.state != raft.StateLeader || !slices.Contains(l.conf.GetVoters(), to) {
		return nil
	}
	if err := l.call("transfer leadership", func() error { l.rn.TransferLeader(to); return nil }); err != nil {
		return err
	}
	return l.observe(nil)
}

// ReportUnreachable says that a message to the peer was lost.
func (l *Loop) ReportUnreachable(id uint64) error {
	return l.call("report unreachable", func() error { l.rn.ReportUnreachable(id); return nil })
}

// ReportSnapshot ends the pause that a MsgSnap put on the peer.
func (l *Loop) ReportSnapshot(id uint64, status raft.SnapshotStatus) error {
	return l.call("report snapshot", func() error { l.rn.ReportSnapshot(id, status); return nil })
}

// observe looks at the library after a call: it resets the election timer on
// contact, lets held reads go, and forgets what belongs to a past leadership. m is
// the message that was stepped, or nil.
func (l *Loop) observe(m *raftpb.Message) error {
	was, now := l.prev, l.view()
	l.prev = now
	changed := now.state != was.state || now.term != was.term
	if changed || contact(m, was, now) {
		l.resetTimer()
	}
	if changed {
		l.ownTerm = 0
	}
	if now.state != raft.StateLeader {
		l.held = nil
		return nil
	}
	if len(l.held) == 0 || !l.committedInTerm() {
		return nil
	}
	held := l.held
	l.held = nil
	for _, m := range held {
		if err := l.stepLibrary(m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loop) view() view {
	s := l.rn.BasicStatus()
	return view{state: s.RaftState, term: s.GetTerm(), vote: s.GetVote(), lead: s.Lead, commit: s.GetCommit()}
}

func (l *Loop) setConf(cs *raftpb.ConfState) {
	l.conf = raftpb.ConfState{Voters: slices.Clone(cs.GetVoters()), Learners: slices.Clone(cs.GetLearners())}
	slices.Sort(l.conf.Voters)
	slices.Sort(l.conf.Learners)
}

func (l *Loop) reject(m *raftpb.Message, reason error) {
	if l.cfg.OnReject != nil {
		l.cfg.OnReject(m, reason)
	}
}

// Err gives the error that broke the Loop, nil while it works.
func (l *Loop) Err() error { return l.broken }
