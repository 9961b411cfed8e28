//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	startPatience = 30 * time.Second // for a line of a node that starts
	stopPatience  = 20 * time.Second // for a node that was asked to stop
	cliDeadline   = 60 * time.Second // for one command
	waitPatience  = 30 * time.Second // for a condition of the cluster
)

// Cluster is the processes and directories of one test.
type Cluster struct {
	t   *testing.T
	Dir string
	// Common are flags of every node that is started from now on.
	Common []string
	// Scheme of the URLs, "http" unless a test of TLS says otherwise, and how
	// clientv3 and commands are secured then.
	Scheme string
	TLS    *tls.Config
	Secure []string
	Nodes  []*Node
}

// NewCluster makes an empty cluster whose processes end with the test; when the
// test has failed the end of each node's log is shown.
func NewCluster(t *testing.T, common ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: t.TempDir(), Common: common, Scheme: "http"}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.destroy()
		}
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("--- the end of the log of %s:\n%s", n.Name, n.LogTail(4000))
			}
		}
	})
	return c
}

// nextPort counts through ports below those that the system hands out for
// outgoing connections, so that a node restarted later finds its port free.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(12000 + os.Getpid()%1500*12)) }

// freePort gives a port nobody listens on; each is given once.
func freePort(t *testing.T) int {
	t.Helper()
	for range 200 {
		port := 10000 + int(nextPort.Add(1)-10000)%22000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatal("no free port")
	return 0
}

// New names a node and gives it a directory and addresses; nothing is started.
func (c *Cluster) New(name string) *Node {
	c.t.Helper()
	url := func(scheme string) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, freePort(c.t)) }
	n := &Node{c: c, Name: name, DataDir: filepath.Join(c.Dir, name), Client: url(c.Scheme), Peer: url(c.Scheme), Metrics: url("http")}
	n.logPath = filepath.Join(c.Dir, fmt.Sprintf("%s-%d.log", name, len(c.Nodes)))
	c.Nodes = append(c.Nodes, n)
	return n
}

// Spawn starts a node and does not wait.
func (c *Cluster) Spawn(name string, flags ...string) *Node {
	c.t.Helper()
	n := c.New(name)
	n.Spawn(flags...)
	return n
}

// Start starts a node and waits until it serves clients.
func (c *Cluster) Start(name string, flags ...string) *Node {
	c.t.Helper()
	n := c.Spawn(name, flags...)
	n.WaitReady(startPatience)
	return n
}

// StartAwaiting starts a node with --await-seed and waits until it waits.
func (c *Cluster) StartAwaiting(name string, flags ...string) *Node {
	c.t.Helper()
	n := c.Spawn(name, append([]string{"--await-seed"}, flags...)...)
	n.WaitLine("waiting for seed", startPatience)
	return n
}

// Result is what a command said.
type Result struct {
	Code           int
	Stdout, Stderr string
	JSON           map[string]any // the last object on stdout; nil when there is none
}

// Path gives a value inside JSON by its keys; nil when it is not there.
func (r Result) Path(keys ...string) any {
	var v any = r.JSON
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// Str is Path for text; "" when it is none.
func (r Result) Str(keys ...string) string {
	s, _ := r.Path(keys...).(string)
	return s
}

// Num is Path for numbers; -1 when it is none.
func (r Result) Num(keys ...string) float64 {
	if f, ok := r.Path(keys...).(float64); ok {
		return f
	}
	return -1
}

// String shows a result in a failure.
func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, strings.TrimSpace(r.Stdout), strings.TrimSpace(r.Stderr))
}

// CLI runs a command of cfseed with -o json and a deadline.
func (c *Cluster) CLI(args ...string) Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(slices.Clone(args), "-o", "json")...)
	cmd.Dir = c.Dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Errorf("cfseed %s: %v", strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		c.t.Errorf("cfseed %s: still running after %s\n%s", strings.Join(args, " "), cliDeadline, stderr.String())
	}
	r := Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	var object map[string]any
	if json.Unmarshal([]byte(lines[len(lines)-1]), &object) == nil {
		r.JSON = object
	}
	return r
}

