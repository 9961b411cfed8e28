package etcdapi_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/etcdapi"
)

// TestLeaseLife goes through every call with etcd's own client.
func TestLeaseLife(t *testing.T) {
	s := serve(t, etcdapi.Options{MinLeaseTTL: 5}, nil)
	c := ctx(t)

	given, err := s.cli.Grant(c, 60)
	if err != nil || given.ID <= 0 || given.TTL != 60 || given.GetClusterId() != clusterID || given.GetRevision() != 1 {
		t.Fatal(given, err)
	}
	// A short one is made as long as leases are at least.
	short, err := s.cli.Grant(c, 1)
	if err != nil || short.TTL != 5 || short.ID == given.ID {
		t.Fatal(short, err)
	}
	api := pb.NewLeaseClient(s.conn)
	chosen, err := api.LeaseGrant(c, &pb.LeaseGrantRequest{ID: 7, TTL: -1})
	if err != nil || chosen.GetID() != 7 || chosen.GetTTL() != 5 {
		t.Fatal(chosen, err)
	}
	if _, err := api.LeaseGrant(c, &pb.LeaseGrantRequest{ID: 7, TTL: 60}); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseExist) {
		t.Error(err)
	}
	proposed := s.proposals.Load()
	if _, err := s.cli.Grant(c, 9_000_000_001); !errors.Is(err, rpctypes.ErrLeaseTTLTooLarge) || s.proposals.Load() != proposed {
		t.Error(err)
	}

	if _, err := s.cli.Put(c, "b", "1", clientv3.WithLease(7)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli.Put(c, "a", "1", clientv3.WithLease(7)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli.Put(c, "a", "1", clientv3.WithLease(8)); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Error(err)
	}
	left, err := s.cli.TimeToLive(c, 7, clientv3.WithAttachedKeys())
	if err != nil || left.TTL != 4 || left.GrantedTTL != 5 || len(left.Keys) != 2 || string(left.Keys[0]) != "a" || string(left.Keys[1]) != "b" {
		t.Error(left, err)
	}
	if left, err := s.cli.TimeToLive(c, 7); err != nil || len(left.Keys) > 0 {
		t.Error(left, err)
	}
	if left, err := s.cli.TimeToLive(c, 8, clientv3.WithAttachedKeys()); err != nil || left.TTL != -1 || left.GrantedTTL != 0 || left.ID != 8 {
		t.Error(left, err)
	}
	ids := func() (out []clientv3.LeaseID) {
		t.Helper()
		all, err := s.cli.Leases(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all.Leases {
			out = append(out, l.ID)
		}
		return out
	}
	if got := ids(); !slices.Equal(got, []clientv3.LeaseID{7, given.ID, short.ID}) {
		t.Error(got)
	}

	gone, err := s.cli.Revoke(c, 7)
	if err != nil || gone.Header.GetRevision() != 4 {
		t.Error(gone, err)
	}
	if _, err := s.cli.Revoke(c, 7); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Error(err)
	}
	if resp, err := s.cli.Get(c, "a", clientv3.WithFromKey()); err != nil || len(resp.Kvs) != 0 || resp.Header.GetRevision() != 4 {
		t.Error(resp, err)
	}
	if got := ids(); slices.Contains(got, 7) {
		t.Error(got)
	}
}

func TestLeaseKeepAlive(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	c := ctx(t)
	s.must(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	if ka, err := s.cli.KeepAliveOnce(c, 7); err != nil || ka.TTL != 60 || ka.ID != 7 || ka.GetMemberId() != selfID {
		t.Error(ka, err)
	}
	if _, err := s.cli.KeepAliveOnce(c, 8); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Error(err)
	}
	stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*pb.LeaseKeepAliveResponse{{ID: 7, TTL: 60}, {ID: 8}, {ID: 7, TTL: 60}} {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: want.ID}); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil || got.GetHeader().GetRevision() != 1 {
			t.Fatal(got, err)
		}
		if got.Header = nil; !proto.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}

// TestLeaseFailures: what the backend says reaches the client as etcd says it.
func TestLeaseFailures(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	c := ctx(t)
	s.leader.Store(0)
	s.fail(fault.Newf(fault.NotLeader, "lease", "nobody leads"))
	api := pb.NewLeaseClient(s.conn)
	renew := func(c context.Context) error {
		stream, err := api.LeaseKeepAlive(c)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 7}); err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for name, call := range map[string]func() error{
		"grant":        func() error { _, err := api.LeaseGrant(c, &pb.LeaseGrantRequest{TTL: 60}); return err },
		"revoke":       func() error { _, err := api.LeaseRevoke(c, &pb.LeaseRevokeRequest{ID: 7}); return err },
		"keep-alive":   func() error { return renew(c) },
		"time to live": func() error { _, err := api.LeaseTimeToLive(c, &pb.LeaseTimeToLiveRequest{ID: 7}); return err },
		"list":         func() error { _, err := api.LeaseLeases(c, &pb.LeaseLeasesRequest{}); return err },
	} {
		if err := call(); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A stream that wants a leader hears that there is none at its next renewal.
	s.fail(nil)
	s.leader.Store(selfID)
	s.must(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	stream, err := api.LeaseKeepAlive(clientv3.WithRequireLeader(c))
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 7}); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	s.leader.Store(0)
	if err := ask(); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
		t.Error(err)
	}

	// etcd's learner has no leases.
	s.leader.Store(selfID)
	s.learner.Store(true)
	wait, cancel := context.WithTimeout(c, 10*time.Second)
	defer cancel()
	if err := renew(wait); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Error(err)
	}
	if _, err := api.LeaseLeases(c, &pb.LeaseLeasesRequest{}); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Error(err)
	}
}

// TestLeaseListIsLinearizable: etcd's list is of what the member asked has
// applied; ours waits.
func TestLeaseListIsLinearizable(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	late := func() { s.must(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: 7, TTL: 60}) }
	s.late.Store(&late)
	if all, err := s.cli.Leases(ctx(t)); err != nil || len(all.Leases) != 1 || all.Leases[0].ID != 7 {
		t.Error(all, err)
	}
}
