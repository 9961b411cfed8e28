package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

// putResult is the shape of the put command's JSON.
type putResult struct {
	Revision int64 `json:"revision"`
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
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var result putResult
	err = dialer.Write(ctx, "put", func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := etcdserverpb.NewKVClient(conn).Put(ctx, &etcdserverpb.PutRequest{Key: key, Value: value})
		result.Revision = revisionOf(resp.GetHeader())
		return err
	})
	if err != nil {
		return err
	}
	return s.Out.Result(result, func(w io.Writer) { fmt.Fprintln(w, "OK") })
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
