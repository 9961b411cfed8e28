//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/shape"
)

// leaseIn finds the seed lease of a member in a status; nil when there is none.
func leaseIn(status Result, member string) *Result {
	leases, _ := status.Path("leases").([]any)
	for _, l := range leases {
		if object, ok := l.(map[string]any); ok && object["member_id"] == member {
			return &Result{JSON: object}
		}
	}
	return nil
}

// awaitNoLeaseOf waits until the lease of a member has ended.
func (c *Cluster) awaitNoLeaseOf(member string) {
	c.t.Helper()
	c.Eventually("the end of the lease", func() error {
		if r := c.MustAsk("status"); leaseIn(r, member) != nil {
			return fmt.Errorf("it lives: %s", r)
		}
		return nil
	})
}

// awaitTruncated waits until the leader's log begins after index, under a load.
func (g *cargo) awaitTruncated(index float64) {
	g.c.t.Helper()
	g.c.EventuallyIn(60*time.Second, fmt.Sprintf("a log that begins after %.0f", index), func() error {
		if r := g.c.MustAsk("status"); r.Num("first_index") <= index {
			g.more(16)
			return fmt.Errorf("it begins at %.0f", r.Num("first_index"))
		}
		return nil
	})
}

// TestLogCompactedDuringSlowPull writes several times more than a member keeps
// of its log while a seed is pulled slowly. The log is dropped up to the hold
// and not further, and the join needs no Raft snapshot.
func TestLogCompactedDuringSlowPull(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1", "--snapshot-count", "20")
	data := c.load(32)
	line.Rate(shape.Down, 3<<20)
	n := c.New("n2")
	pull := c.pull(n, line.Addr())
	pull.await(line.NoticeAfter(1<<20), "the first bytes")
	before := c.MustAsk("status")
	lease := leaseIn(before, memberNamed(c, n.Name))
	if lease == nil {
		t.Fatalf("a pull without a lease: %s", before)
	}
	hold := lease.Num("hold")
	// What is written is durable in the state by 64 MiB of log, or by a
	// checkpoint; a short one shows that the log is dropped but for the hold.
	data.more(96)
	c.Eventually("a log dropped up to the hold", func() error {
		if r := c.MustAsk("status"); r.Num("first_index") != hold+1 {
			data.more(4)
			return fmt.Errorf("it begins at %.0f, the hold is %.0f", r.Num("first_index"), hold)
		}
		return nil
	})
	line.Rate(shape.Down, 0)
	r := pull.ok(60 * time.Second)
	if !strings.Contains(r.Stderr, "forecast: ") { // of what kind, the writes decide
		t.Errorf("no forecast of a slow pull: %s", r.Stderr)
	}
	after := c.MustAsk("status")
	if first := after.Num("first_index"); first > r.Num("position", "index")+1 {
		t.Errorf("the log begins at %.0f, the seed is at %.0f", first, r.Num("position", "index"))
	}
	t.Logf("the log began at %.0f, begins at %.0f; hold %.0f, last %.0f; the seed is at %.0f",
		before.Num("first_index"), after.Num("first_index"), hold, after.Num("last_index"), r.Num("position", "index"))
	if behind := after.Num("last_index") - r.Num("position", "index"); behind < 1500 {
		t.Errorf("only %.0f entries were written during the pull", behind)
	}
	n.joins(source, "--snapshot-count", "20")
	data.checkOn(source, n)
	c.AwaitNoLease()
	data.awaitTruncated(hold + 1)
}

func memberNamed(c *Cluster, name string) string {
	c.t.Helper()
	r := c.MustAsk("member", "list")
	members, _ := r.Path("members").([]any)
	for _, m := range members {
		if object, ok := m.(map[string]any); ok && object["name"] == name {
			return object["id"].(string)
		}
	}
	c.t.Fatalf("no member %s: %s", name, r)
	return ""
}

// TestLeaseExpired lets the lease of a seed run out and the log behind the seed
// go, then starts the node: it fetches what is new by itself and joins as the
// member that was reserved.
func TestLeaseExpired(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1", "--snapshot-count", "20")
	data := c.load(48)
	n := c.New("n2")
	r := c.pull(n, line.Addr(), "--lease-ttl", "1s").ok(60 * time.Second)
	c.awaitNoLeaseOf(r.Str("member_id"))
	data.awaitTruncated(r.Num("position", "index") + 1)
	line.Recount()
	n.Spawn("--join", line.URL(), "--compression", "none")
	n.WaitReady(startPatience)
	if n.ID != r.Str("member_id") {
		t.Errorf("reserved %s, became %s", r.Str("member_id"), n.ID)
	}
	if n.LogCount("the seed is too old") != 1 || n.LogCount("pulling seed") != 1 {
		t.Errorf("the node has not fetched another seed, or more than one:\n%s", n.LogTail(4000))
	}
	wire, whole := float64(line.Bytes(shape.Down))/(1<<20), float64(data.pairs)*cargoValue/(1<<20)
	t.Logf("%.1f MiB of %.1f MiB were fetched again or are new; %.1f MiB were pulled first", wire, whole, r.Num("bytes_total")/(1<<20))
	c.AwaitRole("voter", n)
	c.noRaftSnapshots()
	data.checkOn(source, n)
	c.AwaitNoLease()
}

