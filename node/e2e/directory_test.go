//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ends wants the node's process to end by itself with exit 1 and to say the
// word.
func ends(t *testing.T, n *Node, word string) {
	t.Helper()
	code, log := n.WaitExit(startPatience)
	last := log[max(0, strings.LastIndex(log, "--- cfseed")):]
	if code != 1 || !strings.Contains(last, word) {
		t.Errorf("%s ended with %d, without a word of %q:\n%s", n.Name, code, word, last)
	}
	if strings.Contains(last, "panic") || strings.Contains(last, "goroutine ") {
		t.Errorf("%s panicked:\n%s", n.Name, last)
	}
}

// TestWipedDirectory: a member whose directory is gone is not that member any
// more, however it is started again. Nobody elects it, nothing panics, and
// after its removal it comes in under a new ID.
func TestWipedDirectory(t *testing.T) {
	t.Parallel()
	c, nodes := three(t)
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	victim := c.Followers()[0]
	others := nodes[:0:0]
	for _, n := range nodes {
		if n != victim {
			others = append(others, n)
		}
	}
	victim.Kill()
	if err := os.RemoveAll(victim.DataDir); err != nil {
		t.Fatal(err)
	}
	term := c.term(c.Leader())
	victim.Spawn("--join", others[0].Client)
	ends(t, victim, "cfseed member remove "+victim.ID)
	if now := c.term(c.Leader()); now != term {
		t.Errorf("a wiped member raised the term from %d to %d", term, now)
	}
	if r := c.Ask("member", "remove", victim.ID); r.Code != 0 {
		t.Fatalf("remove: %s", r)
	}
	old := victim.ID
	victim.ID = ""
	victim.Spawn("--join", others[0].Client)
	victim.WaitReady(startPatience)
	if victim.ID == old {
		t.Errorf("%s was removed and is a member again", old)
	}
	c.AwaitRole("voter", nodes...)
	w.CheckOn()
}

// TestWipedFounder: a founding member that lost its directory and is started
// again with the flags of its first start has its old ID and an empty log. It
// must neither be elected nor make the others forget, nor panic.
func TestWipedFounder(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	victim := c.Followers()[0]
	victim.Kill()
	if err := os.RemoveAll(victim.DataDir); err != nil {
		t.Fatal(err)
	}
	term := c.term(c.Leader())
	victim.Spawn("--initial-cluster", initialCluster(nodes), "--initial-cluster-state", "new")
	ends(t, victim, "cfseed member remove "+victim.ID)
	if now := c.term(c.Leader()); now != term {
		t.Errorf("a wiped member raised the term from %d to %d", term, now)
	}
	w.AwaitMore(20)
	w.CheckOn()
}

// TestCopiedDirectory: a copy of a member's directory is refused beside the
// original, also where the operator vouches that the original is gone.
func TestCopiedDirectory(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	original := c.Followers()[0]
	if code := original.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	twin := c.New(original.Name)
	if err := os.CopyFS(twin.DataDir+"-copy", os.DirFS(original.DataDir)); err != nil {
		t.Fatal(err)
	}
	twin.DataDir += "-copy"
	original.Restart()

	twin.Spawn()
	ends(t, twin, "--accept-moved-data-dir")
	twin.Spawn("--accept-moved-data-dir")
	ends(t, twin, "copy")
	if !original.Running() {
		t.Error("the original has ended")
	}
	w.AwaitMore(50)
	w.CheckOn(nodes...)
}

// TestDirectoryInUse: one directory serves one process, and what is not a
// node's directory is left alone.
func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	n := c.Start("n1")
	second := c.New("n1")
	second.DataDir = n.DataDir
	second.Spawn()
	ends(t, second, "another process")
	refused(t, "verify of a running node's directory", c.CLI("verify", "--data-dir", n.DataDir), "in_use")
	refused(t, "pull into a running node's directory", c.CLI("pull", "--from", n.Client, "--data-dir", n.DataDir), "in_use")

	foreign := c.New("foreign")
	if err := os.MkdirAll(foreign.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign.DataDir, "thesis.txt"), []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := treeHash(t, foreign.DataDir)
	for _, flags := range [][]string{nil, {"--join", n.Client}, {"--await-seed"}} {
		foreign.Spawn(flags...)
		ends(t, foreign, "thesis.txt")
	}
	refused(t, "pull into a foreign directory", c.CLI("pull", "--from", n.Client, "--data-dir", foreign.DataDir), "not_empty")
	text, err := os.ReadFile(filepath.Join(foreign.DataDir, "thesis.txt"))
	if err != nil || string(text) != "years of work" {
		t.Errorf("the foreign file: %q, %v", text, err)
	}
	os.Remove(filepath.Join(foreign.DataDir, "LOCK")) //nolint:errcheck // a lock may be left, and nothing else
	if after := treeHash(t, foreign.DataDir); after != before {
		t.Errorf("the foreign directory has changed")
	}
}

// TestVerifyCluster compares running members, and tells a difference from none.
func TestVerifyCluster(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	w := c.StartWriter(2, 100)
	w.AwaitMore(50)
	w.CheckOn()
	r := c.CLI("verify", "--cluster", c.Endpoints())
	if r.Code != 0 || r.Path("ok") != true || len(r.Str("digest")) != 32 {
		t.Fatalf("verify --cluster: %s", r)
	}
	// Damage on disk is found, with exit 4, and the file is named.
	victim := c.Followers()[0]
	victim.Stop()
	c.VerifyDirs(victim)
	table := flipByte(t, victim.DataDir)
	r = c.CLI("verify", "--data-dir", victim.DataDir)
	if r.Code != 4 || r.Path("ok") != false || !strings.Contains(r.Stdout, filepath.Base(table)) {
		t.Errorf("verify of a directory with a flipped bit in %s: %s", table, r)
	}
	for _, n := range nodes {
		if n != victim && !n.Running() {
			t.Errorf("%s has ended", n.Name)
		}
	}
}

// flipByte changes the middle of the largest table below dir.
func flipByte(t *testing.T, dir string) string {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "state-*", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	path, text := "", []byte(nil)
	for _, p := range tables {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > len(text) {
			path, text = p, b
		}
	}
	text[len(text)/2] ^= 0x10
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKeyCommands is the few commands to try a cluster without etcdctl.
func TestKeyCommands(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	c.Start("n1")
	put := c.MustAsk("put", "greeting", "hello")
	got := c.MustAsk("get", "greeting")
	if !strings.Contains(got.Stdout, `"hello"`) || put.Code != 0 {
		t.Errorf("put: %s\nget: %s", put, got)
	}
	c.MustAsk("del", "greeting")
	if gone := c.Ask("get", "greeting"); strings.Contains(gone.Stdout, "hello") {
		t.Errorf("get after del: %s", gone)
	}
	began := time.Now()
	nobody := c.CLI("get", "greeting", "--endpoints", c.New("nobody").Client, "--timeout", "2s")
	if nobody.Code != 3 || nobody.Str("error", "code") != "unreachable" && nobody.Str("error", "code") != "timeout" {
		t.Errorf("get from nobody after %s: %s", time.Since(began), nobody)
	}
}
