// Package replica is the single-threaded heart of a node: it turns ticks,
// messages and requests into work (messages to send, writes to the log, entries
// to apply) and finished work into answers. It has no goroutine, no clock and no
// I/O of its own, so that a cluster of replicas runs on virtual time.
//
// Its owner calls it from one goroutine, asks Ready after each event, carries the
// work out (appends in order, applies in order, the two independent of each
// other) and reports each job. Callbacks run inside those calls, on the same
// goroutine, and may call the Replica again; only those that ApplyJob.Answer calls
// run elsewhere.
//
// No request hangs for the Replica's part:
//
//   - a proposal that was dropped fails at once; one whose place in the log went
//     to another entry fails when that entry is applied (Leaderless tells both from
//     those that may yet be applied);
//   - a configuration change fails at once when another one may be pending or
//     this node does not lead, and later when the library replaced it by an empty
//     entry, or when leadership or term changed before it was applied;
//   - a read fails when there is no leader, and when the leader or the term
//     changed under it; one whose request was lost is asked again.
//
// What remains is a proposal that a follower forwarded and that got lost on the
// way: its caller has a deadline and then calls Cancel.
package replica

import (
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/raftloop"
)

// Config parametrises a Replica.
type Config struct {
	ID             uint64
	ElectionTicks  int    // 0: 10
	HeartbeatTicks int    // 0: 1
	Seed           uint64 // of the election jitter
	// Boot is random for each start of a process; the high half of request IDs,
	// so that no two nodes or starts use the same.
	Boot    uint32
	Storage raft.Storage
	Applied uint64 // index of the last entry in the state
	Limits  raftloop.Limits
	Logger  raft.Logger                           // nil: nothing is logged
	Trace   func(line string)                     // nil: no trace
	Reject  func(m *raftpb.Message, reason error) // told of dropped messages; may be nil
}

// Done is told how a request ended. With err == nil the request was applied with
// the result given. Otherwise err is the refusal by the state machine (then
// Result.Index is not 0), or says that the request was not proposed, or that its
// outcome is not known.
type Done func(state.Result, error)

// AppendJob and ApplyJob are the two kinds of local work. See raftloop.
type AppendJob = raftloop.AppendJob

// ApplyJob is a run of committed entries to be applied in order.
type ApplyJob struct {
	Entries []state.Entry
	// changes holds the library's form of each configuration change, by position.
	changes map[int]*raftpb.ConfChange
	waiters []*waiter // of the entries, by position; nil: nobody's, or of a change
	job     *raftloop.ApplyJob
}

// Answer tells those who wait for the job's entries, changes of the configuration
// excepted, how they ended: before ApplyDone is called, and on any goroutine, so
// that an answer need not wait for the Replica's. Their callbacks must be made for
// that, and must not call the Replica. ApplyDone tells whoever is left.
func (j *ApplyJob) Answer(results []state.Result) {
	for i, w := range j.waiters {
		if w != nil && i < len(results) && results[i].RequestID == w.id {
			w.tell(results[i], results[i].Err)
		}
	}
}

// Work is what is to be done now.
type Work struct {
	Role    *raftloop.Role // set when the leader, the term or the role changed
	Send    []*raftpb.Message
	Appends []*AppendJob
	Applies []*ApplyJob
}

func (w Work) empty() bool {
	return w.Role == nil && len(w.Send) == 0 && len(w.Appends) == 0 && len(w.Applies) == 0
}

// Replica is one member of the Raft group. Create it with New.
type Replica struct {
	cfg  Config
	loop *raftloop.Loop

	nextID  uint64
	waiters map[uint64]*waiter
	placed  map[uint64][]uint64 // log index -> requests whose entry was seen there
	conf    confChange
	reads   reads

	ticks   int
	contact map[uint64]int // at the leader: tick at which a member was last known as active

	applied uint64 // reported as done
	role    raftloop.Role

	outbox   []*raftpb.Message
	appends  []*AppendJob // not handed out yet: behind a snapshot that waits for applies
	applying int          // apply jobs handed out and not reported
	snapOut  map[uint64]bool
	restore  uint64 // index of the snapshot being installed; 0: none
}

