//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestVerifyAgainst pulls a seed and holds it against the cluster, which goes on; then
// against one whose first endpoint was started again and has forgotten, and against
// another cluster.
func TestVerifyAgainst(t *testing.T) {
	t.Parallel()
	c, nodes, _ := founders(t, 3)
	w := c.StartWriter(1, 200, nodes...)
	w.AwaitMore(50)
	n := c.New("n4")
	c.pull(n, c.Endpoints()).ok(60 * time.Second)
	w.AwaitMore(50)
	w.Stop()
	against := func(endpoints string) Result { return c.CLI("verify", "--data-dir", n.DataDir, "--against", endpoints) }
	equal := func(when string, r Result) {
		t.Helper()
		if r.Code != 0 || !strings.Contains(r.Stdout, `{"name":"against","status":"ok","detail":"equal at index `) {
			t.Errorf("%s: %s", when, r)
		}
	}
	equal("while the cluster has gone on", against(c.Endpoints()))
	follower := c.Followers()[0]
	if code := follower.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	follower.Restart()
	equal("asking a member that has forgotten first", against(follower.Client))

	alone := NewCluster(t).Start("alone")
	if r := against(alone.Client); r.Code != 4 || !strings.Contains(r.Stdout, "different") || !strings.Contains(r.Stdout, "the endpoints are of cluster") {
		t.Errorf("against another cluster: %s", r)
	}
}
