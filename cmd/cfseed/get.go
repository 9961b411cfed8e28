package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// getResult is the shape of the get command's JSON.
type getResult struct {
	Revision int64             `json:"revision"`
	Count    int64             `json:"count"`
	More     bool              `json:"more"`
	KVs      []output.KeyValue `json:"kvs"`
}

func getCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "get",
		Usage:     "Print keys and their values",
		ArgsUsage: "KEY [RANGE_END]",
		Description: "Prints each key and its value on a line of its own. With RANGE_END, all keys from KEY up\n" +
			"to it, without it. A key that is not there prints nothing and is no failure.",
		Flags: command.Flags([]cli.Flag{
			prefixFlag(),
			&cli.Int64Flag{Name: "rev", Usage: "as it was at `REVISION`"},
			&cli.Int64Flag{Name: "limit", Usage: "at most `N` keys"},
			&cli.BoolFlag{Name: "keys-only", Usage: "no values"},
			hexFlag(),
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(get),
	}
}

func get(ctx context.Context, c *cli.Context, s *command.Session) error {
	key, end, err := keyRange(c)
	if err != nil {
		return err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	keysOnly, asHex := c.Bool("keys-only"), c.Bool("hex")
	var resp *etcdserverpb.RangeResponse
	err = dialer.Read(ctx, "get", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{
			Key: key, RangeEnd: end, Revision: c.Int64("rev"), Limit: c.Int64("limit"), KeysOnly: keysOnly,
		})
		return err
	})
	if err != nil {
		return err
	}
	result := getResult{Revision: revisionOf(resp.GetHeader()), Count: resp.GetCount(), More: resp.GetMore(), KVs: []output.KeyValue{}}
	for _, kv := range resp.GetKvs() {
		result.KVs = append(result.KVs, output.KeyValueOf(kv, keysOnly, asHex))
	}
	return s.Out.Result(result, func(w io.Writer) {
		show := func(b []byte) string { return string(b) }
		if asHex {
			show = hex.EncodeToString
		}
		for _, kv := range resp.GetKvs() {
			fmt.Fprintln(w, show(kv.GetKey()))
			if !keysOnly {
				fmt.Fprintln(w, show(kv.GetValue()))
			}
		}
	})
}
