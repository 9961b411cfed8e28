package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// This file is how a round knows that its source lives, and how the source
// knows that somebody wants the lease.

// allow sets how long the source may be silent: the idle timeout, if it answers
// when it is asked; less where nothing has come from it yet and others wait.
func (r *round) allow() {
	limit := r.cfg.IdleTimeout
	within := connectWithin(r.cfg.IdleTimeout)
	switch {
	case !r.contacted:
		limit = min(limit, r.cfg.ContactWithin, max(within, r.cfg.ContactWithin/time.Duration(len(r.endpoints))))
	case r.wentHome && r.source == r.home && r.meta.LeaseID == 0:
		limit = min(limit, within)
	}
	r.limit.Store(int64(limit))
}

// watch ends the round when nothing came for too long; its own goroutine. After
// a third of the idle timeout the source is asked whether it is there: one that
// is only slow answers. If it does not, the line has swallowed what was on it,
// and new connections are the sooner way: TCP waits longer and longer before it
// sends again, so that old ones stay silent for about as long as the line was
// away.
func (r *round) watch(ctx context.Context) error {
	started := time.Now()
	op := "pull from " + r.addr
	silent := make(chan time.Duration, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for asked := (time.Time{}); ; {
		limit := time.Duration(r.limit.Load())
		timer := time.NewTimer(pollEvery(min(limit, r.cfg.IdleTimeout/3)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case since := <-silent:
			timer.Stop()
			if r.idle.since() >= since {
				return fault.Newf(fault.Timeout, op, "no byte for %s, and no answer", since.Round(time.Millisecond))
			}
		case <-timer.C:
			idle := r.idle.since()
			if min(idle, time.Since(started)) >= limit || idle >= r.until {
				return fault.Newf(fault.Timeout, op, "no byte for %s", limit)
			}
			if idle >= r.cfg.IdleTimeout/3 && time.Since(asked) >= r.cfg.IdleTimeout/3 {
				asked = time.Now()
				wg.Go(func() {
					if !r.allAnswer(ctx) {
						select {
						case silent <- idle:
						default: // what an earlier one found is not heard yet
						}
					}
				})
			}
		}
	}
}

// allAnswer asks for a sign of life over every connection in use: one of them
// that is dead holds up what is left.
func (r *round) allAnswer(ctx context.Context) bool {
	clients := *r.asked.Load()
	answers := make(chan bool, len(clients))
	for _, c := range clients {
		go func() { answers <- r.answers(ctx, c) }()
	}
	all := true
	for range clients {
		all = <-answers && all
	}
	return all
}

// answers asks the source for a sign of life, whatever it may be.
func (r *round) answers(ctx context.Context, client chainfirev1.SeedClient) bool {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.IdleTimeout/12)
	defer cancel()
	_, err := client.SeedQueue(ctx, &chainfirev1.SeedQueueRequest{})
	err = peerFault(ctx, "ask the source", err)
	return err == nil || !transient(err)
}

// ping notes that the source answers, whatever it answers, and tells of its
// queue: soon at first, then often enough that it is not taken for dead, nor for
// one that was never there.
func (r *round) ping(ctx context.Context) {
	interval := max(min(r.cfg.IdleTimeout/6, r.cfg.ContactWithin/3), time.Millisecond)
	for pause := min(interval, time.Second); sleep(ctx, pause) == nil; pause = interval {
		pctx, cancel := context.WithTimeout(ctx, interval)
		q, err := r.client.SeedQueue(pctx, &chainfirev1.SeedQueueRequest{})
		cancel()
		if err = peerFault(ctx, "ping", err); err == nil || !transient(err) {
			r.idle.touch()
		}
		if q.GetWaiting() > 0 && q.GetFree() == 0 {
			r.queued.Store(time.Now().UnixNano())
			r.tell(Event{Kind: EventQueued, Source: r.addr, Served: int(q.GetSlots()), Waiting: int(q.GetWaiting())})
		}
	}
}

// renew keeps the lease alive while the round lasts, and ends it when the lease
// has ended.
func (r *round) renew(ctx context.Context) {
	ttl := r.meta.LeaseTTL
	if ttl <= 0 {
		return
	}
	for sleep(ctx, renewEvery(ttl)) == nil {
		rctx, cancel := context.WithTimeout(ctx, renewEvery(ttl))
		resp, err := r.client.RenewLease(rctx, &chainfirev1.RenewLeaseRequest{LeaseId: r.meta.LeaseID,
			TtlMs: uint64(r.cfg.TTL / time.Millisecond), CapBytes: r.cfg.CapBytes})
		cancel()
		if err == nil && resp.GetTtlMs() > 0 {
			ttl = milliseconds(resp.GetTtlMs())
		}
		if err = peerFault(ctx, "renew lease", err); fault.Is(err, fault.LeaseLost) {
			r.end(err)
			return
		}
	}
}
