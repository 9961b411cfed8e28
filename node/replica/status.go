package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// Progress is what the leader knows of a member's log.
type Progress struct {
	Match, Next  uint64
	State        string // StateProbe, StateReplicate or StateSnapshot
	RecentActive bool   // heard of within about an election timeout
	IsLearner    bool
}

// Status is a view of the Replica.
type Status struct {
	ID, Leader, Term, Vote uint64
	State                  string // StateFollower, StateCandidate, StatePreCandidate or StateLeader
	Commit                 uint64
	Applied                uint64 // reported by ApplyDone
	First, Last            uint64 // of the log
	Voters, Learners       []uint64
	Transferee             uint64              // leadership is being handed to; 0: nobody
	Progress               map[uint64]Progress // at the leader, itself included; else nil
}

// IsLeader reports whether the node leads.
func (s Status) IsLeader() bool { return s.Leader == s.ID && s.ID != raft.None }

// Status gives the present view. First is 0 when the log can not be read.
func (r *Replica) Status() Status {
	first, err := r.cfg.Storage.FirstIndex()
	if err != nil {
		first = 0
	}
	l := r.loop.Status()
	s := Status{
		ID: r.cfg.ID, Leader: l.Leader, Term: l.Term, Vote: l.Vote, State: l.State.String(),
		Commit: l.Commit, Applied: r.applied, First: first, Last: l.Last,
		Voters: l.Voters, Learners: l.Learners, Transferee: l.Transferee,
	}
	if l.Progress != nil {
		s.Progress = make(map[uint64]Progress, len(l.Progress))
		for id, p := range l.Progress {
			s.Progress[id] = Progress{Match: p.Match, Next: p.Next, State: p.State.String(), RecentActive: p.RecentActive || r.inContact(id), IsLearner: p.IsLearner}
		}
	}
	return s
}

// inContact bridges the moments after a check of the quorum, when the library
// takes every member for silent: who asks in step with the check would never
// find one in contact.
func (r *Replica) inContact(id uint64) bool {
	at, seen := r.contact[id]
	return seen && r.ticks-at <= r.cfg.ElectionTicks/2
}

// Leader gives the member that leads, 0 when none is known.
func (r *Replica) Leader() uint64 { return r.loop.Role().Leader }

// Leads reports whether this node leads, and the term. It does not allocate.
func (r *Replica) Leads() (term uint64, leads bool) {
	role := r.loop.Role()
	return role.Term, role.State == raft.StateLeader
}

// Commit gives how far the log is committed, as far as this node knows. It does
// not allocate.
func (r *Replica) Commit() uint64 { return r.loop.Commit() }

// traceWork writes down what Ready handed out.
func (r *Replica) traceWork(w Work) {
	if r.cfg.Trace == nil {
		return
	}
	if w.Role != nil {
		r.trace(fmt.Sprintf("role %s leader=%x term=%d", w.Role.State, w.Role.Leader, w.Role.Term))
	}
	for _, m := range w.Send {
		r.trace("send " + raft.DescribeMessage(m, DescribeData))
	}
	for _, j := range w.Appends {
		r.trace(describeAppend(j))
	}
	for _, j := range w.Applies {
		if n := len(j.Entries); n > 0 {
			r.trace(fmt.Sprintf("apply %d..%d", j.Entries[0].Index, j.Entries[n-1].Index))
		}
	}
}

func describeAppend(j *AppendJob) string {
	line := fmt.Sprintf("append sync=%t", j.MustSync)
	if j.HardState != nil {
		line += " " + raft.DescribeHardState(j.HardState)
	}
	if j.Snapshot != nil {
		line += " snapshot " + raft.DescribeSnapshot(j.Snapshot)
	}
	for _, e := range j.Entries {
		line += fmt.Sprintf(" %d/%d", e.GetTerm(), e.GetIndex())
		if e.GetType() != raftpb.EntryNormal {
			line += "(change)"
		}
	}
	return line
}

// DescribeData gives an entry's data in a trace: kind, request and size.
func DescribeData(data []byte) string {
	if len(data) == 0 {
		return "empty"
	}
	env, err := envelope.Decode(data)
	if err != nil {
		return fmt.Sprintf("%d bytes", len(data))
	}
	return fmt.Sprintf("%s#%x+%d", env.Kind, env.RequestID, len(env.Body))
}
