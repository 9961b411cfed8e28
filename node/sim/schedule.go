package sim

import (
	"container/heap"
	"errors"
	"iter"
)

// Units of virtual time. A unit stands for a millisecond where a duration is
// asked for.
const (
	Tick   = 100 // of the Raft clock
	Second = 1000
)

// event is something that happens at a time; ties go by the order of creation.
type event struct {
	at  int64
	seq uint64
	fn  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// after makes fn happen in d units.
func (c *Cluster) after(d int64, fn func()) {
	c.seq++
	heap.Push(&c.queue, event{c.now + d, c.seq, fn})
}

// between draws a delay from lo to hi units.
func (c *Cluster) between(lo, hi int64) int64 { return lo + c.rng.Int64N(hi-lo+1) }

// chance is true in percent of a hundred cases.
func (c *Cluster) chance(percent int) bool { return percent > 0 && c.rng.IntN(100) < percent }

// RunFor lets units of time pass.
func (c *Cluster) RunFor(units int64) {
	end := c.now + units
	for len(c.queue) > 0 && c.queue[0].at <= end {
		e := heap.Pop(&c.queue).(event)
		c.now = e.at
		e.fn()
	}
	c.now = end
}

// RunUntil lets time pass until cond holds, at most for limit units. It reports
// whether cond holds.
func (c *Cluster) RunUntil(limit int64, cond func() bool) bool {
	for end := c.now + limit; ; {
		if cond() {
			return true
		}
		if c.now >= end {
			return false
		}
		c.RunFor(10)
	}
}

// proc is a sequence of steps with waits between them, run by the scheduler: a
// coroutine, never parallel to anything.
type proc struct {
	c     *Cluster
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
}

// errStopped unwinds a proc whose cluster is closed.
var errStopped = errors.New("simulation closed")

// spawn starts a proc.
func (c *Cluster) spawn(body func(p *proc)) {
	p := &proc{c: c}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			if v := recover(); v != nil && v != any(errStopped) {
				panic(v)
			}
		}()
		body(p)
	})
	c.procs = append(c.procs, p)
	c.after(0, p.resume)
}

func (p *proc) resume() { p.next() }

// sleep waits.
func (p *proc) sleep(units int64) {
	p.c.after(units, p.resume)
	if !p.yield(struct{}{}) {
		panic(errStopped)
	}
}

// until waits for cond, at most until the deadline, and reports whether it holds.
func (p *proc) until(deadline int64, cond func() bool) bool {
	for !cond() {
		if p.c.now >= deadline {
			return false
		}
		p.sleep(10)
	}
	return true
}
