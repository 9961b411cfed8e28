package etcdapi

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
)

type leaseServer struct {
	pb.UnimplementedLeaseServer
	s *Server
}

func (l leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := l.s.room(ctx, grantCost); err != nil {
		return nil, err
	}
	if r.GetTTL() > lease.MaxTTL {
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	r = proto.CloneOf(r)
	r.TTL = max(r.TTL, l.s.opts.MinLeaseTTL)
	if r.ID == 0 {
		r.ID = l.s.backend.NewLeaseID()
	}
	resp, err := propose[*pb.LeaseGrantResponse](ctx, l.s, envelope.LeaseGrant, r)
	if err != nil {
		return nil, err
	}
	resp.Header = l.s.header(resp.GetHeader())
	return resp, nil
}

func (l leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	resp, err := propose[*pb.LeaseRevokeResponse](ctx, l.s, envelope.LeaseRevoke, r)
	if err != nil {
		return nil, err
	}
	resp.Header = l.s.header(resp.GetHeader())
	return resp, nil
}

// LeaseKeepAlive renews leases one after the other. The header of an answer is
// of the moment before the renewal: a lease that was revoked at a revision is
// never told to be alive at it.
func (l leaseServer) LeaseKeepAlive(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := l.s.wantsLeader(stream.Context()); err != nil {
			return err
		}
		if err := l.mayRenew(stream.Context(), req.GetID()); err != nil {
			return l.s.fail(err)
		}
		resp := &pb.LeaseKeepAliveResponse{Header: l.s.header(nil), ID: req.GetID()}
		if resp.TTL, err = l.s.backend.RenewLease(stream.Context(), req.GetID()); err != nil {
			return l.s.fail(err)
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// mayRenew asks for the permission to write the keys that a renewal keeps.
func (l leaseServer) mayRenew(ctx context.Context, id int64) error {
	return l.s.reading(ctx, func(rules *auth.Rules, c envelope.Client) error {
		if err := rules.Known(c); err != nil {
			return err
		}
		return rules.CheckLease(c, id, l.keysOf(ctx))
	}, func() error { return nil })
}

func (l leaseServer) keysOf(ctx context.Context) auth.KeysOf {
	return func(id int64, fn func([]byte) error) error {
		all, err := l.s.backend.LeaseKeys(ctx, id)
		if err != nil {
			return err
		}
		return each(all, fn)
	}
}

func each(keys [][]byte, fn func(key []byte) error) error {
	for _, key := range keys {
		if err := fn(key); err != nil {
			return err
		}
	}
	return nil
}

// LeaseTimeToLive answers a time to live of -1 for a lease that there is not.
func (l leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	c, err := l.s.Client(ctx)
	if err != nil {
		return nil, err
	}
	known, err := l.s.backend.LeaseTimeToLive(ctx, r.GetID(), r.GetKeys())
	if err == nil && r.GetKeys() { // what is told is what is asked about
		err = l.s.backend.Auth().CheckLeaseKeys(c, r.GetID(), func(_ int64, fn func([]byte) error) error { return each(known.Keys, fn) })
	}
	if err != nil {
		return nil, l.s.fail(err)
	}
	resp := &pb.LeaseTimeToLiveResponse{Header: l.s.header(nil), ID: r.GetID(), TTL: known.TTL, GrantedTTL: known.GrantedTTL, Keys: known.Keys}
	if known.GrantedTTL == 0 {
		resp.TTL = -1
	}
	return resp, nil
}

func (l leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := l.s.backend.ReadIndex(ctx); err != nil {
		return nil, l.s.fail(err)
	}
	var ids []int64
	err := l.s.reading(ctx, (*auth.Rules).Known, func() (err error) {
		ids, err = l.s.backend.Leases(ctx)
		return err
	})
	if err == nil {
		err = l.mayList(ctx, ids)
	}
	if err != nil {
		return nil, l.s.fail(err)
	}
	resp := &pb.LeaseLeasesResponse{Header: l.s.header(nil)}
	for _, id := range ids {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// mayList asks for the permission to read every key of every lease.
func (l leaseServer) mayList(ctx context.Context, ids []int64) error {
	return l.s.reading(ctx, func(rules *auth.Rules, c envelope.Client) error {
		if rules.Admin(c) == nil {
			return nil
		}
		for _, id := range ids {
			if err := rules.CheckLeaseKeys(c, id, l.keysOf(ctx)); err != nil {
				return err
			}
		}
		return nil
	}, func() error { return nil })
}
