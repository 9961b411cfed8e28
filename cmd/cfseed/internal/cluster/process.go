package cluster

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/chainfire/cfseed/internal/fault"
)

// Process is one node's process.
type Process struct {
	Name    string
	DataDir string

	args  []string
	cmd   *exec.Cmd
	lines chan string
	log   *os.File

	mu     sync.Mutex
	exited chan struct{} // closed when it has ended; each start makes a new one
	at     address
}

// address is what a process says of itself.
type address struct {
	client string // from the ready line; empty while it waits for a seed
	peer   string
	id     string
}

func (p *Process) address() address {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *Process) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = address{}
}

// Client is the client URL; empty until the node is ready.
func (p *Process) Client() string { return p.address().client }

// Peer is the peer URL.
func (p *Process) Peer() string { return p.address().peer }

// ID is the member ID, 16 hex digits; empty until the node is ready.
func (p *Process) ID() string { return p.address().id }

// PID is the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// spawn starts the process; its log goes to a file.
func (p *Process) spawn(binary, logPath string) error {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.New(fault.Internal, "start node", err)
	}
	p.log = logFile
	p.cmd = exec.Command(binary, p.args...) //nolint:gosec // our own binary
	p.cmd.Stderr = logFile
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return fault.New(fault.Internal, "start node", errors.Join(err, logFile.Close()))
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.lines, p.exited = make(chan string, 16), exited
	p.mu.Unlock()
	go p.follow(out, p.lines, exited)
	return nil
}

// end is closed when the process has ended.
func (p *Process) end() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// follow reads what the process says until it ends; exited says that it is
// done, and whoever ends the process waits for that.
func (p *Process) follow(out io.Reader, lines chan<- string, exited chan<- struct{}) {
	defer close(exited)
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		select {
		case lines <- scan.Text():
		default: // nobody waits for so many lines
		}
	}
	_ = p.cmd.Wait() // how it ended is told by who ended it
	_ = p.log.Close()
}

// Ready waits for the ready line.
func (p *Process) Ready(ctx context.Context) error {
	if p.Client() != "" {
		return nil
	}
	return p.await(ctx, "ready to serve")
}

// await waits for a line that begins with prefix.
func (p *Process) await(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case line := <-p.lines:
			p.learn(line)
			if strings.HasPrefix(line, prefix) {
				return nil
			}
		case <-p.end():
			return fault.Newf(fault.Internal, "start node", "%s ended: %s", p.Name, p.lastWords())
		case <-ctx.Done():
			return fault.Newf(fault.Timeout, "start node", "%s did not get ready: %s", p.Name, p.lastWords())
		}
	}
}

func (p *Process) learn(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for field := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "client":
			p.at.client = value
		case "peer":
			p.at.peer = value
		case "id":
			p.at.id = value
		}
	}
}

func (p *Process) lastWords() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-600):]))
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.end():
		return false
	default:
		return true
	}
}

// Kill ends the process at once, by its ID, and waits for its end.
func (p *Process) Kill() error {
	if !p.Running() {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fault.New(fault.Internal, "kill "+p.Name, err)
	}
	<-p.end()
	return nil
}
