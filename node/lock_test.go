package node

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/chainfire/cfseed/proto/v3electionpb"
	"github.com/chainfire/cfseed/proto/v3lockpb"
)

// session is a lease that etcd's client keeps alive.
func session(t *testing.T, c *clientv3.Client, ttl int) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(ttl))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Orphan)
	return s
}

// TestLocksOfBothKinds: a lock of etcd's client and one of the Lock service
// exclude each other, and the end of a holder's lease is the end of its lock.
func TestLocksOfBothKinds(t *testing.T) {
	n := start(t, "n", Config{}).ready()
	one, two := etcdClient(t, n), etcdClient(t, n)
	locks := v3lockpb.NewLockClient(connect(t, n.client))
	lease, err := one.Grant(within(t), 60)
	if err != nil {
		t.Fatal(err)
	}
	lock := func() <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n"), Lease: int64(lease.ID)})
			done <- err
		}()
		return done
	}
	waiting := func(places int64) {
		t.Helper()
		waitFor(t, "the other waits", func() bool {
			resp, err := one.Get(within(t), "n/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err == nil && resp.Count == places
		})
	}

	theirs := concurrency.NewMutex(session(t, two, 60), "n")
	if err := theirs.Lock(within(t)); err != nil {
		t.Fatal(err)
	}
	done := lock()
	waiting(2)
	select {
	case err := <-done:
		t.Fatalf("two have the lock: %v", err)
	default:
	}
	if err := theirs.Unlock(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := theirs.TryLock(within(t)); err != concurrency.ErrLocked {
		t.Fatalf("two have the lock: %v", err)
	}
	// The service's holder goes: nobody renews its lease any more.
	short := session(t, one, 2)
	if _, err := one.Revoke(within(t), lease.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n"), Lease: int64(short.Lease())}); err != nil {
		t.Fatal(err)
	}
	short.Orphan()
	if err := theirs.Lock(within(t)); err != nil { // when the lease has run out
		t.Fatal(err)
	}
	if resp, err := one.TimeToLive(within(t), short.Lease()); err != nil || resp.TTL != -1 {
		t.Errorf("the lease that was left: %v, %v", resp, err)
	}
}

// TestElectionsOfBothKinds: those who campaign through etcd's client and through
// the service are in one queue, and each sees what the other proclaims.
func TestElectionsOfBothKinds(t *testing.T) {
	n := start(t, "n", Config{}).ready()
	c := etcdClient(t, n)
	service := v3electionpb.NewElectionClient(connect(t, n.client))
	theirs := concurrency.NewElection(session(t, c, 60), "e")
	if err := theirs.Campaign(within(t), "client"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	seen := theirs.Observe(ctx)
	stream, err := service.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		t.Fatal(err)
	}
	both := func(want string) {
		t.Helper()
		if got := <-seen; len(got.Kvs) != 1 || string(got.Kvs[0].Value) != want {
			t.Fatalf("the client saw %v, want %q", got, want)
		}
		if got, err := stream.Recv(); err != nil || string(got.GetKv().GetValue()) != want {
			t.Fatalf("the service said %v, %v, want %q", got, err, want)
		}
	}
	both("client")
	lease, err := c.Grant(within(t), 60)
	if err != nil {
		t.Fatal(err)
	}
	won := make(chan *v3electionpb.LeaderKey, 1)
	go func() {
		resp, err := service.Campaign(within(t), &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: int64(lease.ID), Value: []byte("service")})
		if err != nil {
			t.Error(err)
		}
		won <- resp.GetLeader()
	}()
	waitFor(t, "the service campaigns", func() bool {
		resp, err := c.Get(within(t), "e/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == 2
	})
	if err := theirs.Resign(within(t)); err != nil {
		t.Fatal(err)
	}
	leader := <-won
	both("service")
	if _, err := service.Proclaim(within(t), &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("news")}); err != nil {
		t.Fatal(err)
	}
	both("news")
}

// TestLockAcrossLeaders: one that waits at a follower gets the lock under the
// next leader.
func TestLockAcrossLeaders(t *testing.T) {
	leader, _, rest := parted(t, func(*Config) {})
	c := rest[1].clientOf()
	at := func(s *seated) v3lockpb.LockClient {
		return v3lockpb.NewLockClient(connect(t, s.n.cfg.AdvertiseClient[0]))
	}
	held, err := at(rest[1]).Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n")})
	if err != nil {
		t.Fatal(err)
	}
	waiter := at(rest[0])
	done := make(chan error, 1)
	go func() {
		_, err := waiter.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n")})
		done <- err
	}()
	waitFor(t, "the other waits", func() bool {
		resp, err := c.Get(within(t), "n/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == 2
	})
	if err := leader.end(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the holder gives it up", func() bool {
		_, err := at(rest[1]).Unlock(within(t), &v3lockpb.UnlockRequest{Key: held.GetKey()})
		return err == nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Get(within(t), "n/", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the queue is %v, %v", resp, err)
	}
}

// TestLocksEndWithTheNode: a node that is asked to stop waits for no lock.
func TestLocksEndWithTheNode(t *testing.T) {
	n := start(t, "n", Config{}).ready()
	c := etcdClient(t, n)
	locks := v3lockpb.NewLockClient(connect(t, n.client))
	theirs := concurrency.NewMutex(session(t, c, 60), "n")
	if err := theirs.Lock(within(t)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := locks.Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n")})
		done <- err
	}()
	waitFor(t, "the other waits", func() bool {
		resp, err := c.Get(within(t), "n/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == 2
	})
	n.closes(patience)
	if err := <-done; err == nil {
		t.Error("a lock of a node that ended")
	}
}

// TestNoLocksAtALearner: it serves none, as it serves no other write or stream.
func TestNoLocksAtALearner(t *testing.T) {
	first := start(t, "first", Config{}).ready()
	learner := start(t, "learner", Config{Join: []string{first.client}, Learner: true}).ready()
	conn := connect(t, learner.client)
	_, err := v3lockpb.NewLockClient(conn).Lock(within(t), &v3lockpb.LockRequest{Name: []byte("n")})
	if !errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Errorf("lock: %v", err)
	}
	stream, err := v3electionpb.NewElectionClient(conn).Observe(within(t), &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Errorf("observe: %v", err)
	}
}
