//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// static starts three processes that are told of each other (--initial-cluster).
func static(t *testing.T, common ...string) (*Cluster, []*Node) {
	t.Helper()
	c := NewCluster(t, common...)
	var nodes []*Node
	for _, name := range []string{"s1", "s2", "s3"} {
		nodes = append(nodes, c.New(name))
	}
	for _, n := range nodes {
		n.Spawn("--initial-cluster", initialCluster(nodes), "--initial-cluster-state", "new")
	}
	for _, n := range nodes {
		n.WaitReady(startPatience)
	}
	return c, nodes
}

func initialCluster(nodes []*Node) string {
	var seats []string
	for _, n := range nodes {
		seats = append(seats, n.Name+"="+n.Peer)
	}
	return strings.Join(seats, ",")
}

// TestStaticBootstrap: three processes with the same --initial-cluster are one
// cluster, and each tells the same IDs of it.
func TestStaticBootstrap(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	c.Leader()
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	ids := map[string]bool{}
	var lists []string
	for _, n := range nodes {
		ids[n.ID] = true
		c.Eventually(n.Name+" knows three voters", func() error {
			r := c.CLI("member", "list", "--endpoints", n.Client)
			for _, other := range nodes {
				m := memberIn(r, other.ID)
				if m.Str("role") != "voter" || m.Str("name") != other.Name || fmt.Sprint(m.Path("peer_urls")) != fmt.Sprint([]string{other.Peer}) ||
					fmt.Sprint(m.Path("client_urls")) != fmt.Sprint([]string{other.Client}) {
					return fmt.Errorf("%s: %s", other.Name, r)
				}
			}
			lists = append(lists, r.Stdout)
			return nil
		})
	}
	if len(ids) != 3 {
		t.Errorf("IDs %v are not three", ids)
	}
	for _, l := range lists[1:] {
		if l != lists[0] {
			t.Errorf("members tell different things:\n%s%s", lists[0], l)
		}
	}
	w.CheckOn()
}

// TestRestartAll kills all three members at once and starts them again: what
// was acknowledged is there, and writes go on.
func TestRestartAll(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	w := c.StartWriter(4, 100)
	w.AwaitMore(500)
	for _, n := range nodes {
		n.Kill()
	}
	w.Stop()
	for _, n := range nodes {
		n.Spawn()
	}
	for _, n := range nodes {
		n.WaitReady(startPatience)
	}
	w.CheckOn()
	again := c.StartWriter(2, 100)
	again.AwaitMore(100)
	again.CheckOn()
	for _, n := range nodes {
		n.Stop()
	}
	c.VerifyDirs(nodes...)
}

// TestLeaderHandOver: a leader that is asked to stop hands over first; when its
// process has ended, another member leads already. The election timeout is so
// long here that without a hand-over nobody would.
func TestLeaderHandOver(t *testing.T) {
	t.Parallel()
	const election = "15s"
	c, nodes := static(t)
	before := c.Leader()
	// Longer timeouts from now on, one member after the other.
	for _, n := range append(c.Followers(), before) {
		if code := n.Stop(); code != 0 {
			t.Fatalf("%s: SIGTERM gave exit %d", n.Name, code)
		}
		n.Spawn("--election-timeout", election)
		n.WaitReady(startPatience)
	}
	w := c.StartWriter(4, 1000)
	w.AwaitMore(50)
	leader := c.Leader()
	term := c.term(leader)
	if code := leader.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	leads := 0
	for _, n := range c.Running() {
		if st := c.status(n); st.Leader == st.Header.MemberId {
			leads++
			if st.RaftTerm != term+1 {
				t.Errorf("term %d became %d: one hand-over is one term", term, st.RaftTerm)
			}
		}
	}
	if leads != 1 {
		t.Errorf("when the old leader's process had ended, %d members led", leads)
	}
	w.AwaitMore(20)
	leader.Restart("--election-timeout", election)
	w.CheckOn(nodes...)
}

// status is what one member says of itself to etcd's client.
func (c *Cluster) status(n *Node) *clientv3.StatusResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := n.client().Status(ctx, n.Client)
	if err != nil {
		c.t.Fatal(err)
	}
	return st
}

func (c *Cluster) term(n *Node) uint64 { return c.status(n).RaftTerm }

// TestControlRaftSnapshot is the control of every test that reads 0 Raft
// snapshots: a follower that was away while the log behind it was dropped gets
// one, and the counter says so.
func TestControlRaftSnapshot(t *testing.T) {
	t.Parallel()
	c, _ := static(t, "--snapshot-count", "20")
	leader := c.Leader()
	away := c.Followers()[0]
	if got := leader.Metric(snapshotsSent, "to="+away.ID); got != 0 {
		t.Fatalf("%v Raft snapshots sent to a follower that was never away", got)
	}
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	away.Kill()
	c.fallBehind(leader, away)
	away.Restart()
	w.AwaitMore(20)
	w.CheckOn()
	if now := c.Leader(); now != leader {
		t.Fatalf("the leader changed from %s to %s: its counter tells nothing", leader.Name, now.Name)
	}
	if got := leader.Metric(snapshotsSent, "to="+away.ID); got < 1 {
		t.Errorf("%v Raft snapshots sent to a follower behind the log", got)
	}
	for _, n := range c.Nodes {
		n.Stop()
	}
	c.VerifyDirs(c.Nodes...)
}

// TestOtherClusterEnds: a node that was started with another --initial-cluster
// or token than all its peers ends and says why; those that are one cluster go on.
func TestOtherClusterEnds(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "20ms", "--election-timeout", "200ms")
	var nodes []*Node
	for _, name := range []string{"s1", "s2", "s3", "s4"} {
		nodes = append(nodes, c.New(name))
	}
	for i, flags := range [][]string{
		{"--initial-cluster", initialCluster(nodes[:3])},
		{"--initial-cluster", initialCluster(nodes[:3])},
		{"--initial-cluster", initialCluster(nodes[:3]), "--initial-cluster-token", "other"},
		{"--initial-cluster", initialCluster([]*Node{nodes[0], nodes[1], nodes[3]})},
	} {
		nodes[i].Spawn(flags...)
	}
	for _, n := range nodes[:2] {
		n.WaitReady(startPatience)
	}
	for _, n := range nodes[2:] {
		ends(t, n, "is of cluster")
	}
	w := c.StartWriter(1, 100)
	w.AwaitMore(20)
	w.CheckOn(nodes[:2]...)
	for _, n := range nodes[:2] {
		if said := n.LogCount("refused a peer's stream"); !n.Running() || said == 0 || said > 20 {
			t.Errorf("%s runs %t, and said %d times that it refused a peer", n.Name, n.Running(), said)
		}
	}
}
