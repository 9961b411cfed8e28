//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	snapshotsSent = "cfseed_peer_raft_snapshots_sent_total"
	entriesSent   = "cfseed_peer_entries_sent_total"
	entriesResent = "cfseed_peer_entries_resent_total"
)

// add runs member add for a waiting node and waits until it serves clients.
func (c *Cluster) add(n *Node, more ...string) Result {
	c.t.Helper()
	r := c.MustAsk(append([]string{"member", "add", n.Name, "--peer-urls", n.Peer}, more...)...)
	n.WaitReady(startPatience)
	if r.Str("member_id") != n.ID {
		c.t.Errorf("member add says member %s, the node says %s", r.Str("member_id"), n.ID)
	}
	return r
}

// three makes a cluster of three voters, each seeded but the first.
func three(t *testing.T, common ...string) (*Cluster, []*Node) {
	t.Helper()
	c := NewCluster(t, common...)
	nodes := []*Node{c.Start("n1")}
	for _, name := range []string{"n2", "n3"} {
		n := c.StartAwaiting(name)
		c.add(n)
		nodes = append(nodes, n)
	}
	return c, nodes
}

// AwaitRole waits until the cluster lists the members in the role.
func (c *Cluster) AwaitRole(role string, nodes ...*Node) {
	c.t.Helper()
	c.Eventually("members as "+role, func() error {
		r := c.Ask("member", "list")
		for _, n := range nodes {
			if m := memberIn(r, n.ID); m.Str("role") != role || m.Str("state") != "member" {
				return fmt.Errorf("%s (%s) is not a %s: %s", n.Name, n.ID, role, r)
			}
		}
		return nil
	})
}

// Test3NodeLeaderElectionWithJoin grows a cluster from one member to three
// under a write load, kills the leader, goes on writing, and brings the killed
// member back. Members that were seeded never need a Raft snapshot.
func Test3NodeLeaderElectionWithJoin(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(4, 200)
	w.AwaitMore(500)
	for _, name := range []string{"n2", "n3"} {
		n := c.StartAwaiting(name, "--cluster-id", c.MustAsk("member", "list").Str("cluster_id"))
		c.AwaitNoLease() // or the next seed may share the checkpoint of the one before
		before := memberIn(c.MustAsk("status"), first.ID).Num("applied")
		r := c.add(n)
		if r.Str("role") != "voter" || r.Num("raft_snapshots_sent") != 0 || r.Num("bytes_wire") <= 0 || r.Num("position", "index") < 500 {
			t.Errorf("member add %s: %s", name, r)
		}
		var phases []string
		list, _ := r.Path("phases").([]any)
		for _, p := range list {
			phases = append(phases, Result{JSON: p.(map[string]any)}.Str("name"))
		}
		if got := strings.Join(phases, " "); got != "reserve seed verify admit catch_up promote" {
			t.Errorf("phases %s", got)
		}
		c.checkSent(n, r, before)
		if source := r.Str("source_id"); (source == c.Leader().ID) != (name == "n2") {
			t.Errorf("%s was seeded from %s: a follower is to serve where there is one", name, source)
		}
		w.AwaitMore(100)
	}
	w.Use()
	leader := c.Leader()
	leader.Kill()
	w.AwaitMore(200)
	if now := c.Leader(); now == leader {
		t.Error("a dead member leads")
	}
	leader.Restart()
	w.AwaitMore(100)
	w.CheckOn()
	for _, n := range c.Nodes {
		if code := n.Stop(); code != 0 {
			t.Errorf("%s: SIGTERM gave exit %d", n.Name, code)
		}
	}
	c.VerifyDirs(c.Nodes...)
}

