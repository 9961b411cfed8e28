package replica

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/raftloop"
)

// waiter is a request whose caller waits for the outcome.
type waiter struct {
	id    uint64
	kind  envelope.Kind
	done  Done
	told  atomic.Bool // done was called
	conf  bool
	index uint64 // where its entry was seen in the log; 0: not yet
	term  uint64
}

// confChange follows the one configuration change that may be pending at this
// leader. It outlives its waiter.
type confChange struct {
	proposed uint64 // request handed to the library and not seen in the log yet; 0: none
	index    uint64 // a change may be unapplied up to this index
	term     uint64 // of the leadership that index belongs to
}

// Propose asks for an entry of the cluster's own. done is called once, unless Cancel
// comes first; it may be called before Propose returns.
func (r *Replica) Propose(kind envelope.Kind, body []byte, done Done) (requestID uint64) {
	return r.ProposeFor(nil, kind, body, done)
}

// ProposeFor is Propose for a client, whose permissions are checked at apply.
func (r *Replica) ProposeFor(client *envelope.Client, kind envelope.Kind, body []byte, done Done) (requestID uint64) {
	w := r.newWaiter(kind, done)
	if !kind.Known() || kind.IsConfChange() {
		r.finish(w, state.Result{}, fault.Newf(fault.Usage, "propose", "%s is not a normal entry", kind))
		return w.id
	}
	e := envelope.Envelope{Kind: kind, RequestID: w.id, Client: client, Body: body}
	data := e.Append(make([]byte, 0, e.Size()))
	if err := r.loop.Propose(data); err != nil {
		r.finish(w, state.Result{}, r.notProposed(kind, err))
	}
	return w.id
}

// ProposeConf asks for a configuration change, at the leader only. kind and body
// are its context. A second change while one may be pending is refused at once,
// to be tried again.
func (r *Replica) ProposeConf(change state.ConfChange, kind envelope.Kind, body []byte, done Done) (requestID uint64) {
	w := r.newWaiter(kind, done)
	w.conf = true
	if err := r.proposeConf(w, change, body); err != nil {
		r.finish(w, state.Result{}, err)
	}
	return w.id
}

func (r *Replica) proposeConf(w *waiter, change state.ConfChange, body []byte) error {
	cc, err := libraryChange(change)
	if err != nil {
		return err
	}
	if !w.kind.Known() || !w.kind.IsConfChange() {
		return fault.Newf(fault.Usage, "propose", "%s is not a configuration change", w.kind)
	}
	if err := r.leading(w.kind.String()); err != nil {
		return err
	}
	if r.HasPendingConf() {
		return errConfPending(w.kind)
	}
	if change.Type == state.AddVoter {
		if err := r.mayPromote(w.kind, change.NodeID); err != nil {
			return err
		}
	}
	cc.Context = envelope.Envelope{Kind: w.kind, RequestID: w.id, Body: body}.Append(nil)
	if err := r.loop.ProposeConfChange(cc); err != nil {
		return r.notProposed(w.kind, err)
	}
	r.conf.proposed = w.id
	return nil
}

// mayPromote refuses what the library accepts and then stops committing for:
// adding a voter that is no learner yet, promoting a learner that is not
// replicating or not in contact, and a quorum that is not there afterwards.
func (r *Replica) mayPromote(kind envelope.Kind, id uint64) error {
	s := r.Status()
	p, ok := s.Progress[id]
	switch {
	case !ok || !p.IsLearner:
		return fault.Newf(fault.Refused, kind.String(), "member %x is not a learner", id).
			WithHint("a voter is added as a learner and promoted when it is caught up")
	case !p.RecentActive || p.State != "StateReplicate":
		return fault.Newf(fault.Refused, kind.String(), "learner %x is not replicating (%s, match %d, in contact: %t)",
			id, p.State, p.Match, p.RecentActive).WithHint("wait until it is caught up")
	}
	active := 1 // the learner
	for _, v := range s.Voters {
		if v == s.ID || s.Progress[v].RecentActive {
			active++
		}
	}
	if all := len(s.Voters) + 1; active <= all/2 {
		return fault.Newf(fault.Refused, kind.String(), "only %d of %d voters would be in contact", active, all).
			WithHint("bring the other voters back first")
	}
	return nil
}

// libraryChange gives the library's form of a simple change.
func libraryChange(c state.ConfChange) (*raftpb.ConfChange, error) {
	cc := &raftpb.ConfChange{NodeId: proto.Uint64(c.NodeID)}
	switch c.Type {
	case state.AddVoter:
		cc.Type = raftpb.ConfChangeAddNode.Enum()
	case state.AddLearner:
		cc.Type = raftpb.ConfChangeAddLearnerNode.Enum()
	case state.RemoveNode:
		cc.Type = raftpb.ConfChangeRemoveNode.Enum()
	default:
		return nil, fault.Newf(fault.Usage, "propose", "only simple configuration changes are supported")
	}
	if c.NodeID == raft.None || raft.IsLocalMsgTarget(c.NodeID) {
		return nil, fault.Newf(fault.Usage, "propose", "member ID %x is out of range", c.NodeID)
	}
	return cc, nil
}

