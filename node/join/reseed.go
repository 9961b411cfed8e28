package join

import (
	"context"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
)

// TooOld reports whether an admission failed because the log after the seed is
// no longer held, which another seed mends.
func TooOld(err error) bool {
	return fault.Is(err, fault.LeaseLost) || fault.Is(err, fault.Reseed)
}

// outdated says why the cluster will not take the seed that is installed; nil
// if there is no reason. It renews the seed's lease, so that what follows has
// all of its time.
//
// The reservation was confirmed through the log before this is asked. So a
// newcomer that is no member now was not made one under this ticket by an
// earlier try, and will not be: its lease has ended, or its position is gone.
func (n *Newcomer) outdated(ctx context.Context, id datadir.Identity, res *chainfirev1.ReserveResponse) (why, err error) {
	other := id.MemberID != 0 && id.MemberID != res.GetMemberId()
	switch {
	case other && res.GetAlreadyMember():
		return nil, fault.Newf(fault.Refused, "join", "the directory belongs to member %s, the cluster knows it as member %s",
			ident.FormatID(id.MemberID), ident.FormatID(res.GetMemberId())).
			At(n.cfg.Dir.Path()).WithHint("IDs are never used again; give the newcomer an empty directory")
	case other:
		return fault.Newf(fault.Reseed, "join", "reservation %s has ended, %s was made", ident.FormatID(id.MemberID),
			ident.FormatID(res.GetMemberId())), nil
	case res.GetAlreadyMember():
		return nil, nil // an earlier admission went through
	case n.stale == id.Seed.ManifestRoot:
		return fault.Newf(fault.Reseed, "join", "the cluster has found the seed at %s too old", id.Seed.Position), nil
	case id.Seed.LeaseID == 0:
		return nil, nil // from a stopped member: the admission will tell
	}
	_, err = n.renew(ctx, id.Seed.LeaseID)
	if TooOld(err) {
		return err, nil
	}
	return nil, err
}

// reseed takes back a seed that was never admitted and fetches another for the
// same directory: only what is not in both comes over the wire.
func (n *Newcomer) reseed(ctx context.Context, id datadir.Identity, res *chainfirev1.ReserveResponse, why error) (*Outcome, error) {
	if n.cfg.Logger != nil {
		n.cfg.Logger.WarnContext(ctx, "the seed is too old; a newer one is fetched", "position", id.Seed.Position.String(), "why", why)
	}
	if err := keepNonce(n.cfg.Dir, id.Directory); err != nil {
		return nil, err
	}
	if err := snapshot.Withdraw(n.cfg.Dir); err != nil {
		return nil, err
	}
	return n.seed(ctx, res)
}
