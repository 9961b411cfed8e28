package policy

import (
	"math"
	"slices"
	"time"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Policy remembers what it was shown. Not for concurrent use.
type Policy struct {
	given Options
	o     Options // with defaults, for the election timeout of the present view

	leading  bool
	term     uint64
	since    time.Duration // when this leadership was first seen
	leases   map[uint64]*sign
	reserved map[uint64]*sign
	members  map[uint64]*track
	lasts    []sample // ascending; the first is the newest one an election timeout old

	sent     map[Action]time.Duration // when an action was last asked for
	confSent time.Duration
	confSeen string // roles at the time of the last configuration change asked for
}

// sign is the newest sign of life of a lease or reservation.
type sign struct {
	number uint64 // renewal or activity
	at     time.Duration
}

// sample is the last index of the log at a time.
type sample struct {
	at   time.Duration
	last uint64
}

// New returns a Policy that has seen nothing.
func New(o Options) *Policy { return &Policy{given: o} }

// Decide looks at v and gives what is to be done now. Call it at every tick.
func (p *Policy) Decide(v View) []Action {
	p.o = p.given.withDefaults(v.ElectionTimeout)
	p.observe(v)
	var out []Action
	ask := func(a Action) {
		if at, asked := p.sent[a]; asked && v.Now-at < p.o.Retry {
			return
		}
		p.sent[a] = v.Now
		out = append(out, a)
	}
	for a, at := range p.sent {
		if v.Now-at >= p.o.Retry {
			delete(p.sent, a)
		}
	}
	if v.Leader {
		if v.Cluster == nil {
			ask(InitCluster{})
		}
		p.endLeases(v, ask)
		p.endReservations(v, ask)
		p.changeConf(v, ask)
	}
	if index := p.truncation(v); index > 0 {
		ask(Truncate{index})
	}
	return out
}

// observe brings the memory up to date with v, or starts it afresh.
func (p *Policy) observe(v View) {
	if p.sent == nil || v.Leader != p.leading || v.Term != p.term {
		*p = Policy{
			given: p.given, o: p.o, leading: v.Leader, term: v.Term, since: v.Now,
			leases: map[uint64]*sign{}, reserved: map[uint64]*sign{}, members: map[uint64]*track{},
			sent: map[Action]time.Duration{},
		}
	}
	if !v.Leader {
		return
	}
	p.observeLast(v)
	p.observeMembers(v)
	p.observeLeases(v)
	p.observeReservations(v)
}

// observeLast keeps what is needed to know the last index of one election
// timeout ago.
func (p *Policy) observeLast(v View) {
	p.lasts = append(p.lasts, sample{v.Now, v.Last})
	old := v.Now - v.ElectionTimeout
	for len(p.lasts) > 1 && p.lasts[1].at <= old {
		p.lasts = p.lasts[1:]
	}
}

// lastBefore gives the last index of one election timeout ago; false when this
// leadership is younger than that.
func (p *Policy) lastBefore(v View) (uint64, bool) {
	if len(p.lasts) == 0 || p.lasts[0].at > v.Now-v.ElectionTimeout {
		return 0, false
	}
	return p.lasts[0].last, true
}

func (p *Policy) observeLeases(v View) {
	seen := make(map[uint64]bool, len(v.Leases))
	for _, l := range v.Leases {
		seen[l.GetId()] = true
		s := touch(p.leases, l.GetId(), l.GetRenewal(), v.Now)
		// The learner that needs the lease does not renew it; it moves on.
		if t := p.members[l.GetMemberId()]; t != nil && t.risen > s.at {
			s.at = t.risen
		}
	}
	forget(p.leases, seen)
}

func (p *Policy) observeReservations(v View) {
	seen := map[uint64]bool{}
	for _, m := range v.Members {
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_RESERVED {
			continue
		}
		seen[m.GetId()] = true
		s := touch(p.reserved, m.GetId(), m.GetActivity(), v.Now)
		for _, l := range v.Leases {
			if l.GetMemberId() == m.GetId() {
				s.at = v.Now
			}
		}
	}
	forget(p.reserved, seen)
}

// touch notes a number and, when it is new, the time.
func touch(signs map[uint64]*sign, id, number uint64, now time.Duration) *sign {
	s := signs[id]
	if s == nil {
		s = &sign{number: number, at: now}
		signs[id] = s
	}
	if s.number != number {
		s.number, s.at = number, now
	}
	return s
}

func forget[T any](tracked map[uint64]T, seen map[uint64]bool) {
	for id := range tracked {
		if !seen[id] {
			delete(tracked, id)
		}
	}
}

func (p *Policy) endLeases(v View, ask func(Action)) {
	for _, l := range v.Leases {
		switch s := p.leases[l.GetId()]; {
		case l.GetMemberId() != 0 && p.served(v, l.GetMemberId()):
			ask(CloseLease{l.GetId()})
		case v.LogBytesAfter != nil && v.LogBytesAfter(l.GetHold()) > l.GetCapBytes():
			ask(ExpireLease{l.GetId(), l.GetRenewal(), ReasonLogBytes})
		case v.Now-s.at >= milliseconds(l.GetTtlMs()):
			ask(ExpireLease{l.GetId(), l.GetRenewal(), ReasonTTL})
		}
	}
}

// served reports whether a member needs its lease no more.
func (p *Policy) served(v View, id uint64) bool {
	rec := find(v.Members, id)
	switch rec.GetState() {
	case entryv1.MemberState_MEMBER_STATE_RESERVED:
		return false
	case entryv1.MemberState_MEMBER_STATE_MEMBER:
		return p.CaughtUp(v, id)
	}
	return true // removed, or never there
}

func (p *Policy) endReservations(v View, ask func(Action)) {
	for _, m := range v.Members {
		if s := p.reserved[m.GetId()]; s != nil && v.Now-s.at >= p.o.ReservationTTL {
			ask(CancelReservation{m.GetId(), m.GetActivity()})
		}
	}
}

func find(members []*entryv1.MemberRecord, id uint64) *entryv1.MemberRecord {
	i := slices.IndexFunc(members, func(m *entryv1.MemberRecord) bool { return m.GetId() == id })
	if i < 0 {
		return nil
	}
	return members[i]
}

// milliseconds converts without overflow.
func milliseconds(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}
