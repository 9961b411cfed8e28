// Package cluster runs nodes as processes of this program's own binary, on free
// ports of this machine, for the demo and the benchmark. It ends only the
// processes it started.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/ports"
	"github.com/chainfire/cfseed/internal/fault"
)

// patience bounds every wait for a process.
const patience = 30 * time.Second

// Cluster is a set of processes and the directory that they live in.
type Cluster struct {
	binary string
	dir    string

	mu    sync.Mutex
	nodes []*Process
}

// New returns a cluster without processes. binary is cfseed's own; dir exists.
func New(binary, dir string) *Cluster { return &Cluster{binary: binary, dir: dir} }

// Start starts a node on free ports and waits until it says where it is: ready,
// or waiting for a seed. more are further arguments of `cfseed node`.
func (c *Cluster) Start(ctx context.Context, name string, more ...string) (*Process, error) {
	p := &Process{Name: name, DataDir: filepath.Join(c.dir, name)}
	at, err := ports.Free(2)
	if err != nil {
		return nil, err
	}
	p.args = append([]string{"node", "--name", name, "--data-dir", p.DataDir, "--listen-client-urls", at[0],
		// A copy of another process's directory has its addresses.
		"--listen-peer-urls", at[1], "--initial-advertise-peer-urls", at[1], "--quota-backend-bytes=-1", "--log-level", "warn"}, more...)
	if err := p.spawn(c.binary, filepath.Join(c.dir, name+".log")); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, p)
	c.mu.Unlock()
	return p, p.await(ctx, "")
}

// Restart starts processes that have ended again, on the addresses they had,
// and waits until all are ready: members may need each other for that.
func (c *Cluster) Restart(ctx context.Context, nodes ...*Process) error {
	for _, p := range nodes {
		at := p.address()
		p.args = []string{"node", "--name", p.Name, "--data-dir", p.DataDir, "--listen-client-urls", at.client,
			"--listen-peer-urls", at.peer, "--quota-backend-bytes=-1", "--log-level", "warn"}
		p.forget()
		if err := p.spawn(c.binary, filepath.Join(c.dir, p.Name+".log")); err != nil {
			return err
		}
	}
	for _, p := range nodes {
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Remove ends a process, if it runs, and removes its data directory.
func (c *Cluster) Remove(p *Process) error {
	c.mu.Lock()
	c.nodes = slices.DeleteFunc(c.nodes, func(o *Process) bool { return o == p })
	c.mu.Unlock()
	return errors.Join(stop(context.Background(), []*Process{p}), os.RemoveAll(p.DataDir))
}

// Retire ends a process cleanly, if it runs, and forgets it; its data directory
// stays.
func (c *Cluster) Retire(ctx context.Context, p *Process) error {
	c.mu.Lock()
	c.nodes = slices.DeleteFunc(c.nodes, func(o *Process) bool { return o == p })
	c.mu.Unlock()
	return stop(ctx, []*Process{p})
}

// Nodes are the processes started and not removed, in the order of their start.
func (c *Cluster) Nodes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// Clients are the client addresses of the members that run.
func (c *Cluster) Clients() []string {
	var out []string
	for _, p := range c.Nodes() {
		if at := p.address(); at.client != "" && p.Running() {
			out = append(out, at.client)
		}
	}
	return out
}

// Leader finds the process that leads, as a running member sees it.
func (c *Cluster) Leader(ctx context.Context) (*Process, error) {
	var st struct {
		Leader string `json:"leader"`
	}
	if err := c.Command(ctx, &st, "status", "--endpoints", strings.Join(c.Clients(), ",")); err != nil {
		return nil, err
	}
	for _, p := range c.Nodes() {
		if p.address().id == st.Leader {
			return p, nil
		}
	}
	return nil, fault.Newf(fault.Internal, "status", "the leader %q is not one of ours", st.Leader)
}

// StopAll ends all processes cleanly; those that have not ended in time, or when
// ctx ends, are killed, which is an error.
func (c *Cluster) StopAll(ctx context.Context) error { return stop(ctx, c.Nodes()) }

// KillAll ends all processes at once and waits for their end.
func (c *Cluster) KillAll() error {
	var errs []error
	for _, p := range c.Nodes() {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// stop gives the processes one patience together.
func stop(ctx context.Context, nodes []*Process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, p := range nodes {
		if p.Running() {
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
		}
	}
	var errs []error
	for _, p := range nodes {
		select {
		case <-p.end():
		case <-ctx.Done():
			if !p.Running() {
				continue
			}
			errs = append(errs, fault.Newf(fault.Timeout, "stop", "%s did not stop", p.Name), p.Kill())
		}
	}
	return errors.Join(errs...)
}

// Command runs a command of cfseed and reads the JSON it prints.
func (c *Cluster) Command(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, c.binary, append(args, "-o", "json")...) //nolint:gosec // our own binary
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fault.Newf(fault.Internal, "run", "cfseed %s: %w: %s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fault.New(fault.Internal, "run", fmt.Errorf("cfseed %s: %w", strings.Join(args, " "), err))
	}
	return nil
}
