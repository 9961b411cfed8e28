//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// fallBehind writes one key over and over until the log of n, the leader,
// begins after what away, which does not run, has.
func (c *Cluster) fallBehind(n, away *Node) {
	c.t.Helper()
	match := memberIn(c.MustAsk("status"), away.ID).Num("match")
	// What is applied is flushed for every 64 MiB of log; only then may the log go.
	value := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	client := c.Client(n)
	c.EventuallyIn(time.Minute, "a log without what the follower needs", func() error {
		for i := range 8 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := client.Put(ctx, fmt.Sprintf("big/%d", i), value)
			cancel()
			if err != nil {
				return err
			}
		}
		r := c.CLI("status", "--endpoints", n.Client)
		if first := r.Num("first_index"); first <= match+1 {
			return errors.New("the log begins at " + fmt.Sprint(first))
		}
		return nil
	})
}

// TestFollowerFetchesADelta: a member that was away too long for the log gets a
// Raft snapshot, but of its files only those that it has not.
func TestFollowerFetchesADelta(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--snapshot-count", "20", "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source := c.New("n1")
	line := newProxy(t, hostOf(t, source.Peer)) // what others fetch from n1 comes down here
	source.Spawn("--initial-advertise-peer-urls", line.url())
	source.WaitReady(startPatience)
	cargo := c.load(128)
	for _, name := range []string{"n2", "n3"} {
		c.add(c.StartAwaiting(name))
	}
	away := c.Nodes[2]
	full := line.down.Load()
	if full < 2*128<<20 {
		t.Fatalf("two seeds of %d MiB, and only %d bytes came down: the proxy sees nothing", cargo.pairs*cargoValue>>20, full)
	}
	if leader := c.Leader(); leader != source {
		t.Fatalf("%s leads, want %s", leader.Name, source.Name)
	}
	away.Kill()
	c.fallBehind(source, away)
	before := line.down.Load()
	away.Restart()
	cargo.checkOn(c.Nodes...)
	fetched := line.down.Load() - before
	if got := source.Metric(snapshotsSent, "to="+away.ID); got < 1 {
		t.Errorf("%v Raft snapshots sent to a follower behind the log", got)
	}
	t.Logf("fetched %.1f %% of what a seed took before", 100*float64(fetched)/float64(full/2))
	if fetched > full/4 {
		t.Errorf("fetched %d bytes, where a whole seed took %d: it had most of it", fetched, full/2)
	}
	for _, n := range c.Nodes {
		n.Stop()
	}
	c.VerifyDirs(c.Nodes...)
}
