package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// delResult is the shape of the del command's JSON.
type delResult struct {
	Revision int64             `json:"revision"`
	Deleted  int64             `json:"deleted"`
	PrevKVs  []output.KeyValue `json:"prev_kvs"`
}

func delCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "del",
		Usage:       "Delete keys",
		ArgsUsage:   "KEY [RANGE_END]",
		Description: "Prints how many keys were deleted. With RANGE_END, all keys from KEY up to it, without it.",
		Flags: command.Flags(rangeFlags(), []cli.Flag{
			prevFlag(),
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
	var resp *etcdserverpb.DeleteRangeResponse
	err = dialer.Write(ctx, "del", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = etcdserverpb.NewKVClient(conn).DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: c.Bool("prev-kv")})
		return err
	})
	if err != nil {
		return err
	}
	result := delResult{Revision: revisionOf(resp.GetHeader()), Deleted: resp.GetDeleted()}
	if c.Bool("prev-kv") {
		result.PrevKVs = []output.KeyValue{}
	}
	for _, kv := range resp.GetPrevKvs() {
		result.PrevKVs = append(result.PrevKVs, output.KeyValueOf(kv, false, c.Bool("hex")))
	}
	return s.Out.Result(result, func(w io.Writer) {
		fmt.Fprintln(w, result.Deleted)
		show := shower(c.Bool("hex"))
		for _, kv := range resp.GetPrevKvs() {
			fmt.Fprintf(w, "%s\n%s\n", show(kv.GetKey()), show(kv.GetValue()))
		}
	})
}
