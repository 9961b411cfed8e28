//go:build e2e

package e2e

import "testing"

// TestBench runs a small form of what `cfseed bench` measures: processes start,
// join and answer, and each table has its rows. How long that took is nobody's
// concern here.
func TestBench(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"admit": {"seed", "--sizes", "4MiB", "--runs", "1", "--quiet", "1s", "--only", "admit"},
	} {
		res := c.CLI(append(append([]string{"bench"}, args...), "--dir", dir)...)
		if res.Code != 0 {
			t.Fatalf("%s ended with %d: %s%s", name, res.Code, res.Stdout, res.Stderr)
		}
		tables, _ := res.JSON["tables"].([]any)
		rows := 0
		for _, table := range tables {
			of, _ := table.(map[string]any)
			list, _ := of["rows"].([]any)
			rows += len(list)
		}
		if rows == 0 {
			t.Errorf("%s: no rows: %s", name, res.Stdout)
		}
	}
}
