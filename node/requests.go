package node

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/clusterapi"
	"github.com/chainfire/cfseed/node/replica"
)

// outcome is what a waiter gets.
type outcome struct {
	res state.Result
	err error
}

// await waits for the outcome of something started on the loop; when the
// caller's context ends first, or the limit is reached, the waiter is cancelled.
func (c *core) await(ctx context.Context, limit *time.Timer, start func(r *replica.Replica, done func(state.Result, error)) uint64) (state.Result, error) {
	ch := make(chan outcome, 1)
	var id uint64
	c.post(func(r *replica.Replica) error {
		id = start(r, func(res state.Result, err error) { ch <- outcome{res, err} }) // on whatever goroutine
		return nil
	})
	select {
	case o := <-ch:
		if o.err == nil {
			o.err = o.res.Err
		}
		return o.res, o.err
	case <-ctx.Done():
	case <-limit.C:
	case <-c.done:
		return state.Result{}, errStopping()
	}
	c.post(func(r *replica.Replica) error { r.Cancel(id); return nil })
	return state.Result{}, fault.New(fault.Timeout, "propose", overdue(ctx)).
		WithHint("the outcome is not known: the entry may yet be committed")
}

// limit gives a timer that fires when a caller was patient for long enough. A
// context with a deadline would say the same, and cost each request 2 µs more.
func (c *core) limit() *time.Timer {
	if t, ok := c.limits.Get().(*time.Timer); ok {
		t.Reset(c.patience)
		return t
	}
	return time.NewTimer(c.patience)
}

func (c *core) free(t *time.Timer) {
	t.Stop()
	c.limits.Put(t)
}

// overdue says why a wait ended: its context or, where that goes on, the limit.
func overdue(ctx context.Context) error {
	return cmp.Or(ctx.Err(), context.DeadlineExceeded)
}

// Propose commits an entry of the cluster's own and returns its result once it is
// applied here.
func (c *core) Propose(ctx context.Context, kind envelope.Kind, body proto.Message) (state.Result, error) {
	return c.ProposeFor(ctx, nil, kind, body)
}

// ProposeFor is Propose for a client. What an election has kept out of the log,
// for certain, goes to the next leader, if that is soon.
func (c *core) ProposeFor(ctx context.Context, client *envelope.Client, kind envelope.Kind, body proto.Message) (state.Result, error) {
	b, err := proto.Marshal(body)
	if err != nil {
		return state.Result{}, fault.New(fault.Usage, "propose", err)
	}
	limit := c.limit()
	defer c.free(limit)
	var since time.Time // of the first try that failed
	for {
		res, err := c.await(ctx, limit, func(r *replica.Replica, done func(state.Result, error)) uint64 {
			return r.ProposeFor(client, kind, b, done)
		})
		if !replica.Leaderless(err) {
			return res, err
		}
		if since.IsZero() {
			since = time.Now()
		}
		left := c.leaderless - time.Since(since)
		if left <= 0 {
			return res, err
		}
		c.leader.wait(ctx, min(left, leaderPause))
		select {
		case <-ctx.Done():
			return res, err
		case <-limit.C:
			return res, err
		case <-c.done:
			return res, errStopping()
		default:
		}
	}
}

// ProposeConf commits a configuration change; only at the leader, one at a time.
func (c *core) ProposeConf(ctx context.Context, change state.ConfChange, kind envelope.Kind, body proto.Message) (state.Result, error) {
	b, err := proto.Marshal(body)
	if err != nil {
		return state.Result{}, fault.New(fault.Usage, "propose", err)
	}
	limit := c.limit()
	defer c.free(limit)
	return c.await(ctx, limit, func(r *replica.Replica, done func(state.Result, error)) uint64 {
		if r.HasPendingConf() {
			done(state.Result{}, fault.New(fault.Refused, kind.String(), clusterapi.ErrChangePending).WithHint("ask again in a moment"))
			return 0
		}
		return r.ProposeConf(change, kind, b, done)
	})
}

// ReadIndex returns once everything committed before the call is applied here
// (Raft thesis, section 6.4).
func (c *core) ReadIndex(ctx context.Context) error {
	return c.readIndex(ctx, func(*replica.Replica) error { return nil })
}

// readIndex is ReadIndex unless begin, which is called right before on the loop,
// refuses.
func (c *core) readIndex(ctx context.Context, begin func(*replica.Replica) error) error {
	limit := c.limit()
	defer c.free(limit)
	ch := make(chan error, 1)
	var id uint64
	c.post(func(r *replica.Replica) error {
		if err := begin(r); err != nil {
			ch <- err
			return nil
		}
		id = r.ReadIndex(func(_ uint64, err error) { ch <- err })
		return nil
	})
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
	case <-limit.C:
	case <-c.done:
		return errStopping()
	}
	c.post(func(r *replica.Replica) error { r.Cancel(id); return nil })
	return fault.New(fault.Timeout, "read", overdue(ctx))
}
