//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPull seeds a directory by command, finds it complete the second time, and
// starts the node on it, which then has nothing left to fetch.
func TestPull(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(2, 200)
	w.AwaitMore(200)
	n := c.New("n2")
	pull := func() Result {
		return c.CLI("pull", "--from", first.Client, "--data-dir", n.DataDir, "--name", n.Name)
	}
	began := time.Now()
	r := pull()
	if r.Code != 0 || r.Path("already_complete") != false || r.Num("bytes_wire") <= 0 || r.Num("files") <= 0 ||
		r.Num("revision") < 200 || r.Num("position", "index") < 200 || len(r.Str("manifest_root")) != 64 ||
		len(r.Str("member_id")) != 16 || len(r.Str("lease_id")) != 16 {
		t.Fatalf("pull: %s", r)
	}
	if !strings.Contains(r.Stderr, "channels=true") {
		t.Errorf("chunks did not come over channels:\n%s", r.Stderr)
	}
	expires, err := time.Parse(time.RFC3339, r.Str("lease_expires"))
	if err != nil || expires.Before(began.Add(9*time.Minute)) || expires.After(time.Now().Add(11*time.Minute)) {
		t.Errorf("lease_expires %q is not in ten minutes: %v", r.Str("lease_expires"), err)
	}
	if m := memberIn(c.MustAsk("member", "list"), r.Str("member_id")); m.Str("state") != "reserved" || m.Str("name") != n.Name {
		t.Errorf("the reservation is listed as %v", m.JSON)
	}
	again := pull()
	if again.Code != 0 || again.Path("already_complete") != true || again.Num("bytes_wire") != 0 ||
		again.Str("manifest_root") != r.Str("manifest_root") || again.Str("member_id") != r.Str("member_id") ||
		again.Str("lease_id") != r.Str("lease_id") {
		t.Errorf("pull again: %s", again)
	}
	for _, same := range []string{"revision", "files", "bytes_total"} {
		if again.Num(same) != r.Num(same) {
			t.Errorf("%s was %v, is %v when it is asked again", same, r.Num(same), again.Num(same))
		}
	}
	if reused := again.Num("bytes_reused"); reused != r.Num("bytes_total") {
		t.Errorf("%v bytes were there already, want all %v", reused, r.Num("bytes_total"))
	}
	renewed, err := time.Parse(time.RFC3339, again.Str("lease_expires"))
	if err != nil || renewed.Before(expires) || renewed.After(time.Now().Add(11*time.Minute)) {
		t.Errorf("lease_expires %q after %s: the lease was not renewed: %v", again.Str("lease_expires"), expires, err)
	}
	w.AwaitMore(100) // the lease holds the log meanwhile
	n.Spawn("--join", first.Client)
	n.WaitReady(startPatience)
	if n.ID != r.Str("member_id") {
		t.Errorf("reserved %s, became %s", r.Str("member_id"), n.ID)
	}
	c.AwaitRole("voter", n)
	if got := n.LogCount("pulling seed"); got != 0 {
		t.Errorf("the node fetched %d more seeds", got)
	}
	if got := first.Metric(snapshotsSent, "to="+n.ID); got != 0 {
		t.Errorf("%v Raft snapshots sent", got)
	}
	refused(t, "pull over a member", pullStoppedMember(c, first, n), "refused")
	n.Restart("--join", first.Client) // ignored: the directory is complete
	w.CheckOn()
	c.AwaitNoLease()
}

// pullStoppedMember stops a member and tries to pull over its directory.
func pullStoppedMember(c *Cluster, from, n *Node) Result {
	c.t.Helper()
	n.Stop()
	before := treeHash(c.t, n.DataDir)
	r := c.CLI("pull", "--from", from.Client, "--data-dir", n.DataDir)
	if treeHash(c.t, n.DataDir) != before {
		c.t.Error("a refused pull has changed a member's directory")
	}
	return r
}

// TestPullStoppedDirectory seeds from the directory of a stopped member (C1),
// which stays as it was, byte for byte; a running one is in use.
func TestPullStoppedDirectory(t *testing.T) {
	t.Parallel()
	c, nodes := three(t)
	w := c.StartWriter(2, 200)
	w.AwaitMore(200)
	donor := c.Followers()[0]
	n := c.New("copy")
	pull := func() Result {
		return c.CLI("pull", "--from", donor.DataDir, "--data-dir", n.DataDir, "--name", n.Name)
	}
	refused(t, "pull from a running member's directory", pull(), "in_use")
	if code := donor.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	before := treeHash(t, donor.DataDir)
	r := pull()
	if r.Code != 0 || r.JSON["member_id"] != nil || r.JSON["lease_id"] != nil || r.Num("revision") < 200 || r.Num("position", "index") <= 0 {
		t.Fatalf("pull: %s", r)
	}
	if expires, told := r.JSON["lease_expires"]; !told || expires != nil {
		t.Errorf("lease_expires is %v, told %t; a copy has no lease", expires, told)
	}
	if after := treeHash(t, donor.DataDir); after != before {
		t.Errorf("the donor's directory was %s, is %s", before, after)
	}
	if again := pull(); again.Code != 0 || again.Path("already_complete") != true {
		t.Errorf("pull again: %s", again)
	}
	w.AwaitMore(50)
	donor.Restart()
	n.Spawn("--join", nodes[0].Client+","+nodes[1].Client)
	n.WaitReady(startPatience)
	c.AwaitRole("voter", n)
	for _, other := range nodes {
		if n.ID == other.ID {
			t.Errorf("the copy is member %s, as its donor", n.ID)
		}
	}
	if got := n.LogCount("pulling seed"); got != 0 {
		t.Errorf("the node fetched %d more seeds", got)
	}
	if got := c.Leader().Metric(snapshotsSent, "to="+n.ID); got != 0 {
		t.Errorf("%v Raft snapshots sent", got)
	}
	w.CheckOn()
}

// TestPush lets a member push a seed into a waiting node; the member add that
// follows moves no byte again.
func TestPush(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(2, 200)
	w.AwaitMore(200)
	n := c.StartAwaiting("n2")
	r := c.CLI("push", "--from", first.Client, "--to", n.Peer)
	if r.Code != 0 || r.Num("bytes_wire") <= 0 || r.Num("files") <= 0 || r.Num("revision") < 200 || r.Path("already_complete") != false {
		t.Fatalf("push: %s", r)
	}
	if members, _ := c.MustAsk("member", "list").Path("members").([]any); len(members) != 1 {
		t.Errorf("a push has made a member: %v", members)
	}
	w.AwaitMore(100)
	add := c.add(n)
	if add.Num("bytes_wire") != 0 || add.Str("role") != "voter" || add.Num("raft_snapshots_sent") != 0 ||
		add.Num("position", "index") != r.Num("position", "index") {
		t.Errorf("member add after push (%s): %s", r, add)
	}
	w.CheckOn()
	c.AwaitNoLease()
}

// treeHash hashes the names, modes, sizes and contents of everything below dir.
func treeHash(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %s ", path, info.Mode())
		if !info.Mode().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(h, "%d ", len(text))
		h.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
