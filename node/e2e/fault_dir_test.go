//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPullIntoDirectoryOfMember pulls into directories that hold something else:
// a member that runs, one that is stopped, a foreign file. All are refused and
// not a byte in them changes.
func TestPullIntoDirectoryOfMember(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source := c.Start("n1")
	other := c.Start("other")
	w := c.StartWriter(1, 200, source)
	w.AwaitMore(50)
	refused(t, "pull into a running member's directory", c.pull(other, source.Client).wait(30*time.Second), "in_use")
	if code := other.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	before := treeHash(t, other.DataDir)
	refused(t, "pull into a stopped member's directory", c.pull(other, source.Client).wait(30*time.Second), "refused")
	if treeHash(t, other.DataDir) != before {
		t.Error("a refused pull has changed a member's directory")
	}
	other.Restart()
	foreign := c.New("foreign")
	if err := os.MkdirAll(filepath.Join(foreign.DataDir, "photos"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign.DataDir, "photos", "cat.jpg"), []byte("cat"), 0o600); err != nil {
		t.Fatal(err)
	}
	before = treeHash(t, foreign.DataDir)
	refused(t, "pull into a directory with foreign files", c.pull(foreign, source.Client).wait(30*time.Second), "not_empty")
	if treeHash(t, foreign.DataDir) != before {
		t.Error("a refused pull has changed a foreign directory")
	}
	foreign.Spawn("--join", source.Client)
	if code, text := foreign.WaitExit(startPatience); code != 1 || !strings.Contains(text, `"photos"`) {
		t.Errorf("a node in a foreign directory: exit %d\n%s", code, text)
	}
	if treeHash(t, foreign.DataDir) != before {
		t.Error("a refused node has changed a foreign directory")
	}
	if members := c.CLI("member", "list", "--endpoints", source.Client); strings.Contains(members.Stdout, `"reserved"`) {
		t.Errorf("a refused pull has reserved: %s", members)
	}
}

// TestAnotherClustersTicket takes a seed of one cluster to another.
func TestAnotherClustersTicket(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	ours, theirs := c.Start("n1"), c.Start("m1", "--initial-cluster-token", "another")
	w := c.StartWriter(1, 200, ours)
	w.AwaitMore(50)
	n := c.New("n2")
	r := c.pull(n, ours.Client).ok(30 * time.Second)
	before := c.CLI("member", "list", "--endpoints", theirs.Client)
	n.Spawn("--join", theirs.Client)
	code, text := n.WaitExit(startPatience)
	if code != 1 || !strings.Contains(text, "cluster") {
		t.Errorf("a seed of another cluster: exit %d\n%s", code, text)
	}
	if after := c.CLI("member", "list", "--endpoints", theirs.Client); after.Stdout != before.Stdout {
		t.Errorf("the other cluster had %s, has %s", before.Stdout, after.Stdout)
	}
	n.Spawn("--join", ours.Client) // nothing is lost
	n.WaitReady(startPatience)
	if n.ID != r.Str("member_id") {
		t.Errorf("reserved %s, became %s", r.Str("member_id"), n.ID)
	}
	w.CheckOn(ours, n)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// TestTwoNewClustersSameURLs starts a second new cluster on the URLs of one
// whose member is away: same names, same token, so the same member IDs. The
// member that comes back does not mix with them.
func TestTwoNewClustersSameURLs(t *testing.T) {
	t.Parallel()
	c, nodes, lines := founders(t, 3)
	seats := nodes[0].Name + "=" + nodes[0].Peer + "," + nodes[1].Name + "=" + nodes[1].Peer + "," + nodes[2].Name + "=" + nodes[2].Peer
	w := c.StartWriter(2, 200)
	w.AwaitMore(100)
	w.Stop()
	c.AwaitEqual()
	for _, n := range nodes {
		n.Stop()
	}
	keep := nodes[2]
	before := c.CLI("verify", "--data-dir", keep.DataDir)
	for _, n := range nodes[:2] {
		if err := os.Rename(n.DataDir, n.DataDir+".old"); err != nil {
			t.Fatal(err)
		}
		n.Spawn("--advertise-client-urls", lines[indexOf(t, nodes, n)].URL(), "--initial-cluster", seats)
	}
	for _, n := range nodes[:2] {
		n.readyBehind()
	}
	keep.Spawn("--advertise-client-urls", lines[2].URL(), "--initial-cluster", seats)
	fresh := c.StartWriter(2, 200, nodes[0], nodes[1])
	fresh.AwaitMore(200)
	if line, _ := keep.line(readyPrefix); line != "" {
		t.Errorf("a member of the first cluster serves in the second: %s", line)
	}
	if keep.Running() {
		keep.Stop()
	} else {
		t.Logf("the member ended: %s", lastLine(keep.LogTail(2000)))
	}
	if after := c.CLI("verify", "--data-dir", keep.DataDir); after.Str("digest") != before.Str("digest") || after.Num("revision") != before.Num("revision") {
		t.Errorf("the member of the first cluster was %s, is %s", before, after)
	}
	fresh.CheckOn(nodes[0], nodes[1])
}

// TestRemovedMembersDirectory starts a removed member again: it learns that it
// is removed, says so and ends, and the cluster's term stays as it is.
func TestRemovedMembersDirectory(t *testing.T) {
	t.Parallel()
	c, _ := three(t)
	w := c.StartWriter(2, 200)
	w.AwaitMore(100)
	n := c.Followers()[0]
	n.Kill() // it does not see its removal
	c.MustAsk("member", "remove", n.ID)
	term := c.MustAsk("status").Num("term")
	w.AwaitMore(50)
	for _, flags := range [][]string{nil, {"--join", c.Endpoints()}} {
		n.Spawn(flags...)
		code, text := n.WaitExit(startPatience)
		if code != 1 || !strings.Contains(text, "removed") {
			t.Errorf("a removed member %v: exit %d\n%s", flags, code, text)
		}
	}
	if now := c.MustAsk("status").Num("term"); now != term {
		t.Errorf("the term was %.0f, is %.0f", term, now)
	}
	w.CheckOn()
}
