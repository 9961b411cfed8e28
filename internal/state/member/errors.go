package member

import (
	"errors"
	"fmt"

	"github.com/chainfire/cfseed/internal/fault"
)

// Causes of refusals that a caller tells apart with errors.Is.
var (
	ErrNotFound      = errors.New("no such member")
	ErrRemoved       = errors.New("member was removed; its ID is never used again")
	ErrPeerURLExists = errors.New("peer URL belongs to another member")
	ErrNameExists    = errors.New("name belongs to another member")
	ErrNotReserved   = errors.New("not a reservation any more")
	ErrNotLearner    = errors.New("not a learner")
	ErrLastVoter     = errors.New("the last voter can not be removed")
	ErrDirectory     = errors.New("member is bound to another data directory")
	ErrChanged       = errors.New("changed since the request was made")
	ErrNoCluster     = errors.New("the cluster row is not there yet")
	ErrClusterExists = errors.New("the cluster is already initialised")
	ErrLeaseGone     = errors.New("seed lease ended")
)

// refusal marks an error as a rule's verdict: the same on every member.
type refusal struct{ err *fault.Error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// IsRefusal reports whether err, from Apply or ApplyConf, is the verdict of a
// rule: every member refuses the entry alike and nothing was written. Any other
// error (unreadable record, failed read or write) is this member's own and it
// must stop.
func IsRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

// refuse builds a refusal. cause is one of the sentinels above or nil.
func refuse(code fault.Code, op string, cause error, format string, args ...any) *refusal {
	text := fmt.Sprintf(format, args...)
	switch {
	case cause == nil:
		return &refusal{err: fault.Newf(code, op, "%s", text)}
	case text == "":
		return &refusal{err: fault.New(code, op, cause)}
	}
	return &refusal{err: fault.Newf(code, op, "%s: %w", text, cause)}
}

// hint adds advice for the operator.
func (r *refusal) hint(format string, args ...any) *refusal {
	r.err = r.err.WithHint(format, args...)
	return r
}
