package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/raftlog"
)

// leaderlessElections is how many election timeouts a write waits for a leader, as
// long as a stream that requires one lives without.
const leaderlessElections = 3

// core is the Ready loop with its two workers. The loop is the only goroutine
// that touches the replica; the append worker the only one that writes the
// Raft log; the apply worker the only one that writes the state. They hand
// work over through unbounded queues and never wait for one another, except
// the append worker for the apply worker when a Raft snapshot replaces the
// state (S8).
type core struct {
	replica *replica.Replica
	leader  *leaderWatch
	log     *raftlog.Log
	state   *stateBox
	tick    time.Duration
	// patience bounds a request whose caller has no deadline, as etcd's request
	// timeout does: a proposal that a follower forwarded may be lost silently.
	patience time.Duration
	// leaderless is how long a write waits for a leader; who asks goes on to another
	// member then, which may have one.
	leaderless time.Duration
	send       func([]*raftpb.Message)
	onTick     func(*replica.Replica) error // on the loop, after each tick
	onRole     func(raftloop.Role)          // on the loop; must not block
	applied    func([]state.Result)         // on the apply worker, after each job
	onResults  func([]state.Result) error   // on the apply worker, after each job, before those who wait hear of it
	onHanding  func()                       // on the loop, before the leadership is handed to another member
	replacing  func(next *state.Machine)    // on the apply worker, before anybody sees the state of a Raft snapshot
	replaced   func()                       // ... and after that gave all tables anew
	install    func(*raftpb.Snapshot) (uint64, func() (*state.Machine, error), error)

	loops   loops
	inbox   *queue[func(*replica.Replica) error]
	appends *queue[appendWork]
	applies *queue[applyWork]
	done    chan struct{} // closed when the loop has ended
	purge   purger
	limits  sync.Pool // of timers

	committed atomic.Uint64 // known before any other member or client can hear of it
	told      atomic.Uint64 // up to which onResults was called
}

// appendWork is one thing for the append worker to do.
type appendWork struct {
	job      *replica.AppendJob
	truncate uint64
}

// applyWork is one thing for the apply worker to do.
type applyWork struct {
	job *replica.ApplyJob
	run func() error
}

// run is the loop and its workers; it returns when ctx ends or one of them
// fails, which ends the process (S7).
func (c *core) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(c.loops.lasting(gctx, "ready", c.loop))
	g.Go(c.loops.lasting(gctx, "append", c.appendWorker))
	g.Go(c.loops.lasting(gctx, "apply", c.applyWorker))
	return g.Wait()
}

func (c *core) loop(ctx context.Context) error {
	defer c.leader.stop() // after done: who asks again then does not
	defer close(c.done)
	ticker := time.NewTicker(c.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := c.replica.Tick(); err != nil {
				return err
			}
			if err := c.onTick(c.replica); err != nil {
				return err
			}
		case <-c.inbox.ready:
			for _, fn := range c.inbox.drain() {
				if err := fn(c.replica); err != nil {
					return err
				}
			}
		}
		if err := c.ready(); err != nil {
			return err
		}
	}
}

// ready hands out what the replica wants done until it wants no more.
func (c *core) ready() error {
	for {
		w, ok, err := c.replica.Ready()
		if err != nil || !ok {
			return err
		}
		c.committed.Store(c.replica.Commit())
		if w.Role != nil {
			c.onRole(*w.Role)
		}
		if len(w.Send) > 0 {
			c.send(w.Send)
		}
		for _, j := range w.Appends {
			c.appends.push(appendWork{job: j})
		}
		for _, j := range w.Applies {
			c.applies.push(applyWork{job: j})
		}
	}
}

// post runs fn on the loop, soon. An error of fn ends the process.
func (c *core) post(fn func(*replica.Replica) error) { c.inbox.push(fn) }

// do runs fn on the loop and waits for it.
func (c *core) do(ctx context.Context, fn func(*replica.Replica)) error {
	ran := make(chan struct{})
	c.post(func(r *replica.Replica) error {
		fn(r)
		close(ran)
		return nil
	})
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return errStopping()
	}
}

