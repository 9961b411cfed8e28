package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/chainfire/cfseed/internal/state/lease"
)

// Defaults of LessorOptions: etcd's.
const (
	DefaultRevokeRate         = 1000
	DefaultCheckpointInterval = 5 * time.Minute
	DefaultRevokeRetry        = 3 * time.Second
	maxCheckpoints            = 1000 // in one entry
)

// LessorOptions are the bounds; a zero field means its default.
type LessorOptions struct {
	RevokeRate         int           // leases a second that are revoked because they ran out
	CheckpointInterval time.Duration // between two checkpoints of a lease; shorter leases have none
	RevokeRetry        time.Duration // when a revocation without effect is asked for again
}

// Lessor keeps the time of etcd's leases at the leader and decides which have
// run out. Like Policy it is a function of what it was shown: now counts from
// any fixed start and never goes back. Not for concurrent use.
//
// Only a leader keeps time. When it becomes one, it gives every lease what was
// left at the last checkpoint, and an election timeout on top, since nobody
// renewed leases while there was no leader: a lease never ends early because of
// what happened before. A renewal is not replicated. So that a long lease does
// not begin anew under each leader, what is left of it is checkpointed now and
// then; the first renewal after that takes the checkpoint back before it is
// answered (Renew says so), or a next leader would end the lease early.
//
// Until a lease that ran out is revoked it can not be renewed: the revocation
// may be committed already.
type Lessor struct {
	o       LessorOptions
	leading bool
	leases  map[int64]*timer
	ends    deadlines
	saves   deadlines
	tokens  float64 // revocations allowed now
	ticked  time.Duration
}

// timer is the time of one lease. Its place among the ends is at or before its
// expiry: renewals, the most frequent thing by far, move only expiry, and the
// place follows when it is due.
type timer struct {
	lease.Lease
	expiry time.Duration
	end    deadline
	save   deadline
	// saving and clearing say that a checkpoint, or its taking back, was asked
	// for and is not yet seen. They never cross: a stale checkpoint that came
	// last would stay.
	saving, clearing bool
}

// NewLessor returns a Lessor that does not lead.
func NewLessor(o LessorOptions) *Lessor {
	o.RevokeRate = or(o.RevokeRate, DefaultRevokeRate)
	o.CheckpointInterval = or(o.CheckpointInterval, DefaultCheckpointInterval)
	o.RevokeRetry = or(o.RevokeRetry, DefaultRevokeRetry)
	return &Lessor{o: o}
}

// Promote begins to lead with the leases that there are once all that leaders before
// left in the log is applied: Apply takes what it sees for this one's own. extend is added to the
// time of each, once. Where many would run out together they are spread, so that
// new ones do not wait behind them.
func (l *Lessor) Promote(now time.Duration, leases []lease.Lease, extend time.Duration) {
	*l = Lessor{o: l.o, leading: true, leases: make(map[int64]*timer, len(leases)), ticked: now}
	all := make([]*timer, 0, len(leases))
	for _, ls := range leases {
		t := l.add(ls)
		t.expiry = now + extend + seconds(ls.Left())
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *timer) int { return cmp.Or(cmp.Compare(a.expiry, b.expiry), cmp.Compare(a.ID, b.ID)) })
	perSecond := max(1, l.o.RevokeRate*3/4)
	for i, t := range all {
		if i >= perSecond {
			t.expiry = max(t.expiry, all[i-perSecond].expiry+time.Second)
		}
		l.ends.set(&t.end, t.expiry)
		l.schedule(now, t)
	}
}

// Demote ends the leadership and forgets all.
func (l *Lessor) Demote() { *l = Lessor{o: l.o} }

// Leading reports whether it keeps time.
func (l *Lessor) Leading() bool { return l.leading }

// Len is the number of leases it keeps the time of.
func (l *Lessor) Len() int { return len(l.leases) }

