package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

func snapshotSaveCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "save",
		Usage:       "Write what a running member holds to a file",
		ArgsUsage:   "FILE",
		Description: "The file is what the member had applied when it was asked. `cfseed pull --from FILE` seeds a node with it.",
		Flags:       command.Flags(nil, command.LongClientFlags(), command.OutputFlags()),
		Action:      env.Action(snapshotSave),
	}
}

func snapshotSave(ctx context.Context, c *cli.Context, s *command.Session) error {
	const op = "snapshot save"
	path := c.Args().First()
	if _, err := os.Lstat(path); err == nil {
		return fault.Newf(fault.NotEmpty, op, "the file exists").At(path).WithHint("choose another name, or remove it")
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	progress.Phase("save")
	// Whatever happens, the name stands for a whole archive or for nothing.
	part := path + ".part"
	err = dialer.Follow(ctx, op, func(ctx context.Context, conn *grpc.ClientConn, beat func()) error {
		stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
		if err != nil {
			return err
		}
		return receiveArchive(stream, part, progress, beat)
	})
	if err != nil {
		return errors.Join(err, removePart(part))
	}
	progress.Phase("verify")
	m, size, err := inspectArchive(ctx, part)
	if err != nil {
		return errors.Join(err, removePart(part))
	}
	if err := commitFile(part, path); err != nil {
		return err
	}
	progress.Close(true)
	return printArchive(s, path, m, size)
}

// receiveArchive writes a stream to a file and syncs it.
func receiveArchive(stream grpc.ServerStreamingClient[pb.SnapshotResponse], part string, progress output.Progress, beat func()) (err error) {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return writeFault(err, part)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = writeFault(cerr, part)
		}
	}()
	var done uint64
	for began := time.Now(); ; {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if err := f.Sync(); err != nil {
				return writeFault(err, part)
			}
			return nil
		}
		if err != nil {
			return err
		}
		beat()
		if _, err := f.Write(m.GetBlob()); err != nil {
			return writeFault(err, part)
		}
		done += uint64(len(m.GetBlob()))
		progress.Transfer(done, done+m.GetRemainingBytes(), done, float64(done)/max(time.Since(began).Seconds(), 1e-3))
	}
}

func writeFault(err error, path string) error {
	return fault.New(fault.FileCode(err), "write archive", err).At(path)
}

func removePart(part string) error {
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return writeFault(err, part)
	}
	return nil
}

// commitFile gives a synced file its name, for good.
func commitFile(part, path string) error {
	if err := os.Rename(part, path); err != nil {
		return writeFault(err, path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return writeFault(err, path)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return writeFault(err, path)
	}
	return nil
}
