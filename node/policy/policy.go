// Package policy decides what the leader cleans up and what it moves forward,
// and what any member may truncate: seed leases that ended, reservations and
// learners without progress, promotion of learners that caught up, the log. It
// also weighs the ticket of a newcomer that wants to be added (Admissible) and
// the files of a Raft snapshot (Snapshot). Lessor does for etcd's leases, of
// which there may be many, what Policy does for the rest; "lease" in Policy is a
// seed lease.
//
// It is a function of what it was shown: no clock, no I/O, no goroutine. View.Now
// counts from any fixed start and never goes back. All memory is of what was
// seen under the present leadership; a change of leader or term forgets it, so
// every timer then runs its full time again: a new leader never ends a lease
// early because of what happened before it was elected.
//
// Rules; a sign of life starts the time again:
//
//	what           ends or moves when                        sign of life
//	lease          TTL passed, or the log after its hold      renewal; its member's match rises
//	               is larger than its cap
//	lease          its member caught up, or is gone           -
//	reservation    ReservationTTL passed                      activity rises; a live lease is bound to it
//	learner that   LearnerTimeout passed and it never         match rises or is the last index; a lease
//	is to vote     caught up                                  bound to it is renewed
//	learner that   it caught up and the quorum after its      -
//	is to vote     promotion can be reached
//	log            a whole step can be dropped (see           -
//	               truncation)
//
// Only one configuration change is asked for at a time. An action is repeated
// when it has had no effect for a while: a proposal may be lost.
package policy

import (
	"fmt"
	"time"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// States of replication, as the Raft library names them.
const (
	StateProbe     = "StateProbe"
	StateReplicate = "StateReplicate"
	StateSnapshot  = "StateSnapshot"
)

// Defaults of Options.
const (
	DefaultReservationTTL  = 10 * time.Minute
	DefaultLearnerTimeout  = 10 * time.Minute
	DefaultMaxLag          = 64
	DefaultTrailingEntries = 10000
)

// Options are the bounds; a zero field means its default.
type Options struct {
	ReservationTTL time.Duration // a reservation without a sign of life
	LearnerTimeout time.Duration // a learner that is to vote, without progress
	Stability      time.Duration // how long caught up must hold; default one election timeout
	Retry          time.Duration // when an action without effect is repeated; default two election timeouts
	MaxLag         uint64        // entries behind which a learner counts as caught up

	TrailingEntries       uint64 // kept behind the durably applied index by every member
	StepEntries           uint64 // least gain of a truncation; default half of TrailingEntries
	MaxFollowerLagEntries uint64 // the leader keeps the log for live followers up to this far behind; default ten times TrailingEntries
}

func (o Options) withDefaults(election time.Duration) Options {
	o.ReservationTTL = or(o.ReservationTTL, DefaultReservationTTL)
	o.LearnerTimeout = or(o.LearnerTimeout, DefaultLearnerTimeout)
	o.Stability = or(o.Stability, election)
	o.Retry = or(o.Retry, 2*election)
	o.MaxLag = or(o.MaxLag, DefaultMaxLag)
	o.TrailingEntries = or(o.TrailingEntries, DefaultTrailingEntries)
	o.StepEntries = or(o.StepEntries, max(1, o.TrailingEntries/2))
	o.MaxFollowerLagEntries = or(o.MaxFollowerLagEntries, 10*o.TrailingEntries)
	return o
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Progress is what the leader knows of a member's log.
type Progress struct {
	Match, Next  uint64
	State        string
	RecentActive bool
}

// View is what a member knows at one moment. The policy keeps no reference to
// its slices and maps after Decide returns.
type View struct {
	Now             time.Duration // since any fixed start, monotonic
	Leader          bool
	Term            uint64
	SelfID          uint64
	ElectionTimeout time.Duration

	// Cluster, Members and Leases are the applied tables, the latter two
	// ascending by ID. They must be read after DurableApplied: then every hold
	// below it is among Leases.
	Cluster *entryv1.ClusterRecord
	Members []*entryv1.MemberRecord
	Leases  []*entryv1.SeedLease

	Progress    map[uint64]Progress // by member ID; at the leader
	PendingConf bool                // a configuration change is not yet applied

	First, Last, Commit     uint64 // of the log
	Applied, DurableApplied uint64
	// LogBytesAfter gives the bytes of log entries after an index; may be nil.
	LogBytesAfter func(index uint64) uint64
}

// Action is one thing to do: one of the types below. Actions are comparable.
type Action interface {
	fmt.Stringer
	action()
}

// Actions. All but Truncate are entries to propose.
type (
	// InitCluster: the cluster row is missing; commit a genesis nonce.
	InitCluster struct{}
	// ExpireLease ends a lease if it still has this renewal number.
	ExpireLease struct {
		ID, Renewal uint64
		Reason      Reason
	}
	// CloseLease ends a lease that did its work.
	CloseLease struct{ ID uint64 }
	// CancelReservation ends a reservation if its activity is still this one.
	CancelReservation struct{ ID, Activity uint64 }
	// RemoveLearner removes a learner without progress (a configuration change).
	RemoveLearner struct {
		ID     uint64
		Reason Reason
	}
	// Promote makes a learner a voter (a configuration change).
	Promote struct{ ID uint64 }
	// Truncate drops the log's entries up to and including Index, here.
	Truncate struct{ Index uint64 }
)

// Reason says why something is ended.
type Reason string

// The reasons.
const (
	ReasonTTL             Reason = "not renewed in time"
	ReasonLogBytes        Reason = "log grew past the cap"
	ReasonNeverContacted  Reason = "never contacted"
	ReasonNotProgressing  Reason = "not progressing"
	ReasonLostBeforeCatch Reason = "out of contact before it caught up"
)

func (InitCluster) action()       {}
func (ExpireLease) action()       {}
func (CloseLease) action()        {}
func (CancelReservation) action() {}
func (RemoveLearner) action()     {}
func (Promote) action()           {}
func (Truncate) action()          {}

func (InitCluster) String() string { return "init cluster" }
func (a ExpireLease) String() string {
	return fmt.Sprintf("expire lease %d at renewal %d: %s", a.ID, a.Renewal, a.Reason)
}
func (a CloseLease) String() string { return fmt.Sprintf("close lease %d", a.ID) }
func (a CancelReservation) String() string {
	return fmt.Sprintf("cancel reservation %x at activity %d", a.ID, a.Activity)
}
func (a RemoveLearner) String() string {
	return fmt.Sprintf("remove learner %x: %s", a.ID, a.Reason)
}
func (a Promote) String() string  { return fmt.Sprintf("promote %x", a.ID) }
func (a Truncate) String() string { return fmt.Sprintf("truncate to %d", a.Index) }
