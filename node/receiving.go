package node

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/join"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/transfer"
)

// receive takes a pushed seed into this waiting node: staged, verified and
// installed as a seed without a member ID; the join that follows reserves one.
// A seed that is installed already is taken again without a byte: the pusher
// may not have heard that it was done.
func (n *node) receive(stream grpc.BidiStreamingServer[chainfirev1.ReceiveRequest, chainfirev1.ReceiveResponse]) error {
	var stage *snapshot.Stage
	installed := false
	_, err := transfer.Receive(stream, transfer.ReceiveConfig{
		Accept: func(_ context.Context, o transfer.Offer) error {
			return n.await.Accept(o.Meta.Cluster.ID, o.JoinToken)
		},
		OpenStage: func(encoded []byte) (_ transfer.Stage, err error) {
			if installed, err = n.holds(manifest.RootOf(encoded)); err != nil {
				return nil, err
			}
			if installed {
				return wholeStage{}, nil
			}
			if stage, err = snapshot.OpenStage(stream.Context(), n.dir, encoded); err != nil {
				return nil, err
			}
			return join.Staged{Stage: stage}, nil
		},
		Finish: func(ctx context.Context, o transfer.Offer, _ transfer.Stage) error {
			seed := &datadir.SeedRef{Position: o.Meta.Position, ManifestRoot: o.Meta.Root, LeaseID: o.Meta.LeaseID}
			if installed {
				return n.takeLease(seed)
			}
			return stage.Install(ctx, datadir.Identity{Cluster: o.Meta.Cluster, Directory: n.nonce, Name: n.cfg.Name, Seed: seed},
				snapshot.InstallOptions{})
		},
		IdleTimeout: defaultIdleTimeout, Logger: n.logger, Conns: n.fronts.meter})
	if err != nil && stage != nil {
		err = errors.Join(err, stage.Close())
	}
	return err
}

// holds reports whether the directory holds exactly this seed, unused. Another
// seed is an error: only an empty directory takes one.
func (n *node) holds(root [32]byte) (bool, error) {
	id, err := n.dir.ReadIdentity()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if id.Seed != nil && !id.Seed.Joined && id.Seed.ManifestRoot == root {
		return true, nil
	}
	return false, fault.Newf(fault.NotEmpty, "receive", "another seed is installed here already").
		WithHint("`cfseed member add` uses it; for a newer one start the node with an empty directory")
}

// takeLease ties the installed seed to the lease of the later push.
func (n *node) takeLease(seed *datadir.SeedRef) error {
	id, err := n.dir.ReadIdentity()
	if err != nil {
		return err
	}
	id.Seed = seed
	return n.dir.CommitIdentity(id)
}

// wholeStage is the stage of a seed that is installed: nothing is missing.
type wholeStage struct{}

func (wholeStage) Missing() []transfer.Range { return nil }
func (wholeStage) Close() error              { return nil }
func (wholeStage) Put(int, int, []byte) error {
	return fault.Newf(fault.Usage, "receive", "nothing was asked for")
}
