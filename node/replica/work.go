package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/raftloop"
)

// Ready gives the work that the events so far ask for, false if there is none.
// It may call callbacks of reads and changes.
func (r *Replica) Ready() (Work, bool, error) {
	if err := r.ask(); err != nil {
		return Work{}, false, err
	}
	s, ok, err := r.loop.Ready()
	if err != nil {
		return Work{}, false, err
	}
	var w Work
	if ok {
		if err := r.take(s, &w); err != nil {
			return Work{}, false, err
		}
	}
	w.Send = append(r.outbox, w.Send...)
	r.outbox = nil
	w.Appends = r.releaseAppends()
	for _, m := range w.Send {
		if m.GetType() == raftpb.MsgSnap {
			r.snapOut[m.GetTo()] = true
		}
	}
	r.traceWork(w)
	if ok {
		r.serve()
	}
	return w, !w.empty(), nil
}

// take turns the loop's steps into work and follows what they say about requests.
func (r *Replica) take(s raftloop.Steps, w *Work) error {
	w.Send = s.Messages
	r.answer(s.Reads)
	if s.Role != nil {
		w.Role = s.Role
		r.changeRole(*s.Role)
	}
	role := r.loop.Role()
	var entries []*raftpb.Entry
	for _, j := range s.Appends {
		r.appends = append(r.appends, j)
		entries = append(entries, j.Entries...)
		if j.Snapshot != nil {
			r.restore = j.Snapshot.GetMetadata().GetIndex()
		}
	}
	r.place(entries, role)
	if s.Apply != nil {
		job, err := r.newApplyJob(s.Apply)
		if err != nil {
			return err
		}
		w.Applies = append(w.Applies, job)
		r.applying++
	}
	return nil
}

// changeRole fails what does not outlive a leader or a term.
func (r *Replica) changeRole(role raftloop.Role) {
	was := r.role
	r.role = role
	r.failReads(role)
	if was.State == raft.StateLeader && (role.State != raft.StateLeader || role.Term != was.Term) {
		clear(r.snapOut)
		clear(r.contact)
		r.conf = confChange{}
		r.failAll(errLeaderChanged("configuration change", role), func(w *waiter) bool { return !w.conf })
	}
}

// releaseAppends gives the appends that may be done now. A snapshot replaces the
// state, so it waits, and what follows it as well, until nothing is being applied.
func (r *Replica) releaseAppends() []*AppendJob {
	n := 0
	for n < len(r.appends) && (r.appends[n].Snapshot == nil || r.applying == 0) {
		n++
	}
	out := r.appends[:n:n]
	r.appends = r.appends[n:]
	return out
}

// newApplyJob decodes committed entries into the state machine's own types, and
// finds who waits for them here.
func (r *Replica) newApplyJob(j *raftloop.ApplyJob) (*ApplyJob, error) {
	out := &ApplyJob{job: j, Entries: make([]state.Entry, len(j.Entries)), changes: make(map[int]*raftpb.ConfChange)}
	if len(r.waiters) > 0 {
		out.waiters = make([]*waiter, len(j.Entries))
	}
	for i, e := range j.Entries {
		se := state.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Type: state.Normal, Data: e.GetData()}
		switch e.GetType() {
		case raftpb.EntryNormal:
			if out.waiters != nil {
				out.waiters[i] = r.waiters[requestOf(e)]
			}
		case raftpb.EntryConfChange:
			cc := &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				return nil, fault.Newf(fault.Corrupt, "read entry", "configuration change at %d: %w", se.Index, err)
			}
			se.Type, se.Data, se.Conf = state.ConfChangeEntry, cc.GetContext(), ownChange(cc)
			out.changes[i] = cc
		case raftpb.EntryConfChangeV2:
			cc := &raftpb.ConfChangeV2{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				return nil, fault.Newf(fault.Corrupt, "read entry", "configuration change at %d: %w", se.Index, err)
			}
			se.Type, se.Data, se.Conf = state.ConfChangeEntry, cc.GetContext(), &state.ConfChange{Type: state.Unsupported}
		default:
			return nil, fault.Newf(fault.Corrupt, "read entry", "entry %d has the unknown type %d", se.Index, e.GetType())
		}
		out.Entries[i] = se
	}
	return out, nil
}

