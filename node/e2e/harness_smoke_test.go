//go:build e2e

package e2e

import "testing"

// TestOneNode is one node from its first start to a clean stop and back.
func TestOneNode(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	n := c.Start("one")
	w := c.StartWriter(2, 64)
	w.AwaitMore(20)
	w.CheckOn(n)
	if code := n.Stop(); code != 0 {
		t.Errorf("SIGTERM: exit %d", code)
	}
	c.VerifyDirs(n)
	n.Restart()
	w.CheckOn(n)
	if v := n.Metric("process_start_time_seconds"); v <= 0 {
		t.Errorf("process_start_time_seconds = %v", v)
	}
}
