package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/node/policy"
)

// TestAutoCompaction: the leader compacts what is not to be kept, for all
// members, and goes on under the next leader.
func TestAutoCompaction(t *testing.T) {
	const kept = 5
	leader, follower, rest := parted(t, func(c *Config) {
		c.Compact = policy.CompactorOptions{Revisions: kept, Interval: 50 * time.Millisecond}
	})
	compactedAt := func(s *seated, c *clientv3.Client) {
		t.Helper()
		var revision int64
		for i := range 20 {
			resp, err := c.Put(within(t), "k", fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			revision = resp.Header.Revision
		}
		waitFor(t, "the compaction", func() bool { return s.state.machine().CompactRevision() == revision-kept })
		if _, err := c.Get(within(t), "k", clientv3.WithRev(revision-kept-1)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("what is not to be kept: %v", err)
		}
		if resp, err := c.Get(within(t), "k", clientv3.WithRev(revision-kept)); err != nil || string(resp.Kvs[0].Value) != fmt.Sprint(19-kept) {
			t.Errorf("what is to be kept: %v, %v", resp, err)
		}
	}
	compactedAt(follower, leader.clientOf())
	if err := leader.end(); err != nil {
		t.Fatal(err)
	}
	for _, s := range rest {
		compactedAt(s, s.clientOf())
	}
}
