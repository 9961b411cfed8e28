package raftloop

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/chainfire/cfseed/internal/fault"
)

// Steps is what the events since the last call ask for. Messages can go at once
// and in any order with the jobs; jobs of one kind are done in order, each
// reported when it is done.
type Steps struct {
	Role     *Role // set when the role changed
	Reads    []raft.ReadState
	Messages []*raftpb.Message
	Appends  []*AppendJob // at most two: a snapshot, then what follows it
	Apply    *ApplyJob    // nil: none
}

// Role is who leads, as this node sees it.
type Role struct {
	Leader uint64 // 0: none known
	Term   uint64
	State  raft.StateType
}

// AppendJob is one write to the log. Entries replace whatever the log holds from
// the first one's index on. A job with a Snapshot has no entries: the log is
// dropped and begins after the snapshot. The slices belong to the library: read
// only.
type AppendJob struct {
	Entries   []*raftpb.Entry
	HardState *raftpb.HardState // nil: unchanged
	Snapshot  *raftpb.Snapshot  // nil: none
	MustSync  bool              // durable before it is reported done
	responses []*raftpb.Message
}

// ApplyJob is a run of committed entries, all of them durable in the log.
type ApplyJob struct {
	Entries  []*raftpb.Entry
	response []*raftpb.Message
}

// Ready gives the steps that the events so far ask for, false if there are none.
func (l *Loop) Ready() (Steps, bool, error) {
	if l.broken != nil {
		return Steps{}, false, l.broken
	}
	var s Steps
	if !l.rn.HasReady() {
		return s, false, nil
	}
	var rd raft.Ready
	if err := l.call("ready", func() error { rd = l.rn.Ready(); return nil }); err != nil {
		return s, false, err
	}
	s.Reads = rd.ReadStates
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			s.Appends = newAppendJobs(m, rd.MustSync)
			l.appends = append(l.appends, s.Appends...)
			for _, j := range s.Appends {
				l.appended(j)
			}
		case raft.LocalApplyThread:
			s.Apply = &ApplyJob{Entries: m.GetEntries(), response: m.GetResponses()}
			l.applies = append(l.applies, s.Apply)
		default:
			s.Messages = append(s.Messages, m)
		}
	}
	if role := l.currentRole(); role != l.role {
		l.role = role
		s.Role = &role
	}
	return s, true, nil
}

// newAppendJobs gives the jobs of one MsgStorageAppend. A commit index alone need
// not be durable, not even before the responses: they stand for entries and
// votes, which were synced before.
func newAppendJobs(m *raftpb.Message, mustSync bool) []*AppendJob {
	j := &AppendJob{Entries: m.GetEntries(), Snapshot: m.GetSnapshot(), MustSync: mustSync, responses: m.GetResponses()}
	if hs := (&raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}); !raft.IsEmptyHardState(hs) {
		j.HardState = hs
	}
	if j.Snapshot == nil {
		return []*AppendJob{j}
	}
	j.MustSync = true
	if len(j.Entries) == 0 {
		return []*AppendJob{j}
	}
	first := &AppendJob{Snapshot: j.Snapshot, MustSync: true}
	if j.HardState != nil {
		first.HardState = &raftpb.HardState{Term: m.Term, Vote: m.Vote,
			Commit: new(min(m.GetCommit(), j.Snapshot.GetMetadata().GetIndex()))}
	}
	j.Snapshot = nil
	return []*AppendJob{first, j}
}

// appended keeps track of the log's end and of the leader's first own entry.
func (l *Loop) appended(j *AppendJob) {
	if j.Snapshot != nil {
		l.last = j.Snapshot.GetMetadata().GetIndex()
		l.setConf(j.Snapshot.GetMetadata().GetConfState())
	}
	if len(j.Entries) == 0 {
		return
	}
	l.last = j.Entries[len(j.Entries)-1].GetIndex()
	if l.prev.state != raft.StateLeader || l.ownTerm != 0 {
		return
	}
	i := slices.IndexFunc(j.Entries, func(e *raftpb.Entry) bool { return e.GetTerm() == l.prev.term })
	if i >= 0 {
		l.ownTerm = j.Entries[i].GetIndex()
	}
}

