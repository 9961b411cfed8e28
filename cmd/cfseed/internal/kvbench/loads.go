package kvbench

import (
	"context"
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
)

// load is one workload.
type load struct {
	name    string
	title   string
	clients int
	bound   float64 // throughput over etcd's, at least
	// prepare gives what one client does again and again, until stop.
	prepare func(ctx context.Context, at place) (op operation, stop func() error, err error)
}

// operation is one operation of a client.
type operation func(ctx context.Context, client int, r *rand.Rand) (done outcome, err error)

// place is where a load is put on.
type place struct {
	conns  []*grpc.ClientConn
	keys   int // loaded
	values [][]byte
}

func (p place) kv(client int) pb.KVClient { return pb.NewKVClient(p.conns[client%len(p.conns)]) }

// Least ratios of our throughput to etcd's.
const (
	asFast      = 1
	twiceAsFast = 2
)

// What the loads are made of.
const (
	maxConns = 16
	fewKeys  = 10_000 // loaded before the table with few keys
	longest  = 1000   // keys of the range of many
	watchers = 1000
	streams  = 10 // that the watches share
	leases   = 1000
)

func loads() []load {
	return []load{
		{"put-1", "put, 1 client", 1, asFast, puts},
		{"put-16", "put, 16 clients", 16, asFast, puts},
		{"put-256", "put, 256 clients", 256, twiceAsFast, puts},
		{"range", "range of one key, 16 clients", 16, asFast, ranges(1, false)},
		{"range-serializable", "serializable range of one key, 16 clients", 16, asFast, ranges(1, true)},
		{"range-1000", "range of 1,000 keys, 4 clients", 4, asFast, ranges(longest, false)},
		{"txn", "transaction (compare, put, range), 16 clients", 16, asFast, txns},
		{"watch", "events to 1,000 watches of a key, 1 client", 1, asFast, fanOut},
		{"keep-alive", "lease keep-alive, 16 clients", 16, asFast, keepAlives},
	}
}

func nothing() error { return nil }

func puts(_ context.Context, at place) (operation, func() error, error) {
	return func(ctx context.Context, client int, r *rand.Rand) (outcome, error) {
		_, err := at.kv(client).Put(ctx, &pb.PutRequest{Key: workload.Key(r.IntN(at.keys)), Value: at.value(r)})
		return outcome{count: 1}, err
	}, nothing, nil
}

func (p place) value(r *rand.Rand) []byte { return p.values[r.IntN(len(p.values))] }

// ranges reads so many keys from a random one on.
func ranges(keys int, serializable bool) func(context.Context, place) (operation, func() error, error) {
	return func(_ context.Context, at place) (operation, func() error, error) {
		return func(ctx context.Context, client int, r *rand.Rand) (outcome, error) {
			req := &pb.RangeRequest{Serializable: serializable}
			from := r.IntN(max(at.keys-keys, 0) + 1)
			req.Key = workload.Key(from)
			if keys > 1 {
				req.RangeEnd = workload.Key(from + keys)
			}
			resp, err := at.kv(client).Range(ctx, req)
			if err == nil && resp.GetCount() != int64(min(keys, at.keys)) {
				err = fmt.Errorf("a range of %d keys has %d", keys, resp.GetCount())
			}
			return outcome{count: 1}, err
		}, nothing, nil
	}
}

func txns(_ context.Context, at place) (operation, func() error, error) {
	return func(ctx context.Context, client int, r *rand.Rand) (outcome, error) {
		key := workload.Key(r.IntN(at.keys))
		_, err := at.kv(client).Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}},
			Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: at.value(r)}}},
				{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: workload.Key(r.IntN(at.keys))}}},
			},
		})
		return outcome{count: 1}, err
	}, nothing, nil
}

// keepAlives renews leases, each client over a stream of its own.
func keepAlives(ctx context.Context, at place) (operation, func() error, error) {
	ctx, cancel := context.WithCancel(ctx)
	grants := pb.NewLeaseClient(at.conns[0])
	for id := range leases {
		if _, err := grants.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(id + 1), TTL: 3600}); err != nil {
			cancel()
			return nil, nil, err
		}
	}
	open := make(map[int]pb.Lease_LeaseKeepAliveClient)
	for client := range keepAliveClients {
		stream, err := pb.NewLeaseClient(at.conns[client%len(at.conns)]).LeaseKeepAlive(ctx)
		if err != nil {
			cancel()
			return nil, nil, err
		}
		open[client] = stream
	}
	stop := func() error {
		defer cancel()
		for id := range leases {
			if _, err := grants.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id + 1)}); err != nil {
				return err
			}
		}
		return nil
	}
	return func(_ context.Context, client int, r *rand.Rand) (outcome, error) {
		if err := open[client].Send(&pb.LeaseKeepAliveRequest{ID: int64(r.IntN(leases) + 1)}); err != nil {
			return outcome{}, err
		}
		resp, err := open[client].Recv()
		if err == nil && resp.GetTTL() == 0 {
			err = fmt.Errorf("lease %d has ended", resp.GetID())
		}
		return outcome{count: 1}, err
	}, stop, nil
}

// keepAliveClients are the clients of keepAlives.
const keepAliveClients = 16