// ErrConfPending says that a configuration change was refused because another
// one may be pending; it is worth trying again.
var ErrConfPending = errors.New("another configuration change is pending")

func errConfPending(kind envelope.Kind) error {
	return fault.New(fault.Refused, kind.String(), ErrConfPending).WithHint("try again when it is done")
}

// HasPendingConf reports whether a configuration change may be pending at this
// leader, so that another one would be refused. False at any other node.
func (r *Replica) HasPendingConf() bool {
	role := r.loop.Role()
	if role.State != raft.StateLeader {
		return false
	}
	// Until the first entry of its own term is in the log, a leader does not know
	// what it took over.
	return r.conf.proposed != 0 || r.conf.term != role.Term || r.conf.index > r.applied
}

// Cancel forgets a request; its done will not be called, but by an ApplyJob.Answer
// that has its entry already. The entry may still be applied.
func (r *Replica) Cancel(requestID uint64) {
	if w, ok := r.waiters[requestID]; ok {
		r.forget(w)
	}
	r.reads.cancel(requestID)
}

func (r *Replica) newWaiter(kind envelope.Kind, done Done) *waiter {
	r.nextID++
	w := &waiter{id: r.nextID, kind: kind, done: done}
	r.waiters[w.id] = w
	return w
}

func (r *Replica) forget(w *waiter) {
	delete(r.waiters, w.id)
	if w.index == 0 {
		return
	}
	ids := slices.DeleteFunc(r.placed[w.index], func(id uint64) bool { return id == w.id })
	if len(ids) == 0 {
		delete(r.placed, w.index)
	} else {
		r.placed[w.index] = ids
	}
}

func (r *Replica) finish(w *waiter, res state.Result, err error) {
	r.forget(w)
	w.tell(res, err)
}

// tell calls done, once.
func (w *waiter) tell(res state.Result, err error) {
	if w.done != nil && w.told.CompareAndSwap(false, true) {
		w.done(res, err)
	}
}

// Why a request was not applied, for certain, that another leader may take.
var (
	errNoLeader   = errors.New("no leader")
	errHandedOver = errors.New("leadership is being handed over")
	errTakenPlace = errors.New("the leader changed and another entry took the place of the request")
)

// Leaderless reports whether a proposal ended for want of a leader that lasts. It
// was not applied and never will be, so that it may be made again.
func Leaderless(err error) bool {
	return errors.Is(err, errNoLeader) || errors.Is(err, errHandedOver) || errors.Is(err, errTakenPlace)
}

// notProposed classes an error of the library's proposal calls.
func (r *Replica) notProposed(kind envelope.Kind, err error) error {
	if !errors.Is(err, raft.ErrProposalDropped) {
		return err
	}
	s := r.loop.Status()
	why := errors.New("too many bytes are waiting to be committed")
	switch {
	case s.Leader == raft.None:
		why = errNoLeader
	case s.Transferee != raft.None:
		why = errHandedOver
	}
	return fault.Newf(fault.Unreachable, kind.String(), "%w: %w", why, err).WithHint("try again")
}

// place notes where the entries of waiting requests stand in the log, and finds
// out whether a proposed change was replaced by an empty entry.
func (r *Replica) place(entries []*raftpb.Entry, role raftloop.Role) {
	found := false
	for _, e := range entries {
		id := requestOf(e)
		if id != 0 && id == r.conf.proposed {
			found = true
			r.conf.index = e.GetIndex()
		}
		if w, ok := r.waiters[id]; ok && w.index == 0 {
			w.index, w.term = e.GetIndex(), e.GetTerm()
			r.placed[w.index] = append(r.placed[w.index], id)
		}
	}
	r.takeOver(role)
	if r.conf.proposed == 0 {
		return
	}
	w := r.waiters[r.conf.proposed]
	r.conf.proposed = 0
	if !found && w != nil {
		r.finish(w, state.Result{}, errConfPending(w.kind))
	}
}

// takeOver notes, in the first steps of a leadership, that a change inherited
// from an earlier leader may be pending.
func (r *Replica) takeOver(role raftloop.Role) {
	own := r.loop.OwnTerm()
	if role.State == raft.StateLeader && own != 0 && r.conf.term != role.Term {
		r.conf.term = role.Term
		r.conf.index = own - 1
	}
}

// requestOf gives the request that an entry answers, 0 when nobody can wait for
// it. Bytes that can not be read are judged when the entry is applied.
func requestOf(e *raftpb.Entry) uint64 {
	data := e.GetData()
	if e.GetType() == raftpb.EntryConfChange {
		var cc raftpb.ConfChange
		if proto.Unmarshal(data, &cc) != nil {
			return 0
		}
		data = cc.GetContext()
	}
	env, err := envelope.Decode(data)
	if err != nil {
		return 0
	}
	return env.RequestID
}

// checkForwarded accepts what a follower may propose through this node.
func checkForwarded(m *raftpb.Message) error {
	for _, e := range m.GetEntries() {
		env, err := envelope.Decode(e.GetData())
		if err != nil {
			return err
		}
		if e.GetType() != raftpb.EntryNormal || env.Kind.IsConfChange() {
			return fmt.Errorf("forwarded proposal of a %s", env.Kind)
		}
	}
	return nil
}
