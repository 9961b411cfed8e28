package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestLimitsOnClients: requests, transactions and streams beyond what the node
// was started with are refused, or wait; the largest request is replicated.
func TestLimitsOnClients(t *testing.T) {
	all := foundWith(t, func(c *Config) { c.MaxRequestBytes, c.MaxTxnOps, c.MaxStreams = MaxRequestBytes, 3, 2 }, "a", "b", "c")
	for _, at := range all { // a follower forwards it
		kv := pb.NewKVClient(connect(t, at.n.cfg.AdvertiseClient[0]))
		if _, err := kv.Put(within(t), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, MaxRequestBytes-1<<10)}); err != nil {
			t.Errorf("the largest request: %v", err)
		}
		if _, err := kv.Put(within(t), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, MaxRequestBytes)}); !errors.Is(err, rpctypes.ErrGRPCRequestTooLarge) {
			t.Errorf("a larger request: %v", err)
		}
	}
	c := all[0].clientOf()
	for n, want := range map[int]error{3: nil, 4: rpctypes.ErrTooManyOps} {
		var ops []clientv3.Op
		for i := range n {
			ops = append(ops, clientv3.OpPut(fmt.Sprint("op", i), "v"))
		}
		if _, err := c.Txn(within(t)).Then(ops...).Commit(); !errors.Is(err, want) {
			t.Errorf("%d operations: %v, want %v", n, err, want)
		}
	}

	conn := connect(t, all[0].n.cfg.AdvertiseClient[0])
	for range 2 {
		if _, err := pb.NewWatchClient(conn).Watch(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a third stream: %v", err)
	}
}
