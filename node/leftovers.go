package node

import (
	"time"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// leftGrace is how long checkpoints of an earlier run stay in any case: until
// the leases that are live are known for sure.
const leftGrace = 30 * time.Second

// leftovers gives what is to be called now and then to delete the checkpoints
// that an earlier run of this member left: after the time given, and once no
// lease is live under which a target could ask for one of them.
func (s *seeds) leftovers(after time.Time) func(now time.Time) error {
	done := false
	return func(now time.Time) error {
		if done || now.Before(after) || len(s.state.machine().SeedLeases()) > 0 {
			return nil
		}
		done = true
		return s.library.DropLeft()
	}
}

// leave lets the checkpoints that are served under live leases outlive this
// run, as they outlive a kill: whoever was being seeded goes on after the
// restart. A member that was removed does not come back.
func (s *seeds) leave() {
	machine := s.state.machine()
	leases := machine.SeedLeases()
	if len(leases) == 0 || machine.Member(s.self).GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED {
		return
	}
	var roots [][32]byte
	s.mu.Lock()
	for _, l := range leases {
		if served, ok := s.served[l.GetId()]; ok {
			roots = append(roots, served.root)
		}
	}
	s.mu.Unlock()
	s.library.Leave(roots...)
}
