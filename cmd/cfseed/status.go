package main

import (
	"context"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func statusCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "Print members, roles, lag, seeds in progress and seed leases",
		Flags: command.Flags([]cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "print it again and again until interrupted"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "with --watch: wait `DURATION` in between"},
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(status),
	}
}

func status(ctx context.Context, c *cli.Context, s *command.Session) error {
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	if !c.Bool("watch") {
		return printStatus(ctx, dialer, s)
	}
	if c.Duration("interval") <= 0 {
		return fault.Newf(fault.Usage, "", "--interval %s: must be more than nothing", c.Duration("interval"))
	}
	again := time.NewTicker(c.Duration("interval"))
	defer again.Stop()
	for {
		switch err := printStatus(ctx, dialer, s); fault.CodeOf(err) {
		case "":
		case fault.NotLeader, fault.Unreachable, fault.Timeout: // it may come back
			s.Log.Warn("status", "err", err, "hint", fault.HintOf(err))
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Interrupted, "status", ctx.Err())
		case <-again.C:
		}
	}
}

func printStatus(ctx context.Context, dialer *dial.Dialer, s *command.Session) error {
	var resp *chainfirev1.StatusResponse
	err := dialer.Read(ctx, "status", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{})
		return err
	})
	if err != nil {
		return err
	}
	shape := output.StatusOf(resp)
	return s.Out.Result(shape, func(w io.Writer) { shape.Write(w) })
}