// New starts a Replica from what the storage holds.
func New(cfg Config) (*Replica, error) {
	if cfg.ElectionTicks == 0 {
		cfg.ElectionTicks = 10
	}
	if cfg.HeartbeatTicks == 0 {
		cfg.HeartbeatTicks = 1
	}
	loop, err := raftloop.New(raftloop.Config{
		ID: cfg.ID, ElectionTicks: cfg.ElectionTicks, HeartbeatTicks: cfg.HeartbeatTicks, Seed: cfg.Seed,
		Storage: cfg.Storage, Applied: cfg.Applied, Limits: cfg.Limits, Logger: cfg.Logger, OnReject: cfg.Reject,
	})
	if err != nil {
		return nil, err
	}
	return &Replica{
		cfg: cfg, loop: loop,
		nextID:  uint64(cfg.Boot) << 32,
		waiters: make(map[uint64]*waiter),
		placed:  make(map[uint64][]uint64),
		snapOut: make(map[uint64]bool),
		contact: make(map[uint64]int),
		applied: cfg.Applied,
		role:    loop.Role(),
	}, nil
}

// Tick is one unit of time.
func (r *Replica) Tick() error {
	r.ticks++
	r.loop.VisitActive(func(id uint64) { r.contact[id] = r.ticks })
	if err := r.loop.Tick(); err != nil {
		return err
	}
	return r.tickReads()
}

// Step takes a message off the network and owns it from then on. Messages that
// make no sense are dropped and given to Config.Reject; an error is fatal. A
// MsgSnap must only be stepped when the files of its snapshot are verified and in
// place, or when WouldRestore says that it will not be used.
func (r *Replica) Step(m *raftpb.Message) error {
	if m.GetType() == raftpb.MsgProp {
		if err := checkForwarded(m); err != nil {
			if r.cfg.Reject != nil {
				r.cfg.Reject(m, err)
			}
			return nil
		}
	}
	return r.loop.Step(m)
}

// Campaign starts an election at once, where this node may.
func (r *Replica) Campaign() error { return r.loop.Campaign() }

// WouldRestore reports whether stepping this MsgSnap could install its snapshot.
func (r *Replica) WouldRestore(m *raftpb.Message) bool { return r.loop.WouldRestore(m) }

// Restoring gives the index of a snapshot that Ready has seen and AppendDone has
// not; 0 if there is none. After Step of a MsgSnap and Ready, 0 means that the
// snapshot was not needed and its files can go.
func (r *Replica) Restoring() uint64 { return r.restore }

// ReportUnreachable says that a message to the peer was lost.
func (r *Replica) ReportUnreachable(id uint64) error { return r.loop.ReportUnreachable(id) }

// ReportSnapshot says how the transfer behind a MsgSnap ended. Only the first
// report for each MsgSnap counts.
func (r *Replica) ReportSnapshot(id uint64, status raft.SnapshotStatus) error {
	if !r.snapOut[id] {
		return nil
	}
	delete(r.snapOut, id)
	return r.loop.ReportSnapshot(id, status)
}

// TransferLeader starts handing leadership to a voter.
func (r *Replica) TransferLeader(to uint64) error {
	if err := r.leading("transfer leadership"); err != nil {
		return err
	}
	p, ok := r.Status().Progress[to]
	if !ok || p.IsLearner {
		return fault.Newf(fault.Refused, "transfer leadership", "member %x is not a voter", to)
	}
	if !p.RecentActive {
		return fault.Newf(fault.Refused, "transfer leadership", "member %x is not in contact", to)
	}
	return r.loop.TransferLeader(to)
}

// leading gives the error for a request that only a leader can serve.
func (r *Replica) leading(op string) error {
	role := r.loop.Role()
	if role.State == raft.StateLeader {
		return nil
	}
	if role.Leader == raft.None {
		return fault.Newf(fault.NotLeader, op, "no leader is known")
	}
	return fault.Newf(fault.NotLeader, op, "member %x leads", role.Leader)
}

// failAll ends every waiter that keep does not spare, in order of their IDs.
func (r *Replica) failAll(err error, keep func(*waiter) bool) {
	for _, id := range slices.Sorted(maps.Keys(r.waiters)) {
		if w, ok := r.waiters[id]; ok && !keep(w) {
			r.finish(w, state.Result{}, err)
		}
	}
}

func (r *Replica) trace(line string) {
	if r.cfg.Trace != nil {
		r.cfg.Trace(line)
	}
}
