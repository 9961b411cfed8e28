//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/shape"
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

// merge lets the members merge all their tables, so that none is left that has what
// changed and nothing else, nor one that a merge on its own account would replace.
func (c *Cluster) merge() {
	c.t.Helper()
	client := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	for _, e := range client.Endpoints() {
		if _, err := client.Defragment(ctx, e); err != nil {
			c.t.Fatalf("defragment: %v", err)
		}
	}
}

// TestFollowerFetchesADelta: a member that was away too long for the log gets a
// Raft snapshot, but of its files only those that it has not.
func TestFollowerFetchesADelta(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--snapshot-count", "20", "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source := c.New("n1")
	line := newProxy(t, hostOf(t, source.Peer)) // what others fetch from n1 comes down here
	source.Spawn("--initial-advertise-peer-urls", line.URL())
	source.WaitReady(startPatience)
	cargo := c.load(128)
	c.merge() // a busy machine would put it off until the follower has its tables
	c.add(c.StartAwaiting("n2"))
	full := line.Bytes(shape.Down)
	if full < 128<<20 {
		t.Fatalf("a seed of %d MiB, and only %d bytes came down: the proxy sees nothing", cargo.pairs*cargoValue>>20, full)
	}
	away := c.StartAwaiting("n3")
	c.add(away)
	if more := line.Bytes(shape.Down) - full; more > full/4 {
		t.Errorf("%d bytes came from the leader for a seed that a follower could serve", more)
	}
	if leader := c.Leader(); leader != source {
		t.Fatalf("%s leads, want %s", leader.Name, source.Name)
	}
	away.Kill()
	c.fallBehind(source, away)
	before := line.Bytes(shape.Down)
	away.Restart()
	cargo.checkOn(c.Nodes...)
	fetched := line.Bytes(shape.Down) - before
	if got := source.Metric(snapshotsSent, "to="+away.ID); got < 1 {
		t.Errorf("%v Raft snapshots sent to a follower behind the log", got)
	}
	t.Logf("fetched %.1f %% of what a seed took before", 100*float64(fetched)/float64(full))
	// Without a delta it is all of it. The source may have merged a few of its tables.
	if fetched > full/10 {
		t.Errorf("fetched %d bytes, where a whole seed took %d: it had most of it", fetched, full)
	}
	for _, n := range c.Nodes {
		n.Stop()
	}
	c.VerifyDirs(c.Nodes...)
}

// logged gives the last line of the node's log that contains the text.
func (n *Node) logged(text string) string {
	var last string
	for line := range strings.Lines(n.LogTail(1 << 30)) {
		if strings.Contains(line, text) {
			last = line
		}
	}
	return last
}

// TestFollowerFetchesRecords: where what changed is all over the keys, and the
// leader has merged its tables, a member that was away too long has none of them; it
// makes them of the records of its own, while it runs.
func TestFollowerFetchesRecords(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--snapshot-count", "20", "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source := c.New("n1")
	line := newProxy(t, hostOf(t, source.Peer))
	source.Spawn("--initial-advertise-peer-urls", line.URL())
	source.WaitReady(startPatience)
	l := c.ledger(*deltaMiB)
	away := c.StartAwaiting("n2")
	c.add(away)
	full := line.Bytes(shape.Down)
	c.add(c.StartAwaiting("n3"))
	if leader := c.Leader(); leader != source {
		t.Fatalf("%s leads, want %s", leader.Name, source.Name)
	}
	away.Kill()
	l.change(l.rng.Perm(l.n)[:l.n/20])
	c.fallBehind(source, away)
	c.merge()
	before := line.Bytes(shape.Down)
	// A fast line to a busy machine has all tables before they could be made.
	line.Rate(shape.Down, 300<<10)
	away.Restart()
	c.AwaitEqual(c.Nodes...)
	line.Rate(shape.Down, 0)
	fetched := line.Bytes(shape.Down) - before
	l.checkOn(away)
	if got := source.Metric(snapshotsSent, "to="+away.ID); got < 1 {
		t.Errorf("%v Raft snapshots sent to a follower behind the log", got)
	}
	ended := away.logged("delta ended")
	t.Logf("%.1f %% of what a seed took before came down: %s", 100*float64(fetched)/float64(full), ended)
	if fetched > full*35/100 {
		t.Errorf("fetched %d bytes with 5 %% changed, where a whole seed took %d", fetched, full)
	}
	if !strings.Contains(ended, "bytes_made") || strings.Contains(ended, "tables_made=0") {
		t.Errorf("it has made no table: %s", ended)
	}
	for _, n := range c.Nodes {
		n.Stop()
	}
	c.VerifyDirs(c.Nodes...)
}

