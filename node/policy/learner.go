package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Causes of Promotable's errors.
var (
	ErrNotLearner = errors.New("not a learner")
	ErrNotReady   = errors.New("learner has not caught up")
	ErrSettling   = errors.New("learner has caught up, but not for long enough") // time alone may help
	ErrNoQuorum   = errors.New("the quorum after the promotion can not be reached")
)

// track follows one member that is in the configuration.
type track struct {
	match     uint64
	risen     time.Duration // when match last rose or was the last index; first sight
	contacted bool          // an answer was seen under this leadership
	active    time.Duration // when RecentActive was last seen
	near      bool          // caught up at the last look
	nearSince time.Duration
	caught    bool // was caught up for the stability window, once
}

func (p *Policy) observeMembers(v View) {
	seen := map[uint64]bool{}
	for _, m := range v.Members {
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
			continue
		}
		seen[m.GetId()] = true
		t := p.members[m.GetId()]
		if t == nil {
			t = &track{risen: v.Now}
			p.members[m.GetId()] = t
		}
		p.observeProgress(v, m.GetId(), t)
	}
	forget(p.members, seen)
}

func (p *Policy) observeProgress(v View, id uint64, t *track) {
	pr := v.Progress[id]
	if pr.RecentActive {
		t.contacted, t.active = true, v.Now
	}
	if pr.Match > t.match || (pr.Match > 0 && pr.Match >= v.Last && reachable(v, t)) {
		t.match, t.risen = pr.Match, v.Now
	}
	near := p.near(v, pr, t)
	if near && !t.near {
		t.nearSince = v.Now
	}
	t.near = near
	t.caught = t.caught || (near && v.Now-t.nearSince >= p.o.Stability)
}

// near is "caught up" at one moment. Never a ratio: 100,000 entries behind at
// index 1,000,000 is far. Raft takes answers of its own term only, so contact
// is contact in this term.
func (p *Policy) near(v View, pr Progress, t *track) bool {
	if pr.State != StateReplicate || !reachable(v, t) {
		return false
	}
	if pr.Match+p.o.MaxLag >= v.Last {
		return true
	}
	before, known := p.lastBefore(v)
	return known && pr.Match >= before
}

// reachable reports contact within an election timeout. RecentActive alone
// blinks: Raft clears it at every quorum check until the next answer.
func reachable(v View, t *track) bool {
	return t != nil && t.contacted && v.Now-t.active <= v.ElectionTimeout
}

// CaughtUp reports whether the member has been caught up for the stability
// window, as of the views that Decide was shown. The leader itself always is.
func (p *Policy) CaughtUp(v View, id uint64) bool {
	if !v.Leader || !p.leading || v.Term != p.term {
		return false
	}
	if id == v.SelfID {
		return true
	}
	t := p.members[id]
	return t != nil && t.near && v.Now-t.nearSince >= p.o.Stability
}

// Promotable says whether a learner may become a voter now: nil, or a Refused
// error that says what is missing and wraps ErrNotLearner, ErrNotReady,
// ErrSettling or ErrNoQuorum; NotLeader at another member. It holds for
// learners that are to stay learners too: the operator may promote them.
func (p *Policy) Promotable(v View, id uint64) error {
	const op = "promote member"
	rec := find(v.Members, id)
	switch {
	case !v.Leader:
		return fault.Newf(fault.NotLeader, op, "this member does not lead").WithHint("ask again")
	case rec.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || !rec.GetLearner():
		return fault.Newf(fault.Refused, op, "%s: %w", ident.FormatID(id), ErrNotLearner)
	case !p.CaughtUp(v, id):
		if missing := p.missing(v, id); len(missing) > 0 {
			return fault.Newf(fault.Refused, op, "%s: %w: %s", ident.FormatID(id), ErrNotReady, strings.Join(missing, "; ")).
				WithHint("wait until it has caught up; see cfseed status")
		}
		return fault.Newf(fault.Refused, op, "%s: %w: for %s, needs %s", ident.FormatID(id), ErrSettling, p.settled(v, id), p.o.Stability).
			WithHint("ask again in a moment")
	}
	if got, need := p.quorumAfter(v); got < need {
		return fault.Newf(fault.Refused, op, "%d of %d voters would be in contact, %d are needed: %w", got, voters(v)+1, need, ErrNoQuorum).
			WithHint("bring the other voters back first")
	}
	return nil
}