// Ask runs a command that takes --endpoints against all running members.
func (c *Cluster) Ask(args ...string) Result {
	c.t.Helper()
	return c.CLI(slices.Concat(args, []string{"--endpoints", c.Endpoints()}, c.Secure)...)
}

// MustAsk is Ask for a command that must succeed.
func (c *Cluster) MustAsk(args ...string) Result {
	c.t.Helper()
	r := c.Ask(args...)
	if r.Code != 0 || r.JSON == nil {
		c.t.Fatalf("cfseed %s: %s", strings.Join(args, " "), r)
	}
	return r
}

// Running are the nodes that serve clients.
func (c *Cluster) Running() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.Serving() })
}

// Endpoints are the client URLs of the running nodes, separated by commas.
func (c *Cluster) Endpoints() string {
	var out []string
	for _, n := range c.Running() {
		out = append(out, n.Client)
	}
	return strings.Join(out, ",")
}

// Client is etcd's client of the nodes (default: all that run); it is closed
// with the test.
func (c *Cluster) Client(nodes ...*Node) *clientv3.Client {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.Running()
	}
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.Client)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, TLS: c.TLS, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close() }) // ends with "context canceled" by design
	return client
}

// Leader waits until a running member says that it leads and that no other one
// does at a later term.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	var leader *Node
	c.Eventually("a leader", func() error {
		var term uint64
		leader = nil
		for _, n := range c.Running() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			st, err := n.client().Status(ctx, n.Client)
			cancel()
			if err == nil && st.Leader == st.Header.MemberId && st.RaftTerm > term {
				leader, term = n, st.RaftTerm
			}
		}
		if leader == nil {
			return errors.New("no running member says that it leads")
		}
		return nil
	})
	return leader
}

// Followers are the running members but the leader.
func (c *Cluster) Followers() []*Node {
	c.t.Helper()
	leader := c.Leader()
	return slices.DeleteFunc(c.Running(), func(n *Node) bool { return n == leader })
}

// Eventually waits until check gives nil.
func (c *Cluster) Eventually(what string, check func() error) {
	c.t.Helper()
	c.EventuallyIn(waitPatience, what, check)
}

// EventuallyIn is Eventually with another patience.
func (c *Cluster) EventuallyIn(patience time.Duration, what string, check func() error) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// AwaitEqual waits until the members (default: all that run) have applied the
// same entries, and wants equal digests there.
func (c *Cluster) AwaitEqual(nodes ...*Node) {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.Running()
	}
	c.Eventually("members at the same index", func() error {
		r := c.Ask("status")
		if r.Code != 0 {
			return errors.New(r.String())
		}
		var applied float64
		digest := ""
		for i, n := range nodes {
			st := memberIn(r, n.ID)
			switch {
			case st.Num("applied") <= 0:
				return fmt.Errorf("%s is not in the status: %s", n.Name, r)
			case i == 0:
				applied, digest = st.Num("applied"), st.Str("digest")
			case st.Num("applied") != applied:
				return fmt.Errorf("%s has applied %v, %s %v", nodes[0].Name, applied, n.Name, st.Num("applied"))
			case st.Str("digest") != digest || digest == "":
				return fmt.Errorf("%s and %s have applied %v, digests %q and %q", nodes[0].Name, n.Name, applied, digest, st.Str("digest"))
			}
		}
		return nil
	})
}

// memberIn finds a member by ID in the result of status or member list.
func memberIn(r Result, id string) Result {
	members, _ := r.Path("members").([]any)
	for _, m := range members {
		if object, ok := m.(map[string]any); ok && object["id"] == id {
			return Result{JSON: object}
		}
	}
	return Result{}
}

// VerifyDirs runs verify on each stopped node's directory.
func (c *Cluster) VerifyDirs(nodes ...*Node) {
	c.t.Helper()
	for _, n := range nodes {
		if r := c.CLI("verify", "--data-dir", n.DataDir); r.Code != 0 || r.Path("ok") != true {
			c.t.Errorf("%s does not verify: %s", n.Name, r)
		}
	}
}