// TestPullDeltaOnASlowLine: what differs is all over the keys, and all tables are
// others than the base's. What comes over a slow line is little more than the lists.
func TestPullDeltaOnASlowLine(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	_, line := c.behind("n1")
	l := c.ledger(32)
	base, _ := c.pullDelta("base", line.URL(), "", "", "--lease-ttl", "3s")
	c.AwaitNoLease() // or the next pull would share its seed
	l.change(l.rng.Perm(l.n)[:l.n/20])
	c.merge()
	before := line.Bytes(shape.Down)
	line.Shape(shape.Down, shape.Shape{Rate: 256 << 10, Window: 64 << 10})
	n, r := c.pullDelta("n2", line.URL(), base.DataDir, "auto")
	percent := 100 * float64(line.Bytes(shape.Down)-before) / r.Num("bytes_total")
	t.Logf("%.1f %% of %.0f bytes came down in %.2fs: %s", percent, r.Num("bytes_total"), r.Num("seconds"), r.Stderr)
	if percent > 30 || r.Str("delta") != "ranges" {
		t.Errorf("%.1f %% came down: %s", percent, r)
	}
	c.VerifyDirs(n)
}

// TestPullDelta: a member that was away too long is seeded anew, under an ID of
// its own, with its old directory as a base that is only read.
func TestPullDelta(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source, line := c.behind("n1")
	cargo := c.load(96)
	c.merge() // a busy machine would put it off until the old member has its tables
	old := c.StartAwaiting("n2")
	c.add(old, "--learner") // it may be away
	fresh := c.New("n3")
	pull := func(base string) *command { return c.pull(fresh, line.URL(), "--delta", base) }
	refused(t, "a base that runs", pull(old.DataDir).wait(startPatience), "in_use")
	if code := old.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	c.MustAsk("member", "remove", old.ID)
	other := NewCluster(t)
	stranger := other.Start("x1")
	stranger.Stop()
	refused(t, "a base of another cluster", pull(stranger.DataDir).wait(startPatience), "refused")
	refused(t, "a base that is no member's", pull(t.TempDir()).wait(startPatience), "refused")
	if r := c.MustAsk("member", "list"); strings.Contains(r.Stdout, `"reserved"`) {
		t.Errorf("a refused pull has reserved a member: %s", r)
	}

	cargo.more(1)
	before, seen := treeHash(t, old.DataDir), line.Bytes(shape.Down)
	r := pull(old.DataDir).wait(startPatience)
	if r.Code != 0 {
		t.Fatalf("pull: %s", r)
	}
	fetched := line.Bytes(shape.Down) - seen
	t.Logf("fetched %d of %.0f bytes", fetched, r.Num("bytes_total"))
	// The source may have merged some of its tables meanwhile.
	if float64(fetched) > 0.3*r.Num("bytes_total") || r.Num("bytes_reused") < 0.7*r.Num("bytes_total") {
		t.Errorf("fetched %d bytes with 1 %% changed: %s", fetched, r)
	}
	if after := treeHash(t, old.DataDir); after != before {
		t.Errorf("the old directory was %s, is %s", before, after)
	}
	fresh.Spawn("--join", source.Client)
	fresh.WaitReady(startPatience)
	c.AwaitRole("voter", fresh)
	if fresh.ID == old.ID {
		t.Errorf("it is member %s again", old.ID)
	}
	cargo.checkOn(source, fresh)
	c.noRaftSnapshots()
}