// missing lists what keeps a learner from being caught up at this moment.
func (p *Policy) missing(v View, id uint64) []string {
	pr, t := v.Progress[id], p.members[id]
	var out []string
	switch {
	case pr.RecentActive || reachable(v, t):
	case t == nil || !t.contacted:
		out = append(out, "it was not in contact with this leader yet")
	default:
		out = append(out, fmt.Sprintf("not in contact for %s", (v.Now-t.active).Round(time.Millisecond)))
	}
	if pr.State != StateReplicate {
		out = append(out, fmt.Sprintf("replication is in %s", pr.State))
	}
	before, known := p.lastBefore(v)
	if pr.Match+p.o.MaxLag < v.Last && !(known && pr.Match >= before) {
		out = append(out, fmt.Sprintf("it lags %d entries, at %d of %d", v.Last-pr.Match, pr.Match, v.Last))
	}
	return out
}

// settled gives for how long a learner has been caught up without a break.
func (p *Policy) settled(v View, id uint64) time.Duration {
	t := p.members[id]
	if t == nil || !t.near {
		return 0
	}
	return (v.Now - t.nearSince).Round(time.Millisecond)
}

// quorumAfter gives the voters that would be in contact after one caught-up
// learner is promoted, and how many a quorum then needs.
func (p *Policy) quorumAfter(v View) (got, need int) {
	got = 1 // the learner
	for _, m := range v.Members {
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || m.GetLearner() {
			continue
		}
		if m.GetId() == v.SelfID || reachable(v, p.members[m.GetId()]) {
			got++
		}
	}
	return got, (voters(v)+1)/2 + 1
}

func voters(v View) int {
	n := 0
	for _, m := range v.Members {
		if m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && !m.GetLearner() {
			n++
		}
	}
	return n
}

// changeConf asks for at most one configuration change, and for the next only
// when the last one has shown in the member table or had time enough.
func (p *Policy) changeConf(v View, ask func(Action)) {
	if v.PendingConf {
		return
	}
	if p.confSeen != "" && p.confSeen == roles(v) && v.Now-p.confSent < p.o.Retry {
		return
	}
	a := p.confAction(v)
	if a == nil {
		return
	}
	p.confSeen, p.confSent = roles(v), v.Now
	ask(a)
}

func (p *Policy) confAction(v View) Action {
	var stuck Action
	for _, m := range v.Members {
		if m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || !m.GetLearner() ||
			m.GetStayLearner() || !m.GetVoterIntent() {
			continue
		}
		if p.Promotable(v, m.GetId()) == nil {
			return Promote{m.GetId()}
		}
		if stuck == nil && p.stuck(v, m.GetId()) {
			stuck = RemoveLearner{m.GetId(), p.stuckReason(v, m.GetId())}
		}
	}
	return stuck
}

// stuck reports whether a learner that never caught up has stopped moving.
func (p *Policy) stuck(v View, id uint64) bool {
	t := p.members[id]
	if t.caught || t.near {
		return false
	}
	moved := t.risen
	for _, l := range v.Leases {
		// A Raft snapshot on its way moves no index; its lease is renewed.
		if l.GetMemberId() == id {
			moved = max(moved, p.leases[l.GetId()].at)
		}
	}
	return v.Now-moved >= p.o.LearnerTimeout
}

func (p *Policy) stuckReason(v View, id uint64) Reason {
	switch t := p.members[id]; {
	case !t.contacted:
		return ReasonNeverContacted
	case !reachable(v, t):
		return ReasonLostBeforeCatch
	}
	return ReasonNotProgressing
}

// roles is a text that changes when a configuration change is applied.
func roles(v View) string {
	var b []byte
	for _, m := range v.Members {
		if m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
			b = fmt.Appendf(b, "%x:%t ", m.GetId(), m.GetLearner())
		}
	}
	return string(b)
}
