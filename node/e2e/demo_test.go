//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// demoFiles is a small directory for the demo to load.
func demoFiles(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/demo")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDemo runs the whole demo on few files: everything it proves must hold.
func TestDemo(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	res := c.CLI("demo", "--load", demoFiles(t))
	if res.Code != 0 {
		t.Fatalf("the demo ended with %d: %s%s", res.Code, res.Stdout, res.Stderr)
	}
	if n, _ := res.JSON["keys_checked"].(float64); n == 0 {
		t.Errorf("no key was read back: %s", res.Stdout)
	}
	if dirs, _ := res.JSON["verified"].([]any); len(dirs) != 3 {
		t.Errorf("three directories were to be verified: %s", res.Stdout)
	}
	if res.Num("files") != 3 || res.Num("files_skipped") != 0 {
		t.Errorf("three files were to be loaded, one of them empty: %s", res.Stdout)
	}
	if lost, list := res.Path("keys_lost").([]any); !list || len(lost) > 0 {
		t.Errorf("keys_lost is %v, want []", res.Path("keys_lost"))
	}
	for _, j := range res.JSON["joins"].([]any) {
		if sent := j.(map[string]any)["raft_snapshots_sent"]; sent != 0.0 {
			t.Errorf("a join took %v Raft snapshots", sent)
		}
	}
}

// TestDemoEndsAtItsDeadline: a demo that takes too long ends with its own error
// and leaves neither a process nor a file.
func TestDemoEndsAtItsDeadline(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	c := NewCluster(t)
	began := time.Now()
	res := c.CLI("demo", "--load", demoFiles(t), "--deadline", "2500ms") // one node runs by then, and writers write
	if res.Code != 3 || res.Str("error", "code") != "timeout" || !strings.Contains(res.Str("error", "message"), "2.5s") {
		t.Errorf("want exit 3, timeout: %s", res)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestDemoSeesALostKey is the demo's own oracle: a key that is deleted behind
// its back must be found missing on every member, and the status be 4.
func TestDemoSeesALostKey(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	res := c.CLI("demo", "--load", demoFiles(t), "--inject-lost-key")
	if res.Code != 4 {
		t.Fatalf("a lost key ended the demo with %d: %s%s", res.Code, res.Stdout, res.Stderr)
	}
	lost, _ := res.JSON["keys_lost"].([]any)
	if len(lost) != 3 {
		t.Fatalf("lost keys %v, want one on each of three members", lost)
	}
	for _, key := range lost {
		if !strings.HasSuffix(key.(string), ": a.txt") {
			t.Errorf("%v is told as lost, want a.txt", key)
		}
	}
}
