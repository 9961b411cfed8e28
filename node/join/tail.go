package join

import (
	"context"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/transfer"
)

// Log is the log of a seeded node whose Raft has not started.
type Log interface {
	// Last is the position of the last entry, or of the seed.
	Last() ident.Position
	// Import appends entries that follow the position (see raftlog.Log.Import).
	Import(after ident.Position, entries [][]byte) error
}

// A tail is near enough when a round of it was this short, and will not get
// nearer when so many rounds in a row were no shorter than one before.
const (
	nearEnough = 64 // entries
	mostRounds = 3
)

// FetchTail brings the log of the seeded node up to what a member has applied
// since the seed, in rounds that get shorter, so that little is left for the
// leader to send once the newcomer is a member. It comes after Bind and before
// Raft starts (S4). It only saves time: when no member can give the entries the
// admission tells whether the seed will do.
func (n *Newcomer) FetchTail(ctx context.Context, out *Outcome, log Log) error {
	if out.Reserved.GetAlreadyMember() {
		return nil // its Raft has run
	}
	err := n.alive(func() error { return n.fetchTail(ctx, out.Identity, log) })
	n.tailEnd = log.Last()
	if err == nil || ctx.Err() != nil {
		return err
	}
	if n.cfg.Logger != nil {
		n.cfg.Logger.WarnContext(ctx, "the entries after the seed were not all fetched; the leader sends the rest", "err", err)
	}
	return nil
}

func (n *Newcomer) fetchTail(ctx context.Context, id datadir.Identity, log Log) error {
	shortest, vain := ^uint64(0), 0
	for vain < mostRounds {
		length, err := n.tailRound(ctx, id, log)
		if err != nil || length <= nearEnough {
			return err
		}
		if length < shortest {
			shortest = length
		} else {
			vain++
		}
	}
	return nil
}

// tailRound fetches what was applied when it began, and gives the number of
// entries.
func (n *Newcomer) tailRound(ctx context.Context, id datadir.Identity, log Log) (length uint64, err error) {
	var until uint64
	for {
		after := log.Last()
		res, err := n.askTail(ctx, id.Seed.LeaseID, after, transfer.MaxTail)
		if err != nil {
			return length, err
		}
		if length == 0 {
			until = res.GetApplied().GetIndex()
		}
		if len(res.GetEntries()) == 0 {
			return length, nil
		}
		if err := log.Import(after, res.GetEntries()); err != nil {
			return length, err
		}
		length += uint64(len(res.GetEntries()))
		n.tailEntries += uint64(len(res.GetEntries()))
		if log.Last().Index >= until {
			return length, nil
		}
	}
}

func (n *Newcomer) askTail(ctx context.Context, lease uint64, after ident.Position, maxBytes uint64) (*chainfirev1.GetTailResponse, error) {
	req := &chainfirev1.GetTailRequest{ClusterId: n.cfg.Cluster.ID, GenesisNonce: n.cfg.Cluster.Genesis.Bytes(),
		LeaseId: lease, After: PositionOf(after), MaxBytes: maxBytes}
	var res *chainfirev1.GetTailResponse
	err := n.cluster.call(ctx, "get tail", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		res, err = chainfirev1.NewSeedClient(c).GetTail(ctx, req, grpc.MaxCallRecvMsgSize(transfer.MaxMessage))
		return err
	})
	return res, err
}

// TailEntries is how many entries FetchTail has brought.
func (n *Newcomer) TailEntries() uint64 { return n.tailEntries }
