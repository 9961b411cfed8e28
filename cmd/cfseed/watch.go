package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	gstatus "google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// watchEvent is the shape of one change in the watch command's JSON. PrevKV is
// null where it is not asked for or not known.
type watchEvent struct {
	Type     string           `json:"type"` // put or delete
	Revision int64            `json:"revision"`
	KV       output.KeyValue  `json:"kv"`
	PrevKV   *output.KeyValue `json:"prev_kv"`
}

func watchCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "watch",
		Usage:     "Print changes of keys as they come, until interrupted",
		ArgsUsage: "KEY [RANGE_END]",
		Description: "Prints PUT or DELETE, the key and the value, each on a line of its own; with --prev-kv the pair before\n" +
			"the change comes first. Where a member ends, it goes on at the next endpoint without a gap.",
		Flags: command.Flags(rangeFlags(), []cli.Flag{
			&cli.Int64Flag{Name: "rev", Usage: "also what was changed since `REVISION`; default from now on"},
			prevFlag(),
			hexFlag(),
		}, command.LongClientFlags(), command.OutputFlags()),
		Action: env.Action(watchKeys),
	}
}

// keyWatch is a watch that outlives connections.
type keyWatch struct {
	s       *command.Session
	req     *etcdserverpb.WatchCreateRequest // its start revision moves on
	asHex   bool
	timeout time.Duration
}

func watchKeys(ctx context.Context, c *cli.Context, s *command.Session) error {
	key, end, err := keyRange(c)
	if err != nil {
		return err
	}
	if c.Int64("rev") < 0 {
		return fault.Newf(fault.Usage, "", "--rev %d: revisions begin at 1", c.Int64("rev"))
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	w := &keyWatch{s: s, asHex: c.Bool("hex"), timeout: dialer.Timeout(), req: &etcdserverpb.WatchCreateRequest{Key: key, RangeEnd: end,
		StartRevision: c.Int64("rev"), PrevKv: c.Bool("prev-kv"), ProgressNotify: true}}
	return dialer.Follow(ctx, "watch", w.run)
}

// run watches at one member. While the member answers, silence is no lack of
// progress.
func (w *keyWatch) run(ctx context.Context, conn *grpc.ClientConn, beat func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	stream, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	create := &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: w.req}
	if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: create}); err != nil && err != io.EOF { // EOF: Recv tells why
		return err
	}
	asking.Go(func() { keepAsking(ctx, conn, w.timeout/4, beat) })
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		beat()
		if err := w.hear(resp); err != nil {
			return err
		}
	}
}

// keepAsking calls beat whenever the member has answered, be it that the user may
// not ask.
func keepAsking(ctx context.Context, conn *grpc.ClientConn, every time.Duration, beat func()) {
	again := time.NewTicker(max(every, time.Millisecond))
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		_, err := chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{Self: true})
		switch gstatus.Code(err) {
		case codes.OK, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
			beat()
		}
	}
}

func (w *keyWatch) hear(resp *etcdserverpb.WatchResponse) error {
	now := revisionOf(resp.GetHeader())
	switch {
	case resp.GetCompactRevision() != 0:
		return fault.Newf(fault.Refused, "", "revision %d is compacted", w.req.GetStartRevision()).
			WithHint("--rev %d is the first that is left", resp.GetCompactRevision())
	case resp.GetCanceled():
		return fault.Newf(fault.Refused, "", "the member has ended the watch: %s", resp.GetCancelReason())
	case resp.GetCreated():
		if w.req.GetStartRevision() == 0 {
			w.req.StartRevision = now + 1
		}
		return nil
	}
	for _, ev := range resp.GetEvents() {
		if err := w.print(ev); err != nil {
			return err
		}
		now = ev.GetKv().GetModRevision()
	}
	// Without events it tells how far a watch is that has nothing to tell.
	w.req.StartRevision = max(w.req.GetStartRevision(), now+1)
	return nil
}

func (w *keyWatch) print(ev *mvccpb.Event) error {
	kv, del := ev.GetKv(), ev.GetType() == mvccpb.Event_DELETE
	shape := watchEvent{Type: "put", Revision: kv.GetModRevision(), KV: output.KeyValueOf(kv, del, w.asHex)}
	if del {
		shape.Type = "delete"
	}
	if old := ev.GetPrevKv(); old != nil {
		p := output.KeyValueOf(old, false, w.asHex)
		shape.PrevKV = &p
	}
	return w.s.Out.Result(shape, func(out io.Writer) {
		show := shower(w.asHex)
		fmt.Fprintln(out, ev.GetType())
		if old := ev.GetPrevKv(); old != nil {
			fmt.Fprintf(out, "%s\n%s\n", show(old.GetKey()), show(old.GetValue()))
		}
		fmt.Fprintf(out, "%s\n%s\n", show(kv.GetKey()), show(kv.GetValue()))
	})
}
