//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestArchive keeps a member's data as a file, ours and etcdctl's, and seeds a
// node with it; damaged ones are refused and leave nothing behind.
func TestArchive(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(2, 200)
	w.AwaitMore(100)
	file := filepath.Join(c.Dir, "archive")
	saved := c.MustAsk("snapshot", "save", file)
	if saved.Str("file") != file || saved.Num("revision") < 100 || saved.Num("position", "index") < 100 || saved.Str("cluster_id") == "" {
		t.Errorf("saved: %s", saved)
	}
	if r := c.Ask("snapshot", "save", file); r.Str("error", "code") != "not_empty" {
		t.Errorf("over a file: %s", r)
	}
	if r := c.CLI("snapshot", "inspect", file); r.Code != 0 || r.Str("manifest_root") != saved.Str("manifest_root") || r.Num("bytes") != saved.Num("bytes") {
		t.Errorf("inspected: %s", r)
	}
	t.Run("etcdctl", func(t *testing.T) {
		theirs := filepath.Join(c.Dir, "etcdctl.db")
		etcdctl{t: t, path: buildEtcdctl(t)}.at(first).must("snapshot", "save", theirs)
		if r := c.CLI("snapshot", "inspect", theirs); r.Code != 0 || r.Str("cluster_id") != saved.Str("cluster_id") {
			t.Errorf("etcdctl's: %s", r)
		}
	})
	bad := filepath.Join(c.Dir, "damaged")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(bad, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.Dir, "n2")
	if r := c.CLI("pull", "--from", bad, "--data-dir", dir, "--name", "n2"); r.Code != 4 || r.Str("error", "code") != "corrupt" {
		t.Errorf("a damaged archive: %s", r)
	}
	second := c.New("n2")
	pulled := c.CLI("pull", "--from", file, "--data-dir", second.DataDir, "--name", "n2")
	if pulled.Code != 0 || pulled.Str("manifest_root") != saved.Str("manifest_root") || pulled.Path("lease_id") != nil ||
		pulled.Num("bytes_total") != saved.Num("bytes_total") {
		t.Fatalf("pull: %s", pulled)
	}
	if again := c.CLI("pull", "--from", file, "--data-dir", second.DataDir); again.Path("already_complete") != true {
		t.Errorf("pull again: %s", again)
	}
	second.Spawn("--join", first.Client)
	second.WaitReady(startPatience)
	c.AwaitRole("voter", first, second)
	w.CheckOn(first, second)
}
