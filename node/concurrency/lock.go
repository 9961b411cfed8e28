package concurrency

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/proto/v3electionpb"
	"github.com/chainfire/cfseed/proto/v3lockpb"
)

// Register adds both services to a server.
func (b Backend) Register(g *grpc.Server) {
	v3lockpb.RegisterLockServer(g, lockServer{b: b})
	v3electionpb.RegisterElectionServer(g, electionServer{b: b})
}

type lockServer struct {
	v3lockpb.UnimplementedLockServer
	b Backend
}

func (l lockServer) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	lease, err := l.b.lease(ctx, r.GetLease())
	if err != nil {
		return nil, err
	}
	e, err := l.b.enter(ctx, r.GetName(), lease, nil)
	if err != nil {
		return nil, err
	}
	if !e.first {
		if e.header, err = l.b.wait(ctx, e.place); err != nil {
			if errors.Is(err, errGone) {
				err = errExpired
			}
			return nil, err
		}
	}
	return &v3lockpb.LockResponse{Header: e.header, Key: e.key}, nil
}

// Unlock deletes the key, whoever it belongs to and whether or not it is there.
func (l lockServer) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	resp, err := l.b.KV.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.GetKey()})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: resp.GetHeader()}, nil
}
