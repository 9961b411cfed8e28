//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/internal/shape"
)

// behind starts a node that sends clients through a proxy, so that a pull that
// learns of other sources learns of proxies.
func (c *Cluster) behind(name string, flags ...string) (*Node, *shape.Proxy) {
	c.t.Helper()
	n := c.New(name)
	p := newProxy(c.t, hostOf(c.t, n.Client))
	n.startBehind(p, flags...)
	return n, p
}

// startBehind is Restart for a node behind a proxy.
func (n *Node) startBehind(p *shape.Proxy, flags ...string) {
	n.c.t.Helper()
	n.Spawn(append([]string{"--advertise-client-urls", p.URL()}, flags...)...)
	n.readyBehind()
}

func (n *Node) readyBehind() {
	n.c.t.Helper()
	for field := range strings.FieldsSeq(n.WaitLine(readyPrefix, startPatience)) {
		if id, ok := strings.CutPrefix(field, "id="); ok {
			n.ID = id
		}
	}
}

// founders starts a new cluster of n voters at once, each behind a proxy.
func founders(t *testing.T, count int, flags ...string) (*Cluster, []*Node, []*shape.Proxy) {
	t.Helper()
	c := NewCluster(t)
	var proxies []*shape.Proxy
	var seats []string
	for i := range count {
		n := c.New(fmt.Sprintf("n%d", i+1))
		proxies = append(proxies, newProxy(t, hostOf(t, n.Client)))
		seats = append(seats, n.Name+"="+n.Peer)
	}
	for i, n := range c.Nodes {
		n.Spawn(append([]string{"--advertise-client-urls", proxies[i].URL(), "--initial-cluster", strings.Join(seats, ",")}, flags...)...)
	}
	for _, n := range c.Nodes {
		n.readyBehind()
	}
	return c, slices.Clone(c.Nodes), proxies
}

func hostOf(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// cargo is a data set that does not compress, so that a seed has a size worth
// interrupting. Each value follows from its key.
type cargo struct {
	c     *Cluster
	pairs int
}

const (
	cargoPrefix = "cargo/"
	cargoValue  = 64 << 10
)

func cargoKey(i int) string { return fmt.Sprintf("%s%06d", cargoPrefix, i) }

func cargoBytes(i int) []byte {
	var seed [32]byte
	copy(seed[:], cargoKey(i))
	out := make([]byte, cargoValue)
	_, _ = rand.NewChaCha8(seed).Read(out) // never fails
	return out
}

// load writes mib MiB of cargo, all acknowledged.
func (c *Cluster) load(mib int) *cargo {
	c.t.Helper()
	g := &cargo{c: c}
	g.more(mib)
	return g
}

// more adds mib MiB.
func (g *cargo) more(mib int) {
	g.c.t.Helper()
	client := g.c.Client()
	count := mib << 20 / cargoValue
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := g.pairs + w; i < g.pairs+count && errs[w] == nil; i += len(errs) {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				_, errs[w] = client.Put(ctx, cargoKey(i), string(cargoBytes(i)))
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			g.c.t.Fatalf("load: %v", err)
		}
	}
	g.pairs += count
}

// checkOn reads all of the cargo back from each node's own state.
func (g *cargo) checkOn(nodes ...*Node) {
	g.c.t.Helper()
	g.c.AwaitEqual(nodes...)
	for _, n := range nodes {
		if seen := g.readFrom(n); seen != g.pairs {
			g.c.t.Errorf("%s has %d of %d pairs", n.Name, seen, g.pairs)
		}
	}
}

func (g *cargo) readFrom(n *Node) (seen int) {
	g.c.t.Helper()
	for from := cargoPrefix; ; {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		res, err := n.client().Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(cargoPrefix)),
			clientv3.WithLimit(64), clientv3.WithSerializable())
		cancel()
		if err != nil {
			g.c.t.Fatalf("read from %s: %v", n.Name, err)
		}
		for _, kv := range res.Kvs {
			if string(kv.Key) != cargoKey(seen) || !bytes.Equal(kv.Value, cargoBytes(seen)) {
				g.c.t.Fatalf("%s: pair %d is %s with %d other bytes", n.Name, seen, kv.Key, len(kv.Value))
			}
			seen++
			from = string(kv.Key) + "\x00"
		}
		if !res.More {
			return seen
		}
	}
}

