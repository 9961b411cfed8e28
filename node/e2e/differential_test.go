//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDifferential tells an etcd and one of ours the same, at random, and
// compares every answer and every event. CFSEED_DIFFERENTIAL_OPS is how many
// operations that are at least (`make differential OPS=...`).
func TestDifferential(t *testing.T) {
	binary := buildEtcd(t)
	wanted := int64(2000)
	if text := os.Getenv("CFSEED_DIFFERENTIAL_OPS"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		wanted = n
	}
	setFlag(t, "rapid.shrinktime", shrinkPatience.String())
	t.Run("edges", func(t *testing.T) { differentialEdges(t, startPair(t, binary)) })
	t.Run("planted", func(t *testing.T) { differentialPlanted(t, startPair(t, binary)) })
	setFlag(t, "rapid.checks", "5") // it comes back after a few rounds: the operations say when it is enough
	var done atomic.Int64
	began, all := time.Now(), &tally{kinds: map[string]*[2]int{}}
	t.Run("pairs", func(t *testing.T) {
		for i := range maxParallel {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				p := startPair(t, binary)
				p.tally = all
				for done.Load() < wanted {
					rapid.Check(t, func(rt *rapid.T) {
						p.check(rt, t, 400, func(n int) { done.Add(int64(n)) })
					})
				}
			})
		}
	})
	t.Logf("%d operations in %.0f s", done.Load(), time.Since(began).Seconds())
	for kind, n := range all.kinds {
		t.Logf("%s: %d answered, %d refused", kind, n[0], n[1])
		if done.Load() >= judgedFrom && n[0] < n[1]/10 { // what is refused shows little
			t.Errorf("%s: %d answered, %d refused", kind, n[0], n[1])
		}
	}
	t.Logf("watches: %d events", all.events.Load())
	if len(all.kinds) < 11 || done.Load() >= judgedFrom && all.events.Load() < done.Load()/50 {
		t.Errorf("%d kinds of requests, want 11; %d events in %d operations", len(all.kinds), all.events.Load(), done.Load())
	}
}

// judgedFrom is the number of operations from which chance does not decide how
// many of a kind were refused.
const judgedFrom = 20000

// check draws a round of so many operations at most and runs it; count hears how
// many were carried out. What fails first is made smaller step by step and told;
// then rapid makes the values in it smaller.
func (p pair) check(rt *rapid.T, t *testing.T, most int, count func(int)) {
	ops := drawRound(rt, most)
	d, r := p.run(t, ops)
	count(r.count)
	if d == "" {
		return
	}
	if *p.smallest == nil {
		*p.smallest = p.fewer(t, ops)
		if d, r := p.run(t, *p.smallest); d != "" {
			t.Log("in the fewest steps: " + r.report(d))
		}
	}
	// rapid makes smaller what fails with the same words.
	rt.Log(r.report(d))
	rt.Fatal("etcd and ours differ")
}

// fewer leaves out operations as long as there is a difference without them.
func (p pair) fewer(t *testing.T, ops []diffOp) []diffOp {
	deadline := time.Now().Add(shrinkPatience)
	for size := (len(ops) + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < len(ops) && time.Now().Before(deadline); {
			rest := slices.Concat(ops[:from], ops[min(from+size, len(ops)):])
			if d, _ := p.run(t, rest); d != "" {
				ops = rest
			} else {
				from += size
			}
		}
	}
	return ops
}

// shrinkPatience bounds the search for fewer steps, and rapid's for smaller ones.
const shrinkPatience = 15 * time.Second

// setFlag sets a flag for the rest of the test.
func setFlag(t *testing.T, name, value string) {
	t.Helper()
	f := flag.Lookup(name).Value
	was := f.String()
	if err := f.Set(value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Set(was) }) // it was one
}

// buildEtcd builds etcd's server into a directory of the test.
func buildEtcd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "..", "testdata", "etcd"), "-mod=readonly", "-race=false", "-o", path, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	out, err := build.CombinedOutput()
	switch {
	case err == nil:
	case os.Getenv("CFSEED_E2E_ETCDCTL") == "required":
		t.Fatalf("etcd can not be built: %v\n%s", err, out)
	default:
		t.Skipf("etcd can not be built (its modules come from the network): %v\n%s", err, out)
	}
	return path
}

// startPair starts an etcd and one of ours, each a cluster of one.
func startPair(t *testing.T, binary string) pair {
	t.Helper()
	c := NewCluster(t)
	n := c.Start("ours")
	return pair{tally: &tally{kinds: map[string]*[2]int{}}, smallest: new([]diffOp), etcd: newSide(t, "etcd", startEtcd(c, binary)), ours: newSide(t, "ours", n.Client)}
}

// startEtcd starts etcd without its syncs, which nothing here is about, and
// waits until it listens.
func startEtcd(c *Cluster, binary string, flags ...string) (client string) {
	t := c.t
	t.Helper()
	dir := t.TempDir()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", freePort(t)), fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, append(flags, "--name", "theirs", "--data-dir", filepath.Join(dir, "data"), "--listen-client-urls", client,
		"--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "theirs="+peer, "--log-level", "warn", "--unsafe-no-fsync")...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("--- the end of etcd's log:\n%s", text[max(0, len(text)-4000):])
		}
	})
	c.Eventually("etcd listens", func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(client, "http://"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return client
}