func ownChange(cc *raftpb.ConfChange) *state.ConfChange {
	out := &state.ConfChange{Type: state.Unsupported, NodeID: cc.GetNodeId()}
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode:
		out.Type = state.AddVoter
	case raftpb.ConfChangeAddLearnerNode:
		out.Type = state.AddLearner
	case raftpb.ConfChangeRemoveNode:
		out.Type = state.RemoveNode
	}
	return out
}

// AppendDone reports an append as written (and durable where it had to be), in
// the order in which they were handed out.
func (r *Replica) AppendDone(j *AppendJob) error {
	send, err := r.loop.Appended(j)
	if err != nil {
		return err
	}
	r.outbox = append(r.outbox, send...)
	if j.Snapshot == nil {
		return nil
	}
	index := j.Snapshot.GetMetadata().GetIndex()
	r.applied = max(r.applied, index)
	if r.restore == index {
		r.restore = 0
	}
	r.failAll(fault.Newf(fault.Timeout, "propose",
		"this member was brought up to date by a snapshot: whether the request was applied is not known"),
		func(w *waiter) bool { return false })
	r.serve()
	return nil
}

// ApplyDone reports a job as applied, in the order in which they were handed
// out, with one result for each entry. It puts configuration changes into force
// and answers those who wait.
func (r *Replica) ApplyDone(j *ApplyJob, results []state.Result) error {
	if len(results) != len(j.Entries) {
		return fault.Newf(fault.Internal, "report apply", "%d results for %d entries", len(results), len(j.Entries))
	}
	for i, res := range results {
		if res.Index != j.Entries[i].Index {
			return fault.Newf(fault.Internal, "report apply", "result of entry %d for entry %d", res.Index, j.Entries[i].Index)
		}
		if res.ConfChanged {
			if err := r.applyChange(j.changes[i], res); err != nil {
				return err
			}
		}
	}
	if err := r.loop.Applied(j.job); err != nil {
		return err
	}
	r.applying--
	if n := len(results); n > 0 {
		r.applied = max(r.applied, results[n-1].Index)
	}
	for i, res := range results {
		r.traceApplied(j.Entries[i], res)
		r.resolve(res)
	}
	r.serve()
	return nil
}

// applyChange puts a change into force and compares the configuration that the
// library arrives at with the replicated one.
func (r *Replica) applyChange(cc *raftpb.ConfChange, res state.Result) error {
	if cc == nil {
		return fault.Newf(fault.Internal, "apply change", "entry %d is no simple configuration change", res.Index)
	}
	got, err := r.loop.ApplyConfChange(cc)
	if err != nil {
		return err
	}
	want := &raftpb.ConfState{Voters: res.ConfState.GetVoters(), Learners: res.ConfState.GetLearners()}
	if err := got.Equivalent(want); err != nil {
		return fault.Newf(fault.Different, "apply change",
			"configuration after entry %d: raft has voters %x learners %x, the state has voters %x learners %x",
			res.Index, got.GetVoters(), got.GetLearners(), want.GetVoters(), want.GetLearners())
	}
	return nil
}

// resolve answers the request that an applied entry belongs to, and those that
// had been seen in its place.
func (r *Replica) resolve(res state.Result) {
	if w, ok := r.waiters[res.RequestID]; ok && res.RequestID != 0 {
		r.finish(w, res, res.Err)
	}
	for _, id := range slices.Clone(r.placed[res.Index]) {
		if w, ok := r.waiters[id]; ok {
			r.finish(w, state.Result{}, fault.New(fault.NotLeader, w.kind.String(), errTakenPlace).WithHint("try again"))
		}
	}
	delete(r.placed, res.Index)
}

func (r *Replica) traceApplied(e state.Entry, res state.Result) {
	if r.cfg.Trace == nil {
		return
	}
	line := fmt.Sprintf("applied %d/%d %s#%x", e.Term, e.Index, res.Kind, res.RequestID)
	if res.ConfChanged {
		line += fmt.Sprintf(" voters=%x learners=%x", res.ConfState.GetVoters(), res.ConfState.GetLearners())
	}
	if res.Err != nil {
		line += " refused: " + res.Err.Error()
	}
	r.trace(line)
}
