package policy

import (
	"errors"

	"go.etcd.io/raft/v3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Ticket is what admission weighs of a join ticket.
type Ticket struct {
	MemberID uint64
	Position ident.Position
	LeaseID  uint64 // 0: the seed of a stopped member
}

// Log answers for the leader's Raft log.
type Log interface {
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	Term(index uint64) (uint64, error)
}

// Tables are the leader's applied ones, read after its barrier.
type Tables interface {
	Member(id uint64) *entryv1.MemberRecord
	SeedLeases() []*entryv1.SeedLease
}

// Admissible is the part of S6 that the leader checks before it proposes a
// learner: reservation and lease alive, and the position a point of its own log
// whose tail it still has. The error says why not.
func Admissible(t Ticket, tables Tables, log Log) error {
	if err := reserved(t.MemberID, tables.Member(t.MemberID)); err != nil {
		return err
	}
	if err := onLog(t.Position, log); err != nil {
		return err
	}
	if t.LeaseID == 0 {
		return nil
	}
	for _, l := range tables.SeedLeases() {
		if l.GetId() == t.LeaseID {
			return nil
		}
	}
	return fault.Newf(fault.LeaseLost, "admit", "seed lease %s has ended", ident.FormatID(t.LeaseID)).
		WithHint("run the join again to fetch a new seed; --lease-ttl and --lease-bytes give it more room")
}

// reserved wants an ID that waits for admission and is tied to one directory.
func reserved(member uint64, rec *entryv1.MemberRecord) error {
	const op = "admit"
	id := ident.FormatID(member)
	switch {
	case rec == nil:
		return fault.Newf(fault.Refused, op, "no reservation of member %s", id).
			WithHint("the reservation was ended; join again with an empty directory")
	case rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED:
		return fault.Newf(fault.Refused, op, "member %s was removed; an ID is never used again", id).
			WithHint("join with an empty directory")
	case len(rec.GetPeerUrls()) == 0:
		return fault.Newf(fault.Refused, op, "no peer URL of member %s is known", id).
			WithHint("start it with `cfseed node --join`, which tells its peer URL")
	case len(rec.GetDirectoryNonce()) == 0:
		return fault.Newf(fault.Refused, op, "member %s is not bound to a directory", id)
	}
	return nil
}

// onLog wants a position that stands in the log, with what follows it.
func onLog(pos ident.Position, log Log) error {
	const op = "admit"
	if pos.Index == 0 || pos.Term == 0 {
		return fault.Newf(fault.Usage, op, "the ticket has no position").WithHint("seed the node first: `cfseed node --join`")
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	if pos.Index > last {
		return fault.Newf(fault.Refused, op, "the seed is at %d, the log ends at %d: it is not of this cluster", pos.Index, last)
	}
	if first > pos.Index+1 {
		return fault.Newf(fault.Reseed, op, "the seed is at %d, the log begins at %d", pos.Index, first).
			WithHint("the log after the seed is gone; run the join again to fetch a new seed")
	}
	term, err := log.Term(pos.Index)
	if errors.Is(err, raft.ErrCompacted) {
		return fault.Newf(fault.Reseed, op, "the log at %d is gone", pos.Index).WithHint("run the join again to fetch a new seed")
	}
	if err != nil {
		return err
	}
	if term != pos.Term {
		return fault.Newf(fault.Refused, op, "the seed says term %d at index %d, the log says %d", pos.Term, pos.Index, term)
	}
	return nil
}
