//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// ctlProcess is an etcdctl that goes on until it is interrupted.
type ctlProcess struct {
	e      etcdctl
	args   []string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Scanner
	stderr strings.Builder
}

func (e etcdctl) begin(args ...string) *ctlProcess {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliDeadline)
	e.t.Cleanup(cancel)
	p := &ctlProcess{e: e, args: args, cmd: exec.CommandContext(ctx, e.path, append([]string{"--endpoints", e.endpoints}, args...)...)}
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		e.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	return p
}

// hears gives the process a line to read.
func (p *ctlProcess) hears(line string) {
	p.e.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.e.t.Fatalf("etcdctl %v: %v\n%s", p.args, err, &p.stderr)
	}
}

// says wants the next line to match.
func (p *ctlProcess) says(pattern string) {
	p.e.t.Helper()
	if !p.lines.Scan() || !regexp.MustCompile("^"+pattern+"$").MatchString(p.lines.Text()) {
		p.e.t.Fatalf("etcdctl %v said %q, want %s\n%s", p.args, p.lines.Text(), pattern, &p.stderr)
	}
	p.e.runs.note(true, p.args)
}

// did counts the run of a process that says nothing.
func (p *ctlProcess) did() { p.e.runs.note(true, p.args) }

// interrupt asks the process to end, as Ctrl-C does, waits and gives what it said
// meanwhile.
func (p *ctlProcess) interrupt() (rest string) {
	p.e.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.e.t.Fatal(err)
	}
	for p.lines.Scan() {
		rest += p.lines.Text() + "\n"
	}
	_ = p.cmd.Wait() // it says by its exit code that it was interrupted
	return rest
}

// ctlLocks locks and elects with etcdctl, whose client does it by itself with
// keys, leases and watches; it leaves nothing.
func ctlLocks(e etcdctl) {
	e.t.Helper()
	e.says(says{"lock l --ttl 5 echo held", "held\n"})
	holder := e.begin("lock", "l")
	holder.says("l/[0-9a-f]+")
	next := e.begin("lock", "l", "echo", "next")
	e.awaitKeys("l/", 2)
	holder.interrupt()
	next.says("next")
	_ = next.cmd.Wait()

	leader := e.begin("elect", "c", "first")
	leader.says("c/[0-9a-f]+")
	leader.says("first")
	listener := e.begin("elect", "--listen", "c")
	listener.says("c/[0-9a-f]+")
	listener.says("first")
	second := e.begin("elect", "c", "second")
	e.awaitKeys("c/", 2)
	leader.interrupt()
	for _, p := range []*ctlProcess{second, listener} {
		p.says("c/[0-9a-f]+")
		p.says("second")
	}
	second.interrupt()
	listener.interrupt()
	e.awaitKeys("c/", 0)
	e.awaitKeys("l/", 0)
}

// awaitKeys waits until so many keys have the prefix.
func (e etcdctl) awaitKeys(prefix string, n int) {
	e.t.Helper()
	deadline := time.Now().Add(waitPatience)
	for strings.Count(e.must("get", prefix, "--prefix", "--keys-only"), prefix) != n {
		if time.Now().After(deadline) {
			e.t.Fatalf("no %d keys under %s within %s", n, prefix, waitPatience)
		}
	}
}
