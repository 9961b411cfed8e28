package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// delResult is the shape of the del command's JSON.
type delResult struct {
	Revision int64 `json:"revision"`
	Deleted  int64 `json:"deleted"`
}

func delCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "del",
		Usage:       "Delete keys",
		ArgsUsage:   "KEY [RANGE_END]",
		Description: "Prints how many keys were deleted. With RANGE_END, all keys from KEY up to it, without it.",
		Flags: command.Flags([]cli.Flag{
			prefixFlag(),
			hexFlag(),
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(del),
	}
}

func del(ctx context.Context, c *cli.Context, s *command.Session) error {
	key, end, err := keyRange(c)
	if err != nil {
		return err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var result delResult
	err = dialer.Write(ctx, "del", func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := etcdserverpb.NewKVClient(conn).DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: key, RangeEnd: end})
		result = delResult{Revision: revisionOf(resp.GetHeader()), Deleted: resp.GetDeleted()}
		return err
	})
	if err != nil {
		return err
	}
	return s.Out.Result(result, func(w io.Writer) { fmt.Fprintln(w, result.Deleted) })
}
