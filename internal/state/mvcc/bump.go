package mvcc

import "github.com/chainfire/cfseed/internal/fault"

// maxBumped leaves revisions for writes after a Bump.
const maxBumped = 1 << 62

// Bump raises the current revision by n without a write, and compacts all that
// is before it, so that who knows a revision between, of a time that this state
// is too old for, is told that it is compacted. Keys stay as they are.
// A revision that leaves no room for others is fault.Usage.
func Bump(b Batch, n uint64) error {
	current, _, err := b.Revisions()
	if err != nil {
		return err
	}
	if n > maxBumped || current > maxBumped-int64(n) {
		return fault.Newf(fault.Usage, "bump revision", "revision %d can not be raised by %d", current, n)
	}
	b.SetRevision(current + int64(n))
	b.SetCompactRevision(current + int64(n))
	return nil
}