func (l *Loop) currentRole() Role {
	return Role{Leader: l.prev.lead, Term: l.prev.term, State: l.prev.state}
}

// Appended reports a job as done, in the order in which jobs were handed out. It
// gives the messages that may be sent now.
func (l *Loop) Appended(j *AppendJob) ([]*raftpb.Message, error) {
	if len(l.appends) == 0 || l.appends[0] != j {
		return nil, errOrder("append")
	}
	l.appends = l.appends[1:]
	var out []*raftpb.Message
	for _, m := range j.responses {
		if m.GetTo() != l.cfg.ID {
			out = append(out, m)
			continue
		}
		if err := l.stepLibrary(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Applied reports a job as done, in the order in which jobs were handed out.
func (l *Loop) Applied(j *ApplyJob) error {
	if len(l.applies) == 0 || l.applies[0] != j {
		return errOrder("apply")
	}
	l.applies = l.applies[1:]
	for _, m := range j.response {
		if err := l.stepLibrary(m); err != nil {
			return err
		}
	}
	return nil
}

// MergeAppends gives one job that has the effect of all, in their order; an
// executor writes it with one sync and then reports each of them as done. It
// carries no responses of its own and must not be reported itself.
func MergeAppends(jobs []*AppendJob) *AppendJob {
	out := &AppendJob{}
	for _, j := range jobs {
		if j.Snapshot != nil {
			out.Snapshot, out.Entries = j.Snapshot, nil
		}
		if len(j.Entries) > 0 {
			first := j.Entries[0].GetIndex()
			keep := len(out.Entries)
			for keep > 0 && out.Entries[keep-1].GetIndex() >= first {
				keep--
			}
			out.Entries = append(out.Entries[:keep:keep], j.Entries...)
		}
		if j.HardState != nil {
			out.HardState = j.HardState
		}
		out.MustSync = out.MustSync || j.MustSync
	}
	return out
}

// Status is a view of the node. Progress is set at the leader alone.
type Status struct {
	Role
	Vote, Commit, Applied, Last uint64
	Transferee                  uint64 // leadership is being handed to; 0: nobody
	Voters, Learners            []uint64
	Progress                    map[uint64]tracker.Progress
}

// Status gives the present view.
func (l *Loop) Status() Status {
	b := l.rn.BasicStatus()
	s := Status{
		Role: l.currentRole(), Vote: b.GetVote(), Commit: b.GetCommit(), Applied: b.Applied, Last: l.last,
		Transferee: b.LeadTransferee,
		Voters:     slices.Clone(l.conf.GetVoters()), Learners: slices.Clone(l.conf.GetLearners()),
	}
	if s.State == raft.StateLeader {
		s.Progress = make(map[uint64]tracker.Progress)
		l.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { s.Progress[id] = p })
	}
	return s
}

// VisitActive calls fn for each member that the leader has heard of since its
// last check of the quorum, at which the library forgets all of them.
func (l *Loop) VisitActive(fn func(id uint64)) {
	if l.prev.state != raft.StateLeader {
		return
	}
	l.rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if p.RecentActive {
			fn(id)
		}
	})
}

// Role gives who leads at present, which Ready may not have told yet.
func (l *Loop) Role() Role { return l.currentRole() }

// Commit gives how far the log is committed, as far as this node knows.
func (l *Loop) Commit() uint64 { return l.prev.commit }

// OwnTerm gives the index of the first entry of this leader's own term, 0 while
// none was handed out or this node does not lead.
func (l *Loop) OwnTerm() uint64 { return l.ownTerm }

// WouldRestore reports whether stepping a MsgSnap could install its snapshot,
// so that its files are worth fetching.
func (l *Loop) WouldRestore(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgSnap && l.check(m) == nil && m.GetTerm() >= l.prev.term &&
		m.GetSnapshot().GetMetadata().GetIndex() > l.rn.BasicStatus().GetCommit()
}

// errOrder is the invariant that jobs are reported in order.
func errOrder(kind string) error {
	return fault.Newf(fault.Internal, "report "+kind, "jobs were reported out of order")
}
