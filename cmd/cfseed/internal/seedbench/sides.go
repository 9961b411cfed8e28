package seedbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
)

// side is another way to move the files of a directory.
type side struct {
	name  string
	needs []string // programs
	move  func(ctx context.Context, from, to string) error
}

// sides are all ways that are compared with a pull; what each wrote is synced
// within its time.
func sides() []side {
	return []side{
		{name: "copy + fsync", move: func(_ context.Context, from, to string) error {
			_, err := measure.CopyTree(from, to)
			return err
		}},
		{name: "tar over TCP", needs: []string{"tar"}, move: func(ctx context.Context, from, to string) error {
			return overTCP(ctx, to, []*exec.Cmd{tarOut(ctx, from)}, []*exec.Cmd{tarIn(ctx, to)})
		}},
		{name: "tar | zstd -1 over TCP", needs: []string{"tar", "zstd"}, move: func(ctx context.Context, from, to string) error {
			return overTCP(ctx, to, []*exec.Cmd{tarOut(ctx, from), exec.CommandContext(ctx, "zstd", "-1", "-q", "-c")},
				[]*exec.Cmd{exec.CommandContext(ctx, "zstd", "-d", "-q", "-c"), tarIn(ctx, to)})
		}},
		{name: "rsync", needs: []string{"rsync"}, move: func(ctx context.Context, from, to string) error {
			cmd := exec.CommandContext(ctx, "rsync", "-a", from+"/", to+"/") //nolint:gosec // our own directories
			if text, err := cmd.CombinedOutput(); err != nil {
				return fault.Newf(fault.Internal, "rsync", "%w: %s", err, text)
			}
			return measure.SyncTree(to)
		}},
	}
}

// installed reports whether all programs of a side are there.
func (s side) installed() bool {
	for _, name := range s.needs {
		if _, err := exec.LookPath(name); err != nil {
			return false
		}
	}
	return true
}

// seconds takes the time of a side, and removes what it made.
func (s side) seconds(ctx context.Context, from, to string) (float64, error) {
	began := time.Now()
	err := s.move(ctx, from, to)
	took := time.Since(began).Seconds()
	return took, errors.Join(err, os.RemoveAll(to))
}

func tarOut(ctx context.Context, from string) *exec.Cmd {
	return exec.CommandContext(ctx, "tar", "-C", from, "-cf", "-", ".") //nolint:gosec // our own directories
}

func tarIn(ctx context.Context, to string) *exec.Cmd {
	return exec.CommandContext(ctx, "tar", "-C", to, "-xf", "-") //nolint:gosec // our own directories
}

// overTCP connects the last of the senders with the first of the receivers by a
// connection on the loopback, as ssh or nc would, and syncs what arrived.
func overTCP(ctx context.Context, to string, senders, receivers []*exec.Cmd) error {
	const op = "tar over TCP"
	if err := os.MkdirAll(to, 0o750); err != nil {
		return fault.New(fault.Internal, op, err)
	}
	out, in, err := connection()
	if err != nil {
		return fault.New(fault.Internal, op, err)
	}
	senders[len(senders)-1].Stdout, receivers[0].Stdin = out, in
	err = errors.Join(chain(senders), chain(receivers))
	all := slices.Concat(senders, receivers)
	said := make([]bytes.Buffer, len(all))
	for i, cmd := range all {
		cmd.Stderr = &said[i]
		if err == nil {
			err = cmd.Start()
		}
	}
	failed := err != nil
	err = errors.Join(err, out.Close(), in.Close()) // the programs have their own
	for i, cmd := range all {
		if cmd.Process == nil {
			continue
		}
		if failed { // the others wait for one that is not there
			_ = cmd.Process.Kill()
		}
		if ended := cmd.Wait(); ended != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w: %s", cmd.Path, ended, said[i].Bytes()))
		}
	}
	if err != nil {
		return fault.New(fault.Internal, op, err)
	}
	return measure.SyncTree(to)
}

// chain lets each command read what the one before writes.
func chain(cmds []*exec.Cmd) error {
	for i := 1; i < len(cmds); i++ {
		pipe, err := cmds[i-1].StdoutPipe()
		if err != nil {
			return err
		}
		cmds[i].Stdin = pipe
	}
	return nil
}

// connection gives both ends of a TCP connection on the loopback, as files that
// a program can be given.
func connection() (out, in *os.File, err error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	dialled, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, dialled.Close()) }()
	accepted, err := l.AcceptTCP()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, accepted.Close()) }()
	if out, err = dialled.File(); err != nil {
		return nil, nil, err
	}
	if in, err = accepted.File(); err != nil {
		return nil, nil, errors.Join(err, out.Close())
	}
	return out, in, nil
}
