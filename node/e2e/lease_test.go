//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestLeasesOutliveTheLeader kills the leader while one lease is kept alive
// through a follower and others run out: those end under the next leader, with
// their keys, and the one that is kept stays.
func TestLeasesOutliveTheLeader(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	old := c.Leader()
	others := slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return n == old })
	cli := c.Client(others...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	const ends = 20
	grant := func(ttl int64, keys ...string) clientv3.LeaseID {
		t.Helper()
		given, err := cli.Grant(ctx, ttl)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if _, err := cli.Put(ctx, key, "v", clientv3.WithLease(given.ID)); err != nil {
				t.Fatal(err)
			}
		}
		return given.ID
	}
	kept := grant(15, "kept/a", "kept/b")
	for i := range ends {
		grant(10, fmt.Sprintf("ends/%02d", i), fmt.Sprintf("ends/%02d/more", i))
	}
	answers, err := cli.KeepAlive(ctx, kept)
	if err != nil {
		t.Fatal(err)
	}
	if first, ok := <-answers; !ok || first.TTL != 15 {
		t.Fatal(first, ok)
	}
	old.Kill()
	c.Leader()
	count := func(prefix string) int64 {
		t.Helper()
		resp, err := cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return resp.Count
	}
	c.Eventually("the leases end under the next leader", func() error {
		if n := count("ends/"); n > 0 {
			return fmt.Errorf("%d keys are left", n)
		}
		all, err := cli.Leases(ctx)
		if err != nil || len(all.Leases) != 1 || all.Leases[0].ID != kept {
			return fmt.Errorf("leases %v, %v", all, err)
		}
		return nil
	})
	renewed, going := <-answers // asked for after the leases of the others ended
	if left, err := cli.TimeToLive(ctx, kept, clientv3.WithAttachedKeys()); err != nil || left.GrantedTTL != 15 || len(left.Keys) != 2 || !going || renewed.TTL != 15 {
		t.Fatal(renewed, left, err)
	}

	old.Restart()
	old.WaitReady(startPatience)
	if _, err := cli.Revoke(ctx, kept); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.KeepAliveOnce(ctx, kept); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("a keep-alive of what was revoked: %v", err)
	}
	if n := count("kept/"); n != 0 {
		t.Errorf("%d keys are left of a lease that was revoked", n)
	}
	c.AwaitEqual(nodes...)
	for _, n := range nodes {
		n.Stop()
	}
	c.VerifyDirs(nodes...)
}
