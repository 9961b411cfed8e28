package transfer

import (
	"context"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// MaxTail bounds the bytes of entries in one answer, unless one entry alone is
// larger.
const MaxTail = 1 << 20

// TailReader answers for the log of the member that serves.
type TailReader interface {
	// Tail gives entries that this member has applied, from after the position
	// on, of at most maxBytes together but at least one; none when maxBytes is 0.
	// lease is the one to tell of; 0 = none. fault.Reseed: the log no longer
	// reaches back to the position. fault.Refused: it has another entry there.
	Tail(ctx context.Context, lease uint64, after ident.Position, maxBytes uint64) (Tail, error)
}

// Tail is the end of a log, as its member sees it.
type Tail struct {
	Entries    [][]byte       // as they are in the log; not to be changed
	Applied    ident.Position // when the member began to answer
	BytesAfter uint64         // of the log after the position asked for
	LeaseBytes uint64         // of the log since the hold of the lease
	LeaseCap   uint64         // at which the lease ends; 0 = it has ended
}

// GetTail answers entries that follow a seed, and how fast they come.
func (s *Server) GetTail(ctx context.Context, req *chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_GetTail_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	if err := s.checkCluster(req.GetClusterId(), req.GetGenesisNonce()); err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	if s.cfg.Tails == nil {
		return nil, rpcfault.ToStatus(fault.Newf(fault.Refused, "get tail", "this member answers no entries"))
	}
	after := ident.Position{Term: req.GetAfter().GetTerm(), Index: req.GetAfter().GetIndex()}
	t, err := s.cfg.Tails.Tail(ctx, req.GetLeaseId(), after, min(req.GetMaxBytes(), MaxTail))
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	return &chainfirev1.GetTailResponse{Entries: t.Entries, Applied: &entryv1.Position{Term: t.Applied.Term, Index: t.Applied.Index},
		BytesAfter: t.BytesAfter, LeaseBytes: t.LeaseBytes, LeaseCapBytes: t.LeaseCap}, nil
}
