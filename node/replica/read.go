package replica

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/raftloop"
)

// reads are the linearizable reads under way. One request to the leader is out
// at a time and serves everybody who called before it went out; who comes while
// it is out goes with the next one. A request that got no answer within the
// election timeout goes out again under a new context, so that a late answer to
// the first can not be taken for the second's.
type reads struct {
	waiting []reader
	asked   []reader // behind the request that is out
	ctx     uint64   // its context; 0: none is out
	age     int      // ticks since it went out
	ready   []answered
}

type reader struct {
	id   uint64
	role raftloop.Role // when it called
	done func(index uint64, err error)
}

// outlives reports whether the leader that the reader called under still leads.
func (rd reader) outlives(role raftloop.Role) bool {
	return rd.role.Leader == role.Leader && rd.role.Term == role.Term
}

// answered are readers that wait for an index to be applied.
type answered struct {
	index   uint64
	readers []reader
}

// ReadIndex calls done with an index such that a read of the state at or after
// it is linearizable; that index is applied here by then. It returns an ID for
// Cancel.
func (r *Replica) ReadIndex(done func(index uint64, err error)) (requestID uint64) {
	r.nextID++
	id := r.nextID
	if err := r.loop.Err(); err != nil {
		done(0, err)
		return id
	}
	role := r.loop.Role()
	if role.Leader == raft.None {
		done(0, fault.Newf(fault.Unreachable, "read", "no leader").WithHint("try again"))
		return id
	}
	r.reads.waiting = append(r.reads.waiting, reader{id, role, done})
	return id
}

// ask sends the next request for those who wait, if none is out.
func (r *Replica) ask() error {
	q := &r.reads
	if q.ctx != 0 || len(q.waiting)+len(q.asked) == 0 {
		return nil
	}
	q.asked = append(q.asked, q.waiting...)
	q.waiting, q.age = nil, 0
	r.nextID++
	q.ctx = r.nextID
	return r.loop.ReadIndex(binary.LittleEndian.AppendUint64(nil, q.ctx))
}

func (r *Replica) tickReads() error {
	if r.reads.ctx == 0 {
		return nil
	}
	if r.reads.age++; r.reads.age >= r.cfg.ElectionTicks {
		r.reads.ctx = 0
	}
	return nil
}

// answer takes the leader's answers; those of past requests are ignored.
func (r *Replica) answer(states []raft.ReadState) {
	q := &r.reads
	for _, s := range states {
		if q.ctx == 0 || len(s.RequestCtx) != 8 || binary.LittleEndian.Uint64(s.RequestCtx) != q.ctx {
			continue
		}
		q.ready = append(q.ready, answered{s.Index, q.asked})
		q.ctx, q.asked = 0, nil
	}
}

// serve calls the readers whose index is applied.
func (r *Replica) serve() {
	var now []answered
	r.reads.ready = slices.DeleteFunc(r.reads.ready, func(a answered) bool {
		if a.index > r.applied {
			return false
		}
		now = append(now, a)
		return true
	})
	for _, a := range now {
		for _, rd := range a.readers {
			rd.done(a.index, nil)
		}
	}
}

// failReads ends the reads that have no answer yet from a leader that is gone.
// Those that came after the change, but before it was handed out, are asked.
func (r *Replica) failReads(role raftloop.Role) {
	q := &r.reads
	all := slices.Concat(q.asked, q.waiting)
	q.asked, q.waiting, q.ctx = nil, nil, 0
	for _, rd := range all {
		if rd.outlives(role) {
			q.waiting = append(q.waiting, rd)
		}
	}
	for _, rd := range all {
		if !rd.outlives(role) {
			rd.done(0, errLeaderChanged("read", role))
		}
	}
}

func (q *reads) cancel(id uint64) {
	drop := func(rs []reader) []reader {
		return slices.DeleteFunc(rs, func(rd reader) bool { return rd.id == id })
	}
	q.waiting, q.asked = drop(q.waiting), drop(q.asked)
	for i := range q.ready {
		q.ready[i].readers = drop(q.ready[i].readers)
	}
}

func errLeaderChanged(op string, role raftloop.Role) error {
	return fault.Newf(fault.NotLeader, op, "the leader changed (term %d)", role.Term).WithHint("try again")
}
