package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// process is one node's process.
type process struct {
	name    string
	dataDir string
	args    []string
	cmd     *exec.Cmd
	pid     int
	lines   chan string
	exited  chan struct{} // closed when it has ended
	client  string        // from the ready line; empty while it waits for a seed
	peer    string
	id      string
	log     *os.File
}

// patience bounds every wait for a process.
const patience = 30 * time.Second

// start starts a node on free ports and waits until it says where it is.
func (r *run) start(ctx context.Context, name string, more ...string) (*process, error) {
	p := &process{name: name, dataDir: filepath.Join(r.dir, name)}
	p.args = append([]string{"node", "--name", name, "--data-dir", p.dataDir, "--listen-client-urls", "http://127.0.0.1:0",
		"--listen-peer-urls", "http://127.0.0.1:0", "--log-level", "warn"}, more...)
	r.nodes = append(r.nodes, p)
	if err := r.spawn(p); err != nil {
		return nil, err
	}
	return p, p.listening(ctx)
}

func (r *run) spawn(p *process) error {
	logFile, err := os.OpenFile(filepath.Join(r.dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.New(fault.Internal, "demo", err)
	}
	p.log = logFile
	p.cmd = exec.Command(r.cfg.Binary, p.args...) //nolint:gosec // our own binary
	p.cmd.Stderr = logFile
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return fault.New(fault.Internal, "demo", err)
	}
	if err := p.cmd.Start(); err != nil {
		return fault.New(fault.Internal, "demo", err)
	}
	p.pid = p.cmd.Process.Pid
	p.lines, p.exited = make(chan string, 16), make(chan struct{})
	go p.follow(out)
	return nil
}

// follow reads what the process says until it ends; it is the owner's only
// goroutine, and exited says that it is done.
func (p *process) follow(out io.Reader) {
	defer close(p.exited)
	scan := bufio.NewScanner(out)
	for scan.Scan() {
		p.lines <- scan.Text()
	}
	_ = p.cmd.Wait() // how it ended is told by who ended it
	_ = p.log.Close()
}

// listening waits for the first line: ready, or waiting for a seed.
func (p *process) listening(ctx context.Context) error { return p.await(ctx, "") }

// ready waits for the ready line.
func (p *process) ready(ctx context.Context) error {
	if p.client != "" {
		return nil
	}
	return p.await(ctx, "ready to serve")
}

func (p *process) await(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case line := <-p.lines:
			p.learn(line)
			if strings.HasPrefix(line, prefix) {
				return nil
			}
		case <-p.exited:
			return fault.Newf(fault.Internal, "demo", "%s ended: %s", p.name, p.lastWords())
		case <-ctx.Done():
			return fault.Newf(fault.Timeout, "demo", "%s did not get ready", p.name)
		}
	}
}

func (p *process) learn(line string) {
	for field := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "client":
			p.client = value
		case "peer":
			p.peer = value
		case "id":
			p.id = value
		}
	}
}

func (p *process) lastWords() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-600):]))
}

func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill ends the process at once, by its ID, and waits for its end.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fault.New(fault.Internal, "demo", err)
	}
	<-p.exited
	return nil
}

// restart starts a killed node again, on the addresses it had.
func (r *run) restart(ctx context.Context, p *process) error {
	p.args = []string{"node", "--name", p.name, "--data-dir", p.dataDir, "--listen-client-urls", p.client,
		"--listen-peer-urls", p.peer, "--log-level", "warn"}
	p.client = ""
	if err := r.spawn(p); err != nil {
		return err
	}
	return p.ready(ctx)
}

// stopAll ends all nodes cleanly; one that does not end in time is killed.
func (r *run) stopAll() error {
	for _, p := range r.nodes {
		if p.running() {
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
		}
	}
	var errs []error
	for _, p := range r.nodes {
		if p.cmd == nil || p.exited == nil {
			continue
		}
		select {
		case <-p.exited:
		case <-time.After(patience):
			errs = append(errs, fault.Newf(fault.Timeout, "demo", "%s did not stop", p.name), p.kill())
		}
	}
	return errors.Join(errs...)
}

// command runs a command of cfseed and reads its JSON.
func (r *run) command(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, r.cfg.Binary, append(args, "-o", "json")...) //nolint:gosec // our own binary
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fault.Newf(fault.Internal, "demo", "cfseed %s: %w: %s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fault.New(fault.Internal, "demo", fmt.Errorf("cfseed %s: %w", strings.Join(args, " "), err))
	}
	return nil
}

// goRoot asks the go command where its sources are.
func goRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("where are Go's sources? %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
