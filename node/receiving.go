package node

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/join"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// receive takes a pushed seed into this waiting node: staged, verified and
// installed as a seed without a member ID; the join that follows reserves one.
func (n *node) receive(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
	var stage *snapshot.Stage
	_, err := transfer.Receive(stream, transfer.ReceiveConfig{
		Accept: func(_ context.Context, o transfer.Offer) error {
			return n.await.Accept(o.Meta.Cluster.ID, o.JoinToken)
		},
		OpenStage: func(manifest []byte) (transfer.Stage, error) {
			class, err := n.dir.Classify()
			if err != nil {
				return nil, err
			}
			if class == datadir.Complete {
				return nil, fault.Newf(fault.NotEmpty, "receive", "a seed is installed here already").
					WithHint("cfseed member add uses it")
			}
			s, err := snapshot.OpenStage(stream.Context(), n.dir, manifest)
			if err != nil {
				return nil, err
			}
			stage = s
			return join.Staged{Stage: s}, nil
		},
		Finish: func(ctx context.Context, o transfer.Offer, _ transfer.Stage) error {
			id := datadir.Identity{Cluster: o.Meta.Cluster, Directory: n.nonce, Name: n.cfg.Name,
				Seed: &datadir.SeedRef{Position: o.Meta.Position, ManifestRoot: o.Meta.Root, LeaseID: o.Meta.LeaseID}}
			return stage.Install(ctx, id, snapshot.InstallOptions{})
		},
		IdleTimeout: defaultIdleTimeout, Logger: n.logger, Conns: n.fronts.meter})
	if err != nil && stage != nil {
		err = errors.Join(err, stage.Close())
	}
	return err
}
