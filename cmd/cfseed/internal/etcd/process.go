// Package etcd runs etcd's own server as processes on free ports of this
// machine, for the benchmarks to compare with. It ends only the processes it
// started.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/ports"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// patience bounds the start and the end of one process.
const patience = time.Minute

// Quota is the size that its database may have, in bytes: its default is less
// than what is loaded.
const Quota = "34359738368"

// Process is one process of etcd.
type Process struct {
	name, dir    string
	client, peer string
	id           uint64 // of a member that was added
	binary       string
	args         []string
	cmd          *exec.Cmd
	conn         *grpc.ClientConn
	log          *os.File
	exited       chan struct{}
}

// Start starts the members of a new cluster, in directories below dir, and waits
// until all of them serve.
func Start(ctx context.Context, binary, dir string, names ...string) (all []*Process, err error) {
	var initial []string
	peers, err := ports.Free(len(names))
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		all = append(all, &Process{name: name, dir: filepath.Join(dir, name), peer: peers[i]})
		initial = append(initial, name+"="+peers[i])
	}
	for _, p := range all {
		if err := p.spawn(binary, "--initial-cluster", strings.Join(initial, ",")); err != nil {
			return nil, errors.Join(err, StopAll(all))
		}
	}
	for _, p := range all {
		if err := p.await(ctx); err != nil {
			return nil, errors.Join(err, StopAll(all))
		}
	}
	return all, nil
}

// StopAll ends processes, those too that have ended.
func StopAll(all []*Process) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// await waits until the process serves.
func (p *Process) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := p.Applied(ctx); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fault.Newf(fault.Internal, "etcd", "it has ended: %s", p.LastWords())
		case <-ctx.Done():
			return fault.Newf(fault.Timeout, "etcd", "it does not serve: %s", p.LastWords())
		}
	}
}

// spawn starts the process on free ports.
func (p *Process) spawn(binary string, more ...string) (err error) {
	p.binary = binary
	free, err := ports.Free(1)
	if err != nil {
		return err
	}
	p.client = free[0]
	p.args = append([]string{"--name", p.name, "--data-dir", p.dir, "--listen-client-urls", p.client, "--advertise-client-urls", p.client,
		"--listen-peer-urls", p.peer, "--initial-advertise-peer-urls", p.peer, "--quota-backend-bytes", Quota, "--log-level", "error"}, more...)
	return p.Again()
}

// Again starts a process that was stopped, on the addresses that it had, and
// does not wait.
func (p *Process) Again() (err error) {
	const op = "start etcd"
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fault.New(fault.Internal, op, err)
	}
	if p.conn, err = netsec.Dial(p.client, netsec.Files{}); err != nil {
		return err
	}
	if p.log, err = os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fault.New(fault.Internal, op, errors.Join(err, p.conn.Close()))
	}
	p.cmd = exec.Command(p.binary, p.args...) //nolint:gosec // what the operator has on PATH
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		return fault.New(fault.Internal, op, errors.Join(err, p.conn.Close(), p.log.Close()))
	}
	cmd, exited := p.cmd, make(chan struct{})
	p.exited = exited
	go func() { // ends with the process, which Stop waits for
		defer close(exited)
		_ = cmd.Wait() // how it ended is told by who ended it
	}()
	return nil
}

// Client is the client URL.
func (p *Process) Client() string { return p.client }

// PID is the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Applied is the index that the process has applied.
func (p *Process) Applied(ctx context.Context) (uint64, error) {
	st, err := p.status(ctx)
	return st.GetRaftAppliedIndex(), err
}

// Leads reports whether the process says that it leads.
func (p *Process) Leads(ctx context.Context) (bool, error) {
	st, err := p.status(ctx)
	return err == nil && st.GetLeader() == st.GetHeader().GetMemberId(), err
}

func (p *Process) status(ctx context.Context) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := pb.NewMaintenanceClient(p.conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		p.conn.ResetConnectBackoff() // it is asked often, and must not be found late
		return nil, fault.New(fault.Unreachable, "etcd status", err)
	}
	return st, nil
}

// AddLearner adds a member that does not vote and starts it.
func (p *Process) AddLearner(ctx context.Context, name string) (*Process, error) {
	free, err := ports.Free(1)
	if err != nil {
		return nil, err
	}
	peer := free[0]
	added, err := pb.NewClusterClient(p.conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{peer}, IsLearner: true})
	if err != nil {
		return nil, fault.New(fault.Internal, "etcd member add", err)
	}
	n := &Process{name: name, dir: filepath.Join(filepath.Dir(p.dir), name), peer: peer, id: added.GetMember().GetID()}
	return n, n.spawn(p.binary, "--initial-cluster", fmt.Sprintf("%s=%s,%s=%s", p.name, p.peer, name, peer), "--initial-cluster-state", "existing")
}

// Remove removes a member that was added, ends its process and deletes its
// directory.
func (p *Process) Remove(ctx context.Context, added *Process) error {
	_, err := pb.NewClusterClient(p.conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: added.id})
	if err != nil {
		err = fault.New(fault.Internal, "etcd member remove", err)
	}
	return errors.Join(err, added.Stop(), os.RemoveAll(added.dir))
}

// Usage is what the process has used since its start.
func (p *Process) Usage() (u measure.Usage, err error) {
	if u.CPUSeconds, err = measure.CPUSeconds(p.PID()); err != nil {
		return u, err
	}
	u.PeakRSS, err = measure.PeakRSS(p.PID())
	return u, err
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop ends the process and waits for its end.
func (p *Process) Stop() error {
	if p.exited == nil { // it did not start, or was stopped
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	p.exited = nil
	return errors.Join(p.conn.Close(), p.log.Close())
}

// LastWords is the end of the process's log.
func (p *Process) LastWords() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-600):]))
}
