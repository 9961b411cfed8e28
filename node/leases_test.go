package node

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/node/policy"
)

// parted gives a leader and the others of a cluster, with a client of each.
func parted(t *testing.T, change func(*Config)) (leader, follower *seated, rest []*seated) {
	t.Helper()
	all := foundWith(t, change, "a", "b", "c")
	i := -1
	waitFor(t, "a leader", func() bool {
		i = slices.IndexFunc(all, func(s *seated) bool { return s.status().IsLeader() })
		return i >= 0
	})
	rest = slices.Delete(slices.Clone(all), i, i+1)
	return all[i], rest[0], rest
}

func (s *seated) clientOf() *clientv3.Client {
	s.t.Helper()
	return etcdClient(s.t, &running{client: s.n.cfg.AdvertiseClient[0]})
}

// leaseHere is what a member has applied of a lease; zero when it is not there.
func (s *seated) leaseHere(id clientv3.LeaseID) lease.Lease {
	s.t.Helper()
	var all []lease.Lease
	if err := s.state.read(func(m *state.Machine) (err error) { all, err = m.Leases(); return err }); err != nil {
		s.t.Fatal(err)
	}
	for _, l := range all {
		if l.ID == int64(id) {
			return l
		}
	}
	return lease.Lease{}
}

// TestLeasesAtAFollower: what only the leader knows is answered wherever it is
// asked, and leases end by themselves.
func TestLeasesAtAFollower(t *testing.T) {
	_, follower, _ := parted(t, func(*Config) {})
	c := follower.clientOf()
	ctx := within(t)
	long, err := c.Grant(ctx, 60)
	if err != nil || long.TTL != 60 {
		t.Fatal(long, err)
	}
	least, err := c.Grant(ctx, 0) // one and a half elections, rounded up
	if err != nil || least.TTL != 2 {
		t.Fatal(least, err)
	}
	short, err := c.Grant(ctx, 4)
	if err != nil {
		t.Fatal(err)
	}
	for key, id := range map[string]clientv3.LeaseID{"long": long.ID, "short": short.ID} {
		if _, err := c.Put(ctx, key, "v", clientv3.WithLease(id)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the short leases end", func() bool {
		return follower.leaseHere(short.ID) == lease.Lease{} && follower.leaseHere(least.ID) == lease.Lease{}
	})
	got, err := c.Get(ctx, "", clientv3.WithFromKey())
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Key) != "long" {
		t.Fatal(got, err)
	}
	before, err := c.TimeToLive(ctx, long.ID, clientv3.WithAttachedKeys())
	if err != nil || before.GrantedTTL != 60 || before.TTL > 59 || len(before.Keys) != 1 || string(before.Keys[0]) != "long" {
		t.Fatal(before, err)
	}
	if ka, err := c.KeepAliveOnce(ctx, long.ID); err != nil || ka.TTL != 60 {
		t.Fatal(ka, err)
	}
	var many sync.WaitGroup
	for range 40 {
		many.Go(func() {
			if ka, err := c.KeepAliveOnce(ctx, long.ID); err != nil || ka.TTL != 60 {
				t.Error(ka, err)
			}
		})
	}
	many.Wait()
	if after, err := c.TimeToLive(ctx, long.ID); err != nil || after.TTL <= before.TTL-1 {
		t.Error(before, after, err)
	}
	if _, err := c.KeepAliveOnce(ctx, short.ID); err == nil {
		t.Error("a lease that ended was renewed")
	}
	if gone, err := c.TimeToLive(ctx, short.ID); err != nil || gone.TTL != -1 {
		t.Error(gone, err)
	}
}

// TestLeaseKeepsItsTimeAcrossLeaders: a long lease does not begin anew under the
// next leader, and a renewal under that one counts in full under the one after.
func TestLeaseKeepsItsTimeAcrossLeaders(t *testing.T) {
	const interval = 200 * time.Millisecond
	leader, _, rest := parted(t, func(c *Config) { c.lessor = policy.LessorOptions{CheckpointInterval: interval} })
	given, err := leader.clientOf().Grant(within(t), 600)
	if err != nil {
		t.Fatal(err)
	}
	const passed = 3
	waitFor(t, "a checkpoint", func() bool {
		return !slices.ContainsFunc(rest, func(s *seated) bool {
			l := s.leaseHere(given.ID)
			return l.Remaining == 0 || l.Remaining > 600-passed
		})
	})
	if err := leader.end(); err != nil {
		t.Fatal(err)
	}
	c := rest[0].clientOf()
	left, err := c.TimeToLive(within(t), given.ID)
	if err != nil || left.TTL > 600-passed || left.GrantedTTL != 600 {
		t.Fatal(left, err)
	}
	renewed := time.Now()
	if ka, err := c.KeepAliveOnce(within(t), given.ID); err != nil || ka.TTL != 600 {
		t.Fatal(ka, err)
	}
	for _, s := range rest {
		waitFor(t, "the checkpoint is taken back", func() bool {
			l := s.leaseHere(given.ID)
			return l.TTL == 600 && (l.Remaining == 0 || l.Remaining > 600-passed)
		})
	}
	after, err := c.TimeToLive(within(t), given.ID)
	if since := int64(time.Since(renewed).Seconds()) + 1; err != nil || after.TTL < 600-since {
		t.Error(after, since, err)
	}
}

// TestNoQuorumNoRenewal: a leader that nobody hears answers no keep-alive and
// ends no lease.
func TestNoQuorumNoRenewal(t *testing.T) {
	leader, _, rest := parted(t, func(*Config) {})
	c := leader.clientOf()
	end := func(s *seated) {
		t.Helper()
		if err := s.end(); err != nil {
			t.Fatal(err)
		}
	}
	const ttl = 3
	var given *clientv3.LeaseGrantResponse
	for end(rest[0]); ; rest[1].waitReady() {
		var err error
		if given, err = c.Grant(within(t), ttl); err != nil {
			t.Fatal(err)
		}
		if end(rest[1]); leader.leaseHere(given.ID).TTL == ttl {
			break
		}
		rest[1].run() // the lease has ended before the member did
	}
	ctx, cancel := context.WithTimeout(t.Context(), (ttl+1)*time.Second)
	defer cancel()
	if ka, err := c.KeepAliveOnce(ctx, given.ID); err == nil {
		t.Error(ka)
	}
	<-ctx.Done()
	if leader.leaseHere(given.ID).TTL != ttl {
		t.Error("the lease has ended without a quorum")
	}
}

func TestLeaseIDs(t *testing.T) {
	ids, seen := newLeaseIDs(ident.Nonce{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), map[int64]bool{}
	for range 5 { // over the end of the numbers
		id := ids.next()
		if id <= 0 || seen[id] {
			t.Errorf("ID %d", id)
		}
		seen[id] = true
	}
}

func TestMinLeaseTTL(t *testing.T) {
	for _, c := range []struct {
		heartbeat, election time.Duration
		want                int64
	}{
		{100 * time.Millisecond, time.Second, 2}, {20 * time.Millisecond, 200 * time.Millisecond, 1}, {500 * time.Millisecond, 5 * time.Second, 8},
	} {
		if got := minLeaseTTL(Config{Heartbeat: c.heartbeat, Election: c.election}); got != c.want {
			t.Errorf("election timeout %s: %d, want %d", c.election, got, c.want)
		}
	}
}