// command is a command of cfseed that runs beside the test.
type command struct {
	c              *Cluster
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	done           chan struct{} // closed when it has ended
}

// begin starts a command with -o json; it ends with the test at the latest.
func (c *Cluster) begin(args ...string) *command {
	c.t.Helper()
	k := &command{c: c, cmd: exec.Command(binary, append(slices.Clone(args), "-o", "json")...), done: make(chan struct{})}
	k.cmd.Dir, k.cmd.Stdout, k.cmd.Stderr = c.Dir, &k.stdout, &k.stderr
	if err := k.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(k.done)
		_ = k.cmd.Wait() // the exit code tells
	}()
	c.t.Cleanup(k.kill)
	return k
}

// pull begins to pull into the directory of a node; nothing is compressed, so
// that bytes can be compared.
func (c *Cluster) pull(n *Node, from string, more ...string) *command {
	c.t.Helper()
	return c.begin(append([]string{"pull", "--from", from, "--data-dir", n.DataDir, "--name", n.Name, "--compression", "none"}, more...)...)
}

// kill ends the command with SIGKILL.
func (k *command) kill() {
	_ = k.cmd.Process.Kill() // it may have ended
	<-k.done
}

// wait gives the result of a command that ends by itself.
func (k *command) wait(patience time.Duration) Result {
	k.c.t.Helper()
	select {
	case <-k.done:
	case <-time.After(patience):
		k.kill()
		k.c.t.Fatalf("%s: still running after %s\n%s", strings.Join(k.cmd.Args, " "), patience, k.stderr.String())
	}
	r := Result{Code: k.cmd.ProcessState.ExitCode(), Stdout: k.stdout.String(), Stderr: k.stderr.String()}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	var object map[string]any
	if json.Unmarshal([]byte(lines[len(lines)-1]), &object) == nil {
		r.JSON = object
	}
	return r
}

// ok waits for a pull that must succeed.
func (k *command) ok(patience time.Duration) Result {
	k.c.t.Helper()
	r := k.wait(patience)
	if r.Code != 0 || r.JSON == nil {
		k.c.t.Fatalf("%s: %s", strings.Join(k.cmd.Args, " "), r)
	}
	return r
}

// await waits for a channel that a proxy closes, while the command goes on.
func (k *command) await(ch <-chan struct{}, what string) {
	k.c.t.Helper()
	select {
	case <-ch:
	case <-k.done:
		select {
		case <-ch:
		default:
			k.c.t.Fatalf("the command ended before %s: %s", what, k.wait(0))
		}
	case <-time.After(waitPatience):
		k.c.t.Fatalf("%s: not within %s", what, waitPatience)
	}
}

// ended wants a failure with an exit code and one of the error codes, and a
// hint for the operator.
func ended(t *testing.T, what string, r Result, exit int, codes ...string) {
	t.Helper()
	if r.Code != exit || !slices.Contains(codes, r.Str("error", "code")) {
		t.Errorf("%s: want exit %d and one of %v, got %s", what, exit, codes, r)
	} else if r.Str("error", "hint") == "" {
		t.Errorf("%s: no hint: %s", what, r)
	}
}

// notANode wants a directory that no part of a node can be started from: no
// identity, and nothing beside what is staged.
func notANode(t *testing.T, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range names {
		if name := e.Name(); name != "LOCK" && name != "staging" {
			t.Errorf("%s holds %s", filepath.Base(dir), name)
		}
	}
}

// joins starts a node on a directory that was pulled into and waits until it is
// a voter that no Raft snapshot was sent to.
func (n *Node) joins(from *Node, flags ...string) {
	n.c.t.Helper()
	n.Spawn(append([]string{"--join", from.Client}, flags...)...)
	n.WaitReady(startPatience)
	n.c.AwaitRole("voter", n)
	n.c.noRaftSnapshots()
}

// noRaftSnapshots wants none to have been sent by a running member.
func (c *Cluster) noRaftSnapshots() {
	c.t.Helper()
	for _, n := range c.Running() {
		if sent, found, err := n.metric(snapshotsSent); err != nil || found && sent != 0 {
			c.t.Errorf("%s has sent %v Raft snapshots; %v", n.Name, sent, err)
		}
	}
}
