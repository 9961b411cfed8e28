package seedbench

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// etcdPatience bounds the start and the end of one process of etcd.
const etcdPatience = time.Minute

// etcdQuota is the size that its database may have, in bytes: its default is
// less than what is loaded.
const etcdQuota = "34359738368"

// etcdProcess is one process of etcd.
type etcdProcess struct {
	binary, name, dir string
	client, peer      string
	id                uint64 // of a member that was added
	cmd               *exec.Cmd
	conn              *grpc.ClientConn
	log               *os.File
	exited            chan struct{}
}

// startEtcd starts the first member and waits until it serves.
func startEtcd(ctx context.Context, binary, dir, name string) (*etcdProcess, error) {
	peer, err := freeURL()
	if err != nil {
		return nil, err
	}
	p := &etcdProcess{name: name, dir: filepath.Join(dir, name), peer: peer}
	if err := p.spawn(binary, "--initial-cluster", name+"="+peer); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	for {
		if _, err := p.applied(ctx); err == nil {
			return p, nil
		}
		if err := workload.Pause(ctx, 50*time.Millisecond); err != nil || !p.running() {
			return nil, errors.Join(fault.Newf(fault.Timeout, "etcd", "it does not serve: %s", p.lastWords()), p.stop())
		}
	}
}

// spawn starts the process on free ports.
func (e *etcdProcess) spawn(binary string, more ...string) (err error) {
	const op = "start etcd"
	e.binary = binary
	if e.client, err = freeURL(); err != nil {
		return err
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fault.New(fault.Internal, op, err)
	}
	if e.conn, err = netsec.Dial(e.client, netsec.Files{}); err != nil {
		return err
	}
	if e.log, err = os.OpenFile(e.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fault.New(fault.Internal, op, errors.Join(err, e.conn.Close()))
	}
	args := append([]string{"--name", e.name, "--data-dir", e.dir, "--listen-client-urls", e.client, "--advertise-client-urls", e.client,
		"--listen-peer-urls", e.peer, "--initial-advertise-peer-urls", e.peer, "--quota-backend-bytes", etcdQuota, "--log-level", "error"}, more...)
	e.cmd = exec.Command(binary, args...) //nolint:gosec // what the operator has on PATH
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	if err := e.cmd.Start(); err != nil {
		return fault.New(fault.Internal, op, errors.Join(err, e.conn.Close(), e.log.Close()))
	}
	e.exited = make(chan struct{})
	go func() { // ends with the process, which stop waits for
		defer close(e.exited)
		_ = e.cmd.Wait() // how it ended is told by who ended it
	}()
	return nil
}

// applied is the index that the process has applied.
func (e *etcdProcess) applied(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := pb.NewMaintenanceClient(e.conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		e.conn.ResetConnectBackoff() // it is asked often, and must not be found late
		return 0, fault.New(fault.Unreachable, "etcd status", err)
	}
	return st.GetRaftAppliedIndex(), nil
}

// usage is what the process has used since its start.
func (e *etcdProcess) usage() (u measure.Usage, err error) {
	if u.CPUSeconds, err = measure.CPUSeconds(e.cmd.Process.Pid); err != nil {
		return u, err
	}
	u.PeakRSS, err = measure.PeakRSS(e.cmd.Process.Pid)
	return u, err
}

func (e *etcdProcess) running() bool {
	select {
	case <-e.exited:
		return false
	default:
		return true
	}
}

// stop ends the process and waits for its end.
func (e *etcdProcess) stop() error {
	if e.exited == nil { // it did not start
		return nil
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
	select {
	case <-e.exited:
	case <-time.After(etcdPatience):
		_ = e.cmd.Process.Kill()
		<-e.exited
	}
	return errors.Join(e.conn.Close(), e.log.Close())
}

func (e *etcdProcess) lastWords() string {
	text, err := os.ReadFile(e.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-600):]))
}

// freeURL names a port of the loopback that was free a moment ago: etcd has to
// be told which one it listens on.
func freeURL() (string, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", fault.New(fault.Internal, "find a port", err)
	}
	return "http://" + l.Addr().String(), l.Close()
}
