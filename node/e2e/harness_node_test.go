//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Node is one node: its directory, its addresses and, while it runs, its
// process.
type Node struct {
	c                     *Cluster
	Name, DataDir         string
	Client, Peer, Metrics string // URLs, the same over restarts
	ID                    string // 16 hex digits, from the ready line
	PID                   int
	Env                   []string // KEY=value, beside the environment of the tests

	logPath string
	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has ended
	code    int           // valid after exited
	etcd    *clientv3.Client

	mu      sync.Mutex
	lines   []string // of this process's stdout
	changed chan struct{}
}

// Spawn starts the node's process on its addresses and directory and does not
// wait.
func (n *Node) Spawn(flags ...string) {
	n.c.t.Helper()
	args := []string{"node", "--name", n.Name, "--data-dir", n.DataDir, "--listen-client-urls", n.Client,
		"--listen-peer-urls", n.Peer, "--listen-metrics-urls", n.Metrics, "--log-level", "info"}
	n.begin(binary, append(append(args, n.c.Common...), flags...)...)
}

// begin starts a program as the node's process and does not wait.
func (n *Node) begin(program string, args ...string) {
	n.c.t.Helper()
	if n.Running() {
		n.c.t.Fatalf("%s runs already", n.Name)
	}
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // the process has its own
	fmt.Fprintf(log, "--- %s %s\n", filepath.Base(program), strings.Join(args, " "))
	cmd := exec.Command(program, args...)
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), n.Env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.c.t.Fatal(err)
	}
	n.mu.Lock()
	n.lines, n.changed = nil, make(chan struct{})
	n.mu.Unlock()
	n.cmd, n.PID, n.exited = cmd, cmd.Process.Pid, make(chan struct{})
	go n.follow(cmd, out, n.exited)
}

// follow collects what the process says until it ends.
func (n *Node) follow(cmd *exec.Cmd, out io.Reader, exited chan struct{}) {
	for scan := bufio.NewScanner(out); scan.Scan(); {
		n.mu.Lock()
		n.lines = append(n.lines, scan.Text())
		close(n.changed)
		n.changed = make(chan struct{})
		n.mu.Unlock()
	}
	_ = cmd.Wait() // the exit code tells
	n.code = cmd.ProcessState.ExitCode()
	close(exited)
}

// line finds a line by its prefix; changed is closed when there are more.
func (n *Node) line(prefix string) (line string, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.IndexFunc(n.lines, func(l string) bool { return strings.HasPrefix(l, prefix) }); i >= 0 {
		line = n.lines[i]
	}
	return line, n.changed
}

// WaitLine waits until the node has said a line with the prefix.
func (n *Node) WaitLine(prefix string, patience time.Duration) string {
	n.c.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		line, changed := n.line(prefix)
		if line != "" {
			return line
		}
		select {
		case <-changed:
		case <-n.exited:
			if line, _ := n.line(prefix); line != "" {
				return line
			}
			n.c.t.Fatalf("%s ended with %d before it said %q:\n%s", n.Name, n.code, prefix, n.LogTail(2000))
		case <-timer.C:
			n.c.t.Fatalf("%s has not said %q within %s", n.Name, prefix, patience)
		}
	}
}

const readyPrefix = "ready to serve client requests"

// WaitReady waits until the node serves clients.
func (n *Node) WaitReady(patience time.Duration) {
	n.c.t.Helper()
	for field := range strings.FieldsSeq(n.WaitLine(readyPrefix, patience)) {
		switch key, value, set := strings.Cut(field, "="); {
		case key == "client" && set:
			if value != n.Client {
				n.c.t.Errorf("%s serves clients at %s, was told %s", n.Name, value, n.Client)
			}
		case key == "id":
			if n.ID != "" && n.ID != value {
				n.c.t.Errorf("%s was member %s, is %s", n.Name, n.ID, value)
			}
			n.ID = value
		}
	}
	if len(n.ID) != 16 {
		n.c.t.Errorf("%s: ID %q is not 16 hex digits", n.Name, n.ID)
	}
}

// Running reports whether the process lives.
func (n *Node) Running() bool {
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// Serving reports whether the process lives and has said that it is ready.
func (n *Node) Serving() bool {
	if !n.Running() {
		return false
	}
	line, _ := n.line(readyPrefix)
	return line != ""
}

// WaitExit waits for the process to end by itself.
func (n *Node) WaitExit(patience time.Duration) (code int, stderr string) {
	n.c.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(patience):
		n.c.t.Fatalf("%s still runs after %s", n.Name, patience)
	}
	return n.code, n.LogTail(8000)
}

// Kill ends the process with SIGKILL and waits for its end.
func (n *Node) Kill() {
	n.c.t.Helper()
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.c.t.Fatal(err)
	}
	<-n.exited
}

// Stop asks the process to end (SIGTERM), waits and gives its exit code.
func (n *Node) Stop() int {
	n.c.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.c.t.Fatal(err)
	}
	code, _ := n.WaitExit(stopPatience)
	return code
}

// Restart starts the node again on its addresses and directory and waits until
// it serves clients.
func (n *Node) Restart(flags ...string) {
	n.c.t.Helper()
	n.Spawn(flags...)
	n.WaitReady(startPatience)
}

func (n *Node) destroy() {
	if n.etcd != nil {
		_ = n.etcd.Close() // ends with "context canceled" by design
	}
	if n.Running() {
		_ = n.cmd.Process.Kill() // it may just have ended
		<-n.exited
	}
}

// client is etcd's client of this node alone.
func (n *Node) client() *clientv3.Client {
	n.c.t.Helper()
	if n.etcd == nil {
		n.etcd = n.c.Client(n)
	}
	return n.etcd
}

// LogTail gives the end of what the node's processes wrote to stderr.
func (n *Node) LogTail(bytes int) string {
	b, err := os.ReadFile(n.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-bytes):])
}

// metric gives the sum of the series of a metric that have all the labels
// (key=value) and whether there is one.
func (n *Node) metric(name string, labels ...string) (sum float64, found bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.Metrics+"/metrics", nil)
	if err != nil {
		return 0, false, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, false, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		series, value, ok := cutLast(line, ' ')
		if !ok || !seriesMatches(series, name, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, false, fmt.Errorf("%q: %w", line, err)
		}
		sum, found = sum+v, true
	}
	return sum, found, nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func seriesMatches(series, name string, labels []string) bool {
	got, rest, _ := strings.Cut(series, "{")
	if got != name {
		return false
	}
	have := strings.Split(strings.TrimSuffix(rest, "}"), ",")
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		if !slices.Contains(have, fmt.Sprintf("%s=%q", key, value)) {
			return false
		}
	}
	return true
}

// Metric reads a metric from /metrics: the sum of its series with all the
// labels (key=value). A metric that does not exist fails the test.
func (n *Node) Metric(name string, labels ...string) float64 {
	n.c.t.Helper()
	v, found, err := n.metric(name, labels...)
	if err != nil {
		n.c.t.Fatal(err)
	}
	if !found {
		n.c.t.Fatalf("%s has no metric %s%v", n.Name, name, labels)
	}
	return v
}

// LogCount counts the lines of the node's log that contain the text.
func (n *Node) LogCount(text string) int {
	return strings.Count(n.LogTail(1<<30), text)
}
