package node

import "time"

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
