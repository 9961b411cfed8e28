//go:build e2e

package e2e

import (
	"errors"
	"testing"
)

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

// TestStopWhileWaiting: a node that waits for a seed, or for a cluster that is
// not there, ends cleanly when it is asked to.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	if code := c.StartAwaiting("awaiting").Stop(); code != 0 {
		t.Errorf("SIGTERM to a node that waits for a seed: exit %d", code)
	}
	nobody := c.New("nobody")
	joining := c.Spawn("joining", "--join", nobody.Client)
	c.Eventually("a join under way", func() error {
		if joining.LogCount("phase=reserve") == 0 {
			return errors.New("not begun")
		}
		return nil
	})
	if code := joining.Stop(); code != 0 {
		t.Errorf("SIGTERM to a node whose cluster is not there: exit %d", code)
	}
	alone := c.New("alone") // two of three founders are missing
	alone.Spawn("--initial-cluster", initialCluster([]*Node{alone, nobody, joining}))
	c.Eventually("a founder that runs", func() error {
		_, _, err := alone.metric("process_start_time_seconds")
		return err
	})
	if alone.Serving() {
		t.Error("one of three founders is ready")
	}
	if code := alone.Stop(); code != 0 {
		t.Errorf("SIGTERM to a founder without the others: exit %d", code)
	}
}
