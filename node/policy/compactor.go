package policy

import "time"

// Defaults of etcd's, which its options can not change.
const (
	compactAtMost    = time.Hour       // between two compactions by age
	compactSteps     = 10              // in that time the revision is looked at so often
	compactRevisions = 5 * time.Minute // between two compactions by number
)

// CompactorOptions say what history is kept; without both, all of it.
type CompactorOptions struct {
	// Period keeps what was written within it: a revision is compacted when it was
	// the newest one at least that long ago (etcd's mode "periodic").
	Period time.Duration
	// Revisions keeps so many (etcd's mode "revision"); not with Period.
	Revisions int64
	// Interval is how often Revisions is looked at; 0 = 5 minutes, etcd's.
	Interval time.Duration
}

// Compactor decides when the leader compacts history. Like Policy it is a
// function of what it was shown: now counts from any fixed start and never goes
// back. Not for concurrent use.
//
// Every member watches the revision, so that a new leader knows how old it is;
// one that started less than Period ago compacts nothing yet.
type Compactor struct {
	o       CompactorOptions
	begun   bool
	looked  time.Duration
	every   time.Duration // between two looks
	samples []moment      // oldest first; the first is the newest that is old enough
	last    time.Duration // when the last compaction was asked for that was seen to be done
	rest    time.Duration // from that to the next
	asked   moment        // what was asked for and is not seen to be done
}

// moment is the revision at a time.
type moment struct {
	at       time.Duration
	revision int64
}

// NewCompactor returns a Compactor that has seen nothing.
func NewCompactor(o CompactorOptions) *Compactor {
	o.Interval = or(o.Interval, compactRevisions)
	c := &Compactor{o: o, every: o.Interval, rest: o.Period}
	if o.Period > 0 {
		c.every = min(o.Period, compactAtMost) / compactSteps
	}
	return c
}

// Tick gives the revision to compact now, 0 for none. revision is the newest
// one here and compacted the last that was compacted. What has had no effect is
// asked for again.
func (c *Compactor) Tick(now time.Duration, revision, compacted int64, leads bool) int64 {
	switch {
	case c.o.Period <= 0 && c.o.Revisions <= 0:
		return 0
	case !c.begun:
		c.begun, c.looked, c.last = true, now, now
		c.look(now, revision)
		return 0
	case now-c.looked < c.every:
		return 0
	}
	c.looked = now
	c.look(now, revision)
	if c.asked.revision != 0 && compacted >= c.asked.revision {
		c.last, c.rest = c.asked.at, min(c.o.Period, compactAtMost)
		c.asked = moment{}
	}
	target := revision - c.o.Revisions
	if c.o.Period > 0 {
		target = c.old(now)
	}
	if !leads || target <= max(compacted, 0) || now-c.last < c.rest {
		return 0
	}
	c.asked = moment{now, target}
	return target
}

// look notes the revision.
func (c *Compactor) look(now time.Duration, revision int64) {
	if c.o.Period > 0 {
		c.samples = append(c.samples, moment{now, revision})
	}
}

// old gives the newest revision that is old enough, 0 when none is.
func (c *Compactor) old(now time.Duration) int64 {
	n := 0
	for n+1 < len(c.samples) && now-c.samples[n+1].at >= c.o.Period {
		n++
	}
	c.samples = append(c.samples[:0], c.samples[n:]...)
	if now-c.samples[0].at < c.o.Period {
		return 0
	}
	return c.samples[0].revision
}