// sentBy sums a metric of what the running members have sent to n.
func (c *Cluster) sentBy(metric string, n *Node) (sum float64) {
	c.t.Helper()
	for _, other := range c.Running() {
		if other == n {
			continue
		}
		v, _, err := other.metric(metric, "to="+n.ID)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// checkSent holds what member add says was sent to n against the members'
// metrics, and both against the log: applied is what its source had applied
// before. Nothing but the entries after the seed is needed, nothing but these is
// sent, and what is sent again is counted.
func (c *Cluster) checkSent(n *Node, r Result, applied float64) {
	c.t.Helper()
	snapshots, sent, again := c.sentBy(snapshotsSent, n), c.sentBy(entriesSent, n), c.sentBy(entriesResent, n)
	last := c.MustAsk("status").Num("last_index")
	position, fetched := r.Num("position", "index"), r.Num("tail_entries")
	needed, said := r.Num("entries_after_add"), r.Num("entries_sent")
	c.t.Logf("%s: seeded at %v, fetched %v entries, needed %v then; %v sent by the end of the join, %v by now, %v of them again; the log ends at %v, ended at %v before",
		n.Name, position, fetched, needed, said, sent, again, last, applied)
	if fetched < 0 || position+fetched+needed > last {
		c.t.Errorf("%s: seeded at %v, %v entries fetched, %v needed: more than the log's %v", n.Name, position, fetched, needed, last)
	}
	if told := r.Num("raft_snapshots_sent"); told != snapshots || snapshots != 0 {
		c.t.Errorf("%s: %v Raft snapshots sent, %v told", n.Name, snapshots, told)
	}
	if written := last - applied; needed < 0 || needed > written {
		c.t.Errorf("%s needed %v entries, %v were written since the add began", n.Name, needed, written)
	}
	if said < needed || said > sent {
		c.t.Errorf("%s needed %v entries; %v sent, says member add, %v, say the metrics", n.Name, needed, said, sent)
	}
	if tail := last - position - fetched; sent-again > tail {
		c.t.Errorf("%v entries sent to %s, %v of them again; there are %v after what it fetched", sent, n.Name, again, tail)
	}
}

// TestSimultaneousJoins starts three newcomers at once, by node --join and by
// member add. They seed side by side and are admitted one after the other.
func TestSimultaneousJoins(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n0")
	w := c.StartWriter(2, 200)
	w.AwaitMore(200)
	var joining []*Node
	for i := range 3 {
		joining = append(joining, c.Spawn(fmt.Sprintf("j%d", i), "--join", first.Client))
	}
	for _, n := range joining {
		n.WaitReady(waitPatience)
	}
	c.AwaitRole("voter", joining...)

	var awaiting []*Node
	for i := range 3 {
		awaiting = append(awaiting, c.StartAwaiting(fmt.Sprintf("a%d", i)))
	}
	results := make([]Result, len(awaiting))
	var adds sync.WaitGroup
	for i, n := range awaiting {
		adds.Add(1)
		go func() {
			defer adds.Done()
			results[i] = c.Ask("member", "add", n.Name, "--peer-urls", n.Peer)
		}()
	}
	adds.Wait()
	for i, n := range awaiting {
		if r := results[i]; r.Code != 0 || r.Str("role") != "voter" || r.Num("raft_snapshots_sent") != 0 {
			t.Fatalf("member add %s: %s", n.Name, r)
		}
		n.WaitReady(startPatience)
	}
	c.AwaitRole("voter", c.Nodes...)
	w.AwaitMore(50)
	for _, n := range c.Nodes[1:] {
		if got := c.Leader().Metric(snapshotsSent, "to="+n.ID); got != 0 {
			t.Errorf("%v Raft snapshots sent to %s", got, n.Name)
		}
	}
	w.CheckOn()
	c.AwaitNoLease()
}

// AwaitNoLease waits until no seed lease holds any log.
func (c *Cluster) AwaitNoLease() {
	c.t.Helper()
	c.Eventually("no seed lease", func() error {
		r := c.Ask("status")
		if leases, ok := r.Path("leases").([]any); !ok || len(leases) > 0 {
			return errors.New(r.String())
		}
		return nil
	})
}

// TestNonBootstrapVoterAnswersAppendEntries adds a voter the way etcd does it:
// MemberAdd, then a node with state existing and nothing else. It must become
// a voter that counts: afterwards nothing commits without it.
func TestNonBootstrapVoterAnswersAppendEntries(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(2, 100)
	w.AwaitMore(100)
	second := c.New("n2")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	added, err := first.client().MemberAdd(ctx, []string{second.Peer})
	if err != nil {
		t.Fatal(err)
	}
	w.AwaitMore(50) // a voter that was announced and is not there blocks nobody
	second.Spawn("--initial-cluster-state", "existing",
		"--initial-cluster", fmt.Sprintf("n1=%s,n2=%s", first.Peer, second.Peer))
	second.WaitReady(startPatience)
	if want := fmt.Sprintf("%016x", added.Member.ID); second.ID != want {
		t.Errorf("the node is member %s, MemberAdd said %s", second.ID, want)
	}
	c.AwaitRole("voter", second)
	w.AwaitMore(50)
	if got := first.Metric(snapshotsSent, "to="+second.ID); got != 0 {
		t.Errorf("%v Raft snapshots sent", got)
	}
	if got := first.Metric(entriesSent, "to="+second.ID); got <= 0 {
		t.Errorf("%v entries sent: nobody answers AppendEntries", got)
	}
	w.CheckOn()

	second.Kill()
	short, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	if _, err := first.client().Put(short, "needs", "two"); err == nil {
		t.Error("a write was acknowledged without the second of two voters")
	}
	second.Restart()
	again := c.StartWriter(1, 100)
	again.AwaitMore(20)
	again.CheckOn()
}

// TestAwaitAcceptsOnlyItsClusterOrToken: a waiting node lets in nobody but the
// cluster or the token it was started with.
func TestAwaitAcceptsOnlyItsClusterOrToken(t *testing.T) {
	t.Parallel()
	ours, theirs := NewCluster(t), NewCluster(t)
	ours.Start("n1")
	theirs.Start("x1")
	id := ours.MustAsk("member", "list").Str("cluster_id")

	byID := ours.StartAwaiting("by-id", "--cluster-id", id)
	refused(t, "member add by another cluster", theirs.Ask("member", "add", byID.Name, "--peer-urls", byID.Peer), "refused")
	refused(t, "push by another cluster", theirs.Ask("push", "--to", byID.Peer), "refused")

	token := ours.CLI("member", "token", "by-token").Str("token")
	byToken := ours.StartAwaiting("by-token", "--join-token", token)
	refused(t, "member add without the token", ours.Ask("member", "add", byToken.Name, "--peer-urls", byToken.Peer), "permission")
	refused(t, "push with another token", ours.Ask("push", "--to", byToken.Peer, "--join-token", "x"+token[1:]), "permission")

	for _, c := range []*Cluster{ours, theirs} {
		members, _ := c.MustAsk("member", "list").Path("members").([]any)
		if len(members) != 1 {
			t.Errorf("refused newcomers left %d members: %v", len(members), members)
		}
	}
	ours.add(byID)
	ours.add(byToken, "--join-token", token)
}

// refused wants a command to have failed with exit 1 and the error code.
func refused(t *testing.T, what string, r Result, code string) {
	t.Helper()
	if r.Code != 1 || r.Str("error", "code") != code {
		t.Errorf("%s: want exit 1 and %s, got %s", what, code, r)
	}
}