// TestReservationEnded removes the reservation of a pulled directory: the node
// joins under a new ID with what it has.
func TestReservationEnded(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source := c.Start("n1")
	w := c.StartWriter(2, 200)
	w.AwaitMore(200)
	n := c.New("n2")
	r := c.pull(n, source.Client).ok(60 * time.Second)
	c.MustAsk("member", "remove", r.Str("member_id"))
	n.joins(source)
	if n.ID == r.Str("member_id") {
		t.Error("a removed ID is used again")
	}
	w.CheckOn()
	c.AwaitNoLease()
}

// TestStoppedSourceTooOld seeds from the directory of a stopped member, which
// has no lease, and lets the log behind it go: the leader refuses the seed, and
// the node fetches another without being started again.
func TestStoppedSourceTooOld(t *testing.T) {
	t.Parallel()
	c, nodes, _ := founders(t, 3, "--snapshot-count", "20")
	data := c.load(8)
	donor := c.Followers()[0]
	if code := donor.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	n := c.New("n4")
	r := c.pull(n, donor.DataDir).ok(60 * time.Second)
	data.awaitTruncated(r.Num("position", "index") + 1)
	n.Spawn("--join", c.Endpoints())
	n.WaitReady(startPatience)
	if n.LogCount("the seed is too old") != 1 || n.LogCount("pulling seed") != 1 {
		t.Errorf("the node has not fetched another seed, or more than one:\n%s", n.LogTail(4000))
	}
	if n.Metric("cfseed_has_leader") != 1 || n.Metric("cfseed_applied_index") == 0 {
		t.Error("the metrics are not those of the member that runs")
	}
	c.AwaitRole("voter", n)
	c.noRaftSnapshots()
	running := c.Running()
	if len(running) != len(nodes) {
		t.Fatalf("%d members run", len(running))
	}
	data.checkOn(running...)
	c.AwaitNoLease()
}

// TestByteCapReached gives a lease room for less log than is written: it ends
// with the log, which does not grow past the cap, and the pull says so. Run
// again it goes on under a new lease.
func TestByteCapReached(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1", "--snapshot-count", "20")
	data := c.load(32)
	line.Rate(shape.Down, 2<<20)
	n := c.New("n2")
	const room = 16 << 20
	pull := c.pull(n, line.Addr(), "--lease-bytes", "16MiB")
	pull.await(line.NoticeAfter(8<<20), "the first bytes")
	line.Rate(shape.Down, 512<<10) // until the lease has ended, however slow the writes are
	member := memberNamed(c, n.Name)
	if l := leaseIn(c.MustAsk("status"), member); l == nil || l.Num("cap_bytes") != room {
		t.Fatalf("the lease is %v", l)
	}
	data.more(40)
	c.awaitNoLeaseOf(member)
	line.Rate(shape.Down, 2<<20)
	lost := pull.wait(30 * time.Second)
	ended(t, "a pull whose lease ended", lost, 1, "lease_lost")
	if !strings.Contains(lost.Stderr, "forecast: ") { // what it said depends on how suddenly all was written
		t.Errorf("no forecast of a slow pull: %s", lost.Stderr)
	}
	notANode(t, n.DataDir)
	data.awaitTruncated(0)
	data.more(80) // the log goes on being dropped
	// Without a hold the log ends where the state is durable, which is never
	// more than 64 MiB behind.
	log := source.Metric("cfseed_log_bytes")
	t.Logf("%.1f MiB of log, %d MiB were written", log/(1<<20), data.pairs*cargoValue>>20)
	if log > 96<<20 {
		t.Error("the log grows although nothing holds it")
	}
	line.Rate(shape.Down, 0)
	r := c.pull(n, line.Addr()).ok(60 * time.Second)
	t.Logf("%.1f of %.1f MiB were there from before the lease ended", r.Num("bytes_reused")/(1<<20), r.Num("bytes_total")/(1<<20))
	n.joins(source)
	data.checkOn(source, n)
}