// behind reports whether something is committed that onResults was not called for.
func (c *core) behind() bool { return c.told.Load() < c.committed.Load() }

// handOver starts handing the leadership to a voter.
func (c *core) handOver(ctx context.Context, to uint64) error {
	var refused error
	if err := c.do(ctx, func(r *replica.Replica) {
		c.onHanding()
		refused = r.TransferLeader(to)
	}); err != nil {
		return err
	}
	return refused
}

// status gives the replica's standing.
func (c *core) status(ctx context.Context, st *replica.Status) error {
	return c.do(ctx, func(r *replica.Replica) { *st = r.Status() })
}

func errStopping() error {
	return fault.Newf(fault.Unreachable, "node", "this member is stopping").WithHint("ask another member")
}

func (c *core) appendWorker(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.appends.ready:
		}
		if err := c.appendAll(ctx, c.appends.drain()); err != nil {
			return err
		}
	}
}

// appendAll writes queued jobs, as many as possible in one synced batch (group
// commit), and reports them in order.
func (c *core) appendAll(ctx context.Context, work []appendWork) error {
	for len(work) > 0 {
		if work[0].truncate > 0 {
			if err := c.log.Truncate(work[0].truncate); err != nil {
				return err
			}
			work = work[1:]
			continue
		}
		n := 1
		for work[0].job.Snapshot == nil && n < len(work) && work[n].job != nil && work[n].job.Snapshot == nil {
			n++
		}
		jobs := work[:n]
		work = work[n:]
		if snap := jobs[0].job.Snapshot; snap != nil {
			if moved, err := c.appendSnapshot(ctx, jobs[0].job, snap); err != nil || !moved {
				return err
			}
		} else if err := c.appendBatch(jobs); err != nil {
			return err
		}
		c.post(func(r *replica.Replica) error {
			for _, w := range jobs {
				if err := r.AppendDone(w.job); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return nil
}

func (c *core) appendBatch(jobs []appendWork) error {
	var b raftlog.Batch
	sync := false
	for _, w := range jobs {
		if es := w.job.Entries; len(es) > 0 {
			// A later job may replace what an earlier one of this batch appends.
			for len(b.Entries) > 0 && b.Entries[len(b.Entries)-1].GetIndex() >= es[0].GetIndex() {
				b.Entries = b.Entries[:len(b.Entries)-1]
			}
			b.Entries = append(b.Entries, es...)
		}
		if w.job.HardState != nil {
			b.HardState = w.job.HardState
		}
		sync = sync || w.job.MustSync
	}
	return c.log.Append(b, sync)
}

// appendSnapshot makes a verified state directory the current one: the batch
// that resets the log carries the pointer to it, then the apply worker, which
// has nothing older left to do, moves over. moved is false when ctx ended first.
func (c *core) appendSnapshot(ctx context.Context, job *replica.AppendJob, snap *raftpb.Snapshot) (moved bool, _ error) {
	n, open, err := c.install(snap)
	if err != nil {
		return false, err
	}
	pos := ident.Position{Term: snap.GetMetadata().GetTerm(), Index: snap.GetMetadata().GetIndex()}
	if err := c.log.Append(raftlog.Batch{HardState: job.HardState, Reset: &raftlog.Reset{Position: pos, State: n}}, true); err != nil {
		return false, err
	}
	done := make(chan struct{})
	c.applies.push(applyWork{run: func() error {
		if err := c.replaceState(open); err != nil {
			return err
		}
		close(done)
		return nil
	}})
	select {
	case <-done:
		return true, nil
	case <-ctx.Done():
		return false, nil
	}
}

// replaceState moves over to the state of a Raft snapshot.
func (c *core) replaceState(open func() (*state.Machine, error)) error {
	err := c.state.replace(func() (*state.Machine, error) {
		next, err := open()
		if err == nil {
			c.replacing(next)
		}
		return next, err
	})
	if err == nil {
		c.replaced()
	}
	return err
}
