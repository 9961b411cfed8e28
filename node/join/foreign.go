package join

import (
	"context"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// confirmCluster refuses a cluster other than the one expected before anything
// is left there.
func (n *Newcomer) confirmCluster(ctx context.Context) error {
	if n.cfg.Cluster == (ident.Cluster{}) {
		return nil
	}
	var res *chainfirev1.MemberListResponse
	err := n.cluster.call(ctx, "member list", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		res, err = chainfirev1.NewClusterClient(c).MemberList(ctx, &chainfirev1.MemberListRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if res.GetClusterId() == 0 { // it has just been born; Reserve waits for it
		return nil
	}
	return n.expect(res.GetClusterId(), res.GetGenesisNonce())
}

// expect compares what a cluster says of itself with the cluster expected, and
// remembers it where any was.
func (n *Newcomer) expect(id uint64, nonce []byte) error {
	genesis, err := ident.NonceFrom(nonce)
	if err != nil {
		return fault.New(fault.Corrupt, "reserve", err)
	}
	got := ident.Cluster{ID: id, Genesis: genesis}
	if n.cfg.Cluster != (ident.Cluster{}) && !n.cfg.Cluster.Same(got) {
		return fault.Newf(fault.Refused, "reserve", "cluster %s (%s) answers, %s (%s) was expected", ident.FormatID(got.ID), genesis,
			ident.FormatID(n.cfg.Cluster.ID), n.cfg.Cluster.Genesis).
			WithHint("check the endpoints; a directory is tied to one cluster")
	}
	n.cfg.Cluster = got
	return nil
}
