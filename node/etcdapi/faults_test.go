package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node/etcdapi"
)

// What a client sees of a fault in the backend.
func TestFaultsOfTheBackend(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	kv := pb.NewKVClient(s.conn)
	calls := map[string]func() error{
		"put": func() error { _, err := kv.Put(ctx(t), &pb.PutRequest{Key: []byte("k")}); return err },
		"get": func() error { _, err := kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("k")}); return err },
		"txn": func() error { _, err := kv.Txn(ctx(t), &pb.TxnRequest{}); return err },
	}
	for _, c := range []struct {
		name       string
		err        error
		leaderless bool
		want       error
	}{
		{"leader changed", fault.Newf(fault.NotLeader, "propose", "dropped"), false, rpctypes.ErrLeaderChanged},
		{"no leader", fault.Newf(fault.NotLeader, "propose", "dropped"), true, rpctypes.ErrNoLeader},
		{"timeout", fault.New(fault.Timeout, "propose", context.DeadlineExceeded), false, rpctypes.ErrTimeout},
		{"timeout without a leader", fault.New(fault.Timeout, "propose", context.DeadlineExceeded), true, rpctypes.ErrNoLeader},
		{"stopping", fault.Newf(fault.Interrupted, "propose", "the node stops"), false, rpctypes.ErrStopped},
		{"unreachable", fault.Newf(fault.Unreachable, "propose", "cut off"), false, rpctypes.ErrTimeoutDueToConnectionLost},
		{"full", fault.Newf(fault.NoSpace, "propose", "quota"), false, rpctypes.ErrNoSpace},
		{"corrupt", fault.Newf(fault.Corrupt, "read", "bad block"), false, rpctypes.ErrCorrupt},
		{"permission", fault.Newf(fault.Permission, "propose", "no"), false, rpctypes.ErrPermissionDenied},
		{"etcd's own", rpctypes.ErrGRPCTooManyLearners, false, rpctypes.ErrTooManyLearners},
		{"etcd's own, wrapped", fmt.Errorf("while proposing: %w", rpctypes.ErrGRPCTooManyLearners), false, rpctypes.ErrTooManyLearners},
		{"etcd's client form", rpctypes.ErrTooManyLearners, false, rpctypes.ErrTooManyLearners},
	} {
		for name, call := range calls {
			t.Run(c.name+" "+name, func(t *testing.T) {
				s.fail(c.err)
				defer s.fail(nil)
				s.leader.Store(selfID)
				if c.leaderless {
					s.leader.Store(0)
				}
				err := call()
				if !errors.Is(rpctypes.Error(err), c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		}
	}
	s.leader.Store(selfID)
	s.fail(fault.Newf(fault.LeaseLost, "propose", "gone").WithHint("again"))
	if err := calls["put"](); !strings.Contains(err.Error(), "gone") {
		t.Errorf("a fault that etcd does not know came as %v", err)
	}
	// A member that is cut off still answers what it has.
	s.fail(fault.Newf(fault.Timeout, "read index", "no quorum"))
	if _, err := kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Errorf("serializable read: %v", err)
	}
}
