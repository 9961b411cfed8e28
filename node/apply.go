package node

import (
	"context"
	"sync"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/replica"
)

// applyWorker applies what is committed, in order, and removes compacted
// history in small steps between, until none is left.
func (c *core) applyWorker(ctx context.Context) error {
	always := make(chan struct{})
	close(always)
	var purging chan struct{} // always ready while there is history to remove
	for {
		if purging = nil; c.purge.due(c.state.machine()) {
			purging = always
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.applies.ready:
		case <-purging:
		}
		for _, w := range c.applies.drain() {
			if ctx.Err() != nil {
				return nil
			}
			if err := c.apply(w); err != nil {
				return err
			}
		}
		if err := c.purge.step(c.state.machine()); err != nil {
			return err
		}
	}
}

func (c *core) apply(w applyWork) error {
	if w.run != nil {
		return w.run()
	}
	return c.applyJob(w.job)
}

func (c *core) applyJob(job *replica.ApplyJob) error {
	m := c.state.machine()
	results := make([]state.Result, 0, len(job.Entries))
	for _, e := range job.Entries {
		res, err := m.Apply(e)
		if err != nil {
			return err
		}
		results = append(results, res)
	}
	c.applied(results)
	if err := c.onResults(results); err != nil {
		return err
	}
	if n := len(results); n > 0 {
		c.told.Store(results[n-1].Index)
	}
	// What a caller has the loop do next comes after this.
	c.post(func(r *replica.Replica) error { return r.ApplyDone(job, results) })
	job.Answer(results)
	return nil
}

// purgeSteps bounds the writes of compacted history removed at a time.
const purgeSteps = 256

// purger follows how far compacted history is removed. due and step belong to
// the apply worker.
type purger struct {
	mu      sync.Mutex
	fed     int64 // watches need history after this revision
	held    bool  // something was due but for them
	of      *state.Machine
	rows    int64         // the writes before this revision are gone
	done    int64         // ... and what it has replaced itself
	changed chan struct{} // closed and replaced when done rises; nil: nobody waits
}

// due reports whether the machine has history to remove.
func (p *purger) due(m *state.Machine) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	to := m.CompactRevision()
	if p.of == m && to <= p.done {
		return false
	}
	needs := to - 1 // watches may ask for a write and for the version before it
	if p.of == m && to <= p.rows {
		needs = to
	}
	p.held = needs > p.fed
	return !p.held
}

// feed says that watches have everything up to the revision, and reports
// whether that is what a purge was waiting for.
func (p *purger) feed(rev int64) (due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fed = rev
	due, p.held = p.held, false
	return due
}

// fed is called by the watches.
func (c *core) fed(rev int64) {
	if c.purge.feed(rev) {
		c.applies.push(applyWork{run: func() error { return nil }}) // looks again
	}
}

// step removes a little, if anything is due.
func (p *purger) step(m *state.Machine) error {
	if !p.due(m) {
		return nil
	}
	upTo := m.CompactRevision()
	p.mu.Lock()
	last := p.of == m && upTo <= p.rows
	p.mu.Unlock()
	purge := m.Purge
	if last {
		purge = m.PurgeLast
	}
	more, err := purge(purgeSteps)
	if err != nil || more {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !last && upTo > 0 {
		if p.of != m {
			p.done = 0
		}
		p.of, p.rows = m, upTo
		return nil
	}
	p.of, p.rows, p.done = m, upTo, upTo
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
	return nil
}

// wait gives how far the machine's history is removed, and what is closed when that
// rises. What was removed of the machine before says nothing.
func (p *purger) wait(m *state.Machine) (done int64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	if p.of != m {
		return 0, p.changed
	}
	return p.done, p.changed
}

// waitPurged returns when all that no revision from this one on shows is off this
// member.
func (c *core) waitPurged(ctx context.Context, revision int64) error {
	for {
		done, changed := c.purge.wait(c.state.machine())
		if done >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "compact", ctx.Err()).WithHint("history goes on being removed in the background")
		case <-c.done:
			return errStopping()
		}
	}
}