// Apply takes what an entry did to a lease.
func (l *Lessor) Apply(now time.Duration, c lease.Change) {
	if !l.leading {
		return
	}
	t := l.leases[c.ID]
	switch {
	case c.Gone && t != nil:
		l.ends.remove(&t.end)
		l.saves.remove(&t.save)
		delete(l.leases, c.ID)
	case c.Gone:
	case t == nil:
		t = l.add(c.Lease)
		t.expiry = now + seconds(c.Left())
		l.ends.set(&t.end, t.expiry)
		l.schedule(now, t)
	default: // a checkpoint, or one taken back
		t.Lease, t.saving = c.Lease, false
		t.clearing = t.clearing && c.Remaining > 0
		l.schedule(now, t)
	}
}

func (l *Lessor) add(ls lease.Lease) *timer {
	t := &timer{Lease: ls, end: deadline{id: ls.ID}, save: deadline{id: ls.ID}}
	l.leases[ls.ID] = t
	return t
}

// schedule sets the time of a lease's next checkpoint, if it lasts that long.
func (l *Lessor) schedule(now time.Duration, t *timer) {
	if seconds(t.Left()) <= l.o.CheckpointInterval {
		l.saves.remove(&t.save)
		return
	}
	l.saves.set(&t.save, now+l.o.CheckpointInterval)
}

// Verdict is what came of a renewal.
type Verdict int

// Verdicts.
const (
	Renewed      Verdict = iota
	Unknown              // there is no such lease
	RanOut               // it is about to be revoked; ask again when that is done
	Checkpointed         // a checkpoint must be taken back first, by an entry with nothing left; then ask again
)

// Renew starts a lease's time again and gives its time to live in seconds.
func (l *Lessor) Renew(now time.Duration, id int64) (ttl int64, _ Verdict) {
	t := l.leases[id]
	switch {
	case t == nil:
		return 0, Unknown
	case t.expiry <= now:
		return 0, RanOut
	case t.Remaining > 0 || t.saving:
		t.clearing = true
		return 0, Checkpointed
	}
	t.expiry = now + seconds(t.TTL)
	return t.TTL, Renewed
}

// Left gives what is left of a lease, at least 0, and what it was granted;
// false when there is no such lease.
func (l *Lessor) Left(now time.Duration, id int64) (left time.Duration, ttl int64, found bool) {
	t := l.leases[id]
	if t == nil {
		return 0, 0, false
	}
	return max(0, t.expiry-now), t.TTL, true
}

// LeaseWork is what the leader is to propose.
type LeaseWork struct {
	Revoke     []int64       // leases that ran out; those for longest first
	Checkpoint []lease.Lease // with what is left in Remaining
}

// Tick gives what is due. Call it at every tick while a quorum is in contact;
// without one nothing can be committed, and all would be asked for again.
func (l *Lessor) Tick(now time.Duration) LeaseWork {
	var w LeaseWork
	if !l.leading {
		return w
	}
	rate := float64(l.o.RevokeRate)
	l.tokens = min(l.tokens+rate*(now-l.ticked).Seconds(), max(1, rate/2))
	l.ticked = now
	for d := l.ends.first(now); d != nil && l.tokens >= 1; d = l.ends.first(now) {
		t := l.leases[d.id]
		if t.expiry > now {
			l.ends.set(d, t.expiry)
			continue
		}
		l.tokens--
		w.Revoke = append(w.Revoke, d.id)
		l.ends.set(d, now+l.o.RevokeRetry)
	}
	for d := l.saves.first(now); d != nil && len(w.Checkpoint) < maxCheckpoints; d = l.saves.first(now) {
		t := l.leases[d.id]
		l.saves.set(d, now+l.o.CheckpointInterval)
		left := int64((t.expiry - now + time.Second - 1) / time.Second)
		if t.clearing || left <= 0 || left >= t.TTL || left == t.Remaining {
			continue
		}
		t.saving = true
		w.Checkpoint = append(w.Checkpoint, lease.Lease{ID: t.ID, TTL: t.TTL, Remaining: left})
	}
	return w
}

// seconds converts; lease.MaxTTL is 285 years, which fits.
func seconds(s int64) time.Duration { return time.Duration(s) * time.Second }
