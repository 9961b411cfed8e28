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
	"github.com/chainfire/cfseed/internal/fault"
)

// getResult is the shape of the get command's JSON.
type getResult struct {
	Revision int64             `json:"revision"`
	Count    int64             `json:"count"`
	More     bool              `json:"more"`
	KVs      []output.KeyValue `json:"kvs"`
}

// sortings are the values of --sort-by and --order.
var (
	sortings = map[string]etcdserverpb.RangeRequest_SortTarget{"key": etcdserverpb.RangeRequest_KEY, "version": etcdserverpb.RangeRequest_VERSION,
		"create": etcdserverpb.RangeRequest_CREATE, "modify": etcdserverpb.RangeRequest_MOD, "value": etcdserverpb.RangeRequest_VALUE}
	orders = map[string]etcdserverpb.RangeRequest_SortOrder{"ascend": etcdserverpb.RangeRequest_ASCEND, "descend": etcdserverpb.RangeRequest_DESCEND}
)

func getCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "get",
		Usage:     "Print keys and their values",
		ArgsUsage: "KEY [RANGE_END]",
		Description: "Prints each key and its value on a line of its own. With RANGE_END, all keys from KEY up\n" +
			"to it, without it. A key that is not there prints nothing and is no failure.",
		Flags: command.Flags(rangeFlags(), []cli.Flag{
			&cli.Int64Flag{Name: "rev", Usage: "as it was at `REVISION`"},
			&cli.Int64Flag{Name: "limit", Usage: "at most `N` keys"},
			&cli.StringFlag{Name: "sort-by", Value: "key", Usage: "in the order of `WHAT`: key, version, create, modify, value"},
			&cli.StringFlag{Name: "order", Value: "ascend", Usage: "`WAY` of the order: ascend or descend"},
			&cli.BoolFlag{Name: "keys-only", Usage: "no values"},
			&cli.BoolFlag{Name: "count-only", Usage: "only how many there are"},
			hexFlag(),
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(get),
	}
}

// rangeRequest reads the arguments and flags of get.
func rangeRequest(c *cli.Context) (*etcdserverpb.RangeRequest, error) {
	key, end, err := keyRange(c)
	if err != nil {
		return nil, err
	}
	target, known := sortings[c.String("sort-by")]
	if !known {
		return nil, fault.Newf(fault.Usage, "", "--sort-by %q: want key, version, create, modify or value", c.String("sort-by"))
	}
	order, known := orders[c.String("order")]
	if !known {
		return nil, fault.Newf(fault.Usage, "", "--order %q: want ascend or descend", c.String("order"))
	}
	if target == etcdserverpb.RangeRequest_KEY && order == etcdserverpb.RangeRequest_ASCEND {
		order = etcdserverpb.RangeRequest_NONE // as they are
	}
	if c.Int64("limit") < 0 || c.Int64("rev") < 0 {
		return nil, fault.Newf(fault.Usage, "", "--limit and --rev are not less than nothing")
	}
	return &etcdserverpb.RangeRequest{Key: key, RangeEnd: end, Revision: c.Int64("rev"), Limit: c.Int64("limit"),
		SortTarget: target, SortOrder: order, KeysOnly: c.Bool("keys-only"), CountOnly: c.Bool("count-only")}, nil
}

func get(ctx context.Context, c *cli.Context, s *command.Session) error {
	req, err := rangeRequest(c)
	if err != nil {
		return err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var resp *etcdserverpb.RangeResponse
	err = dialer.Read(ctx, "get", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = etcdserverpb.NewKVClient(conn).Range(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	asHex := c.Bool("hex")
	result := getResult{Revision: revisionOf(resp.GetHeader()), Count: resp.GetCount(), More: resp.GetMore(), KVs: []output.KeyValue{}}
	for _, kv := range resp.GetKvs() {
		result.KVs = append(result.KVs, output.KeyValueOf(kv, req.GetKeysOnly(), asHex))
	}
	return s.Out.Result(result, func(w io.Writer) {
		if req.GetCountOnly() {
			fmt.Fprintln(w, resp.GetCount())
		}
		show := shower(asHex)
		for _, kv := range resp.GetKvs() {
			fmt.Fprintln(w, show(kv.GetKey()))
			if !req.GetKeysOnly() {
				fmt.Fprintln(w, show(kv.GetValue()))
			}
		}
	})
}
