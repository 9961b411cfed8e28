//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	printedScale = regexp.MustCompile(`^Start data scale check for work load \[10000 key-value pairs, 1024 bytes per key-value, 50 concurrent clients\]\.\nCompacting with revision [0-9]+\nCompacted with revision [0-9]+\nDefragmenting .*\nDefragmented .*\nPASS: Approximate system memory used : -?[0-9.]+ MB\.\n$`)
	printedPerf  = regexp.MustCompile(`(?m)^(PASS: Throughput is|FAIL: Throughput too low:) [0-9]+ writes/s$`)
)

// ctlCheck runs etcdctl's two benchmarks, small. The one of writes a second,
// which is of a minute, is interrupted; it ends as if the minute were over.
func ctlCheck(t *testing.T, e etcdctl) {
	c := NewCluster(t)
	n := c.Start("n1")
	e = e.at(n)
	scale := e.must("check", "datascale", "--load", "s", "--prefix", "scale/", "--auto-compact", "--auto-defrag")
	if !printedScale.MatchString(scale) {
		t.Errorf("check datascale: %s", scale)
	}
	count := func(prefix string) int64 {
		t.Helper()
		res, err := n.client().Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return res.Count
	}
	if got := count("scale/"); got != 0 {
		t.Errorf("check datascale left %d keys", got)
	}

	perf := e.begin("check", "perf", "--load", "small", "--prefix", "perf/", "--auto-compact", "--auto-defrag")
	c.Eventually("writes of check perf", func() error {
		if got := count("perf/"); got < 600 {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
	text := perf.interrupt()
	// How fast this machine is, etcdctl may judge.
	t.Logf("check perf:\n%s", text)
	if !printedPerf.MatchString(text) || strings.Contains(text, "errors") || strings.Contains(text, "ERROR") ||
		strings.Count(text, "Compacted with revision ") != 1 || strings.Count(text, "Defragmented ") != 1 {
		t.Errorf("check perf: %s\n%s", text, &perf.stderr)
	}
	perf.did()
	if got := count("perf/"); got != 0 {
		t.Errorf("check perf left %d keys", got)
	}

	e.must("put", "taken/x", "y")
	for _, check := range []string{"perf", "datascale"} {
		if r := e.run("check", check, "--prefix", "taken/"); r.Code != 3 || !strings.Contains(r.Stderr, `Error: prefix "taken/" has keys.`) {
			t.Errorf("check %s over keys: %s", check, r)
		}
	}
}
