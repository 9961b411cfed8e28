//go:build e2e

package e2e

import "testing"

// TestBench runs the command's smallest table: a copy of a loaded member's directory
// is started, and others join it. All tables are run by seedbench.TestSeed (make
// e2e), which takes minutes. How long that took is nobody's concern here.
func TestBench(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	res := c.CLI("bench", "seed", "--sizes", "4MiB", "--runs", "1", "--quiet", "1s", "--only", "admit", "--dir", t.TempDir())
	if res.Code != 0 {
		t.Fatalf("ended with %d: %s%s", res.Code, res.Stdout, res.Stderr)
	}
	tables, _ := res.JSON["tables"].([]any)
	if len(tables) != 1 {
		t.Fatalf("%d tables: %s", len(tables), res.Stdout)
	}
	table, _ := tables[0].(map[string]any)
	if rows, _ := table["rows"].([]any); len(rows) == 0 {
		t.Errorf("no rows: %s", res.Stdout)
	}
}
