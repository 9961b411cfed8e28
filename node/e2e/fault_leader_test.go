//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/shape"
)

// TestLeaderChangedMidPull kills the leader while a follower serves a seed; the
// pull goes on, the new leader knows the lease and admits the newcomer.
func TestLeaderChangedMidPull(t *testing.T) {
	t.Parallel()
	c, nodes, lines := founders(t, 3, "--snapshot-count", "50")
	data := c.load(32)
	w := c.StartWriter(2, 200)
	old := c.Leader()
	source := c.Followers()[0]
	line := lines[indexOf(t, nodes, source)]
	line.Rate(shape.Down, 6<<20)
	n := c.New("n4")
	line.Recount()
	pull := c.pull(n, line.Addr())
	pull.await(line.NoticeAfter(4<<20), "the first bytes")
	line.Rate(shape.Down, 1<<20) // half a minute of it for what follows
	term := c.MustAsk("status").Num("term")
	old.Kill()
	leader := c.Leader()
	if leader == old || c.MustAsk("status").Num("term") <= term {
		t.Fatal("the leader has not changed")
	}
	acked := w.Acked()
	w.AwaitMore(200)
	select {
	case <-pull.done:
		t.Error("the pull ended before the change of leader")
	default:
	}
	line.Rate(shape.Down, 0)
	r := pull.ok(60 * time.Second)
	if strings.Contains(r.Stderr, "failover") {
		t.Errorf("the pull has changed its source: %s", r.Stderr)
	}
	if lease := leaseIn(c.MustAsk("status"), r.Str("member_id")); lease == nil || lease.Num("hold") > r.Num("position", "index") {
		t.Errorf("the new leader's lease is %v", lease)
	}
	resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
	t.Logf("%d writes before the change, %d now; the seed is at %.0f; %.2f %% of its bytes came twice", acked, w.Acked(),
		r.Num("position", "index"), resent)
	if resent > interrupted {
		t.Errorf("%.2f %% of the bytes came twice: %s", resent, r.Stderr)
	}
	n.joins(leader)
	w.CheckOn()
	data.checkOn(c.Running()...)
	c.AwaitNoLease()
}

func indexOf(t *testing.T, nodes []*Node, n *Node) int {
	t.Helper()
	for i := range nodes {
		if nodes[i] == n {
			return i
		}
	}
	t.Fatalf("%s is not among the nodes", n.Name)
	return -1
}

// TestTwoPullsAtOnce pulls twice into one directory, of which one wins, and
// into two directories, which share one checkpoint.
func TestTwoPullsAtOnce(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(32)
	line.Rate(shape.Down, 8<<20)
	one, two := c.New("n2"), c.New("n3")
	first := c.pull(one, line.Addr())
	first.await(line.NoticeAfter(2<<20), "the first bytes")
	line.Rate(shape.Down, 1<<20) // the first must not be over before
	refused(t, "a second pull into the same directory", c.pull(one, line.Addr()).wait(30*time.Second), "in_use")
	line.Rate(shape.Down, 8<<20)
	second := c.pull(two, line.Addr())
	second.await(line.NoticeAfter(6<<20), "bytes of both")
	if names := seedsOf(t, source); len(names) != 1 {
		t.Errorf("two pulls are served from %v", names)
	}
	line.Rate(shape.Down, 0)
	a, b := first.ok(60*time.Second), second.ok(60*time.Second)
	if a.Str("manifest_root") != b.Str("manifest_root") || a.Str("lease_id") == b.Str("lease_id") || a.Str("member_id") == b.Str("member_id") {
		t.Errorf("two pulls, one seed, two leases and members were wanted:\n%s\n%s", a, b)
	}
	one.Spawn("--join", source.Client)
	two.Spawn("--join", source.Client)
	for _, n := range []*Node{one, two} { // admitted one after the other
		n.WaitReady(startPatience)
	}
	c.AwaitRole("voter", one, two)
	c.noRaftSnapshots()
	data.checkOn(source, one, two)
	c.AwaitNoLease()
	c.Eventually("no checkpoint left", func() error {
		if names := seedsOf(t, source); len(names) > 0 {
			return os.ErrExist
		}
		return nil
	})
}

// seedsOf lists the checkpoints that a member keeps for those it serves.
func seedsOf(t *testing.T, n *Node) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.DataDir, "seeds"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
