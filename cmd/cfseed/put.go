package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

// putResult is the shape of the put command's JSON.
type putResult struct {
	Revision int64            `json:"revision"`
	PrevKV   *output.KeyValue `json:"prev_kv"`
}

// maxInput bounds a value read from stdin.
const maxInput = 64 << 20

func putCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "put",
		Usage:       "Write a key",
		ArgsUsage:   "KEY VALUE",
		Description: "VALUE - is read from stdin, whole, as it is.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "lease", Usage: "the key goes with the lease `ID`, in hex"},
			prevFlag(),
			hexFlag(),
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(put),
	}
}

func put(ctx context.Context, c *cli.Context, s *command.Session) error {
	key, err := keyArgument(c, 0)
	if err != nil {
		return err
	}
	value, err := putValue(c, s)
	if err != nil {
		return err
	}
	lease, err := leaseOf(c)
	if err != nil {
		return err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var resp *etcdserverpb.PutResponse
	err = dialer.Write(ctx, "put", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = etcdserverpb.NewKVClient(conn).Put(ctx, &etcdserverpb.PutRequest{Key: key, Value: value, Lease: lease, PrevKv: c.Bool("prev-kv")})
		return err
	})
	if err != nil {
		return err
	}
	result := putResult{Revision: revisionOf(resp.GetHeader())}
	if old := resp.GetPrevKv(); old != nil {
		shape := output.KeyValueOf(old, false, c.Bool("hex"))
		result.PrevKV = &shape
	}
	return s.Out.Result(result, func(w io.Writer) {
		fmt.Fprintln(w, "OK")
		if old := resp.GetPrevKv(); old != nil {
			show := shower(c.Bool("hex"))
			fmt.Fprintf(w, "%s\n%s\n", show(old.GetKey()), show(old.GetValue()))
		}
	})
}

// leaseOf reads --lease as etcdctl prints it.
func leaseOf(c *cli.Context) (int64, error) {
	text := c.String("lease")
	if text == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || id == 0 {
		return 0, fault.Newf(fault.Usage, "", "--lease %q is not an ID of up to 16 hex digits", text)
	}
	return int64(id), nil
}

func putValue(c *cli.Context, s *command.Session) ([]byte, error) {
	if c.Args().Get(1) != "-" {
		return keyArgument(c, 1)
	}
	value, err := io.ReadAll(io.LimitReader(s.Stdin, maxInput+1))
	if err != nil {
		return nil, fault.New(fault.Internal, "read stdin", err)
	}
	if len(value) > maxInput {
		return nil, fault.Newf(fault.Usage, "read stdin", "more than %d bytes", maxInput)
	}
	return value, nil
}
