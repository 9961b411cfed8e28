package lessor

import (
	"time"

	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
)

// Confirmation says that a quorum followed this member in a term at some moment
// after one that it notes. The zero one says nothing.
type Confirmation struct {
	term  uint64
	asked time.Duration
}

// Ask begins a confirmation, on the loop, right before the read index that gives
// it. It refuses when this member does not lead.
func (l *Lessor) Ask(r *replica.Replica) (Confirmation, error) {
	term, leading := r.Leads()
	if !leading {
		return Confirmation{}, ErrNotLeading()
	}
	return Confirmation{term: term, asked: l.cfg.Now()}, nil
}

// Confirmed takes a confirmation whose read index was answered, to be shared.
func (l *Lessor) Confirmed(c Confirmation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.term == l.term && c.asked >= l.shared.asked {
		l.shared = c
	}
}

// HandOver says, on the loop and before it begins, that the leadership is about to
// be handed to another member, which waits for no election timeout: until it is
// known to have failed, which takes one, each renewal asks for itself.
func (l *Lessor) HandOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handing = l.cfg.Now() + 2*l.cfg.Extend
}

// Renewal is the outcome of one try to renew a lease.
type Renewal struct {
	// Unconfirmed says that a confirmation of its own is asked for first; nothing
	// was done.
	Unconfirmed bool
	Verdict     policy.Verdict
	TTL         int64 // seconds
	// Ended is closed when a lease that ran out is revoked, or this member leads
	// no more.
	Ended <-chan struct{}
}

// Renew starts a lease's time again. own is a confirmation that was begun after
// the lease's keep-alive came in, and whose read index is applied; with the zero
// one the shared one has to do.
func (l *Lessor) Renew(own Confirmation, id int64) (Renewal, error) {
	behind := own == Confirmation{} && l.cfg.Behind()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.timers.Leading() {
		return Renewal{}, ErrNotLeading()
	}
	now := l.cfg.Now()
	if !l.covers(now, own, behind) {
		return Renewal{Unconfirmed: true}, nil
	}
	var out Renewal
	out.TTL, out.Verdict = l.timers.Renew(now, id)
	switch out.Verdict {
	case policy.Unknown: // here; another leader may have granted it meanwhile
		out.Unconfirmed = own == Confirmation{}
	case policy.RanOut:
		out.Ended = l.endOf(id)
	}
	return out, nil
}

// covers reports whether what was confirmed allows a renewal now. The shared
// confirmation is from before the keep-alive: since then something may have been
// committed, or a member been asked to lead at once.
func (l *Lessor) covers(now time.Duration, own Confirmation, behind bool) bool {
	if own != (Confirmation{}) {
		return own.term == l.term && now-own.asked < l.cfg.Extend
	}
	return l.shared.term == l.term && now-l.shared.asked < l.cfg.Extend/2 && !behind && now >= l.handing
}

// endOf is closed when the lease is revoked, or this member leads no more. All who
// wait share it: an alarm may put the end off for long, and clients ask again.
func (l *Lessor) endOf(id int64) <-chan struct{} {
	ended := l.waiting[id]
	if ended == nil {
		ended = make(chan struct{})
		l.waiting[id] = ended
	}
	return ended
}
