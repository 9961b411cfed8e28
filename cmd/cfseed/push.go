package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	gstatus "google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func pushCommand(env *command.Env) *cli.Command {
	leaseBytes := command.Bytes(1 << 30)
	return &cli.Command{
		Name:  "push",
		Usage: "Ask a member to push a seed into a waiting node",
		Description: "The node waits at the peer URL, started with --await-seed. The seed's lease is kept for\n" +
			"--lease-ttl, so that a member add that follows uses these bytes.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "the `MEMBER` that pushes: client address, name or ID; default the first of --endpoints that answers"},
			&cli.StringFlag{Name: "to", Usage: "the waiting node's peer `URL`"},
			&cli.DurationFlag{Name: "lease-ttl", Value: 10 * time.Minute, Usage: "the cluster keeps the log after the seed for `DURATION`"},
			&cli.GenericFlag{Name: "lease-bytes", Value: &leaseBytes, Usage: "... and for at most `BYTES` of it"},
		}, command.SeedingFlags(), command.JoinTokenFlag(), command.LongClientFlags(), command.OutputFlags()),
		Action: env.Action(push),
	}
}

func push(ctx context.Context, c *cli.Context, s *command.Session) error {
	to, err := urls(c, "to")
	if err != nil {
		return err
	}
	if len(to) != 1 {
		return fault.Newf(fault.Usage, "", "--to takes one URL")
	}
	compression, err := command.CompressionOf(c)
	if err != nil {
		return err
	}
	endpoint, dialer, err := pushSource(ctx, c)
	if err != nil {
		return err
	}
	req := &chainfirev1.TransferSnapshotRequest{
		TargetUrl: to[0], RateLimit: command.BytesOf(c, "rate-limit"), Compression: compression,
		LeaseTtlMs: uint64(max(0, c.Duration("lease-ttl").Milliseconds())), LeaseCapBytes: command.BytesOf(c, "lease-bytes"),
		JoinToken: c.String("join-token"),
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	progress.Phase("seed")
	var result *chainfirev1.TransferResult
	err = dialer.Once(ctx, "push", endpoint, func(ctx context.Context, conn *grpc.ClientConn, beat func()) error {
		stream, err := chainfirev1.NewSeedClient(conn).TransferSnapshot(ctx, req)
		if err != nil {
			return err
		}
		result, err = followPush(stream, progress, beat)
		return err
	})
	if err != nil {
		return err
	}
	progress.Close(true)
	shape := output.TransferOf(result)
	return s.Out.Result(shape, func(w io.Writer) { writePush(w, shape, to[0]) })
}

// pushSource finds the address of the member that pushes.
func pushSource(ctx context.Context, c *cli.Context) (string, *dial.Dialer, error) {
	from := c.String("from")
	if strings.Contains(from, ":") { // an address; neither a name nor an ID has a colon
		dialer, err := command.Dialer(c, from)
		return from, dialer, err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return "", nil, err
	}
	var (
		asked   string
		members []*chainfirev1.Member
	)
	for i, endpoint := range dialer.Endpoints() {
		asked = endpoint
		members, err = membersAt(ctx, dialer, endpoint)
		if err == nil || i == len(dialer.Endpoints())-1 || !fault.Is(err, fault.Unreachable) {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	if from == "" {
		return asked, dialer, nil
	}
	for _, m := range members {
		if (m.GetName() == from || ident.FormatID(m.GetId()) == from) && len(m.GetClientUrls()) > 0 {
			return m.GetClientUrls()[0], dialer, nil
		}
	}
	return "", nil, fault.Newf(fault.Usage, "", "--from %q: no member has this name, ID or address", from).
		WithHint("cfseed member list")
}

// membersAt asks the one member at endpoint.
func membersAt(ctx context.Context, dialer *dial.Dialer, endpoint string) ([]*chainfirev1.Member, error) {
	var resp *chainfirev1.MemberListResponse
	err := dialer.Once(ctx, "member list", endpoint, func(ctx context.Context, conn *grpc.ClientConn, _ func()) (err error) {
		resp, err = chainfirev1.NewClusterClient(conn).MemberList(ctx, &chainfirev1.MemberListRequest{})
		return err
	})
	return resp.GetMembers(), err
}

func followPush(stream grpc.ServerStreamingClient[chainfirev1.TransferSnapshotResponse], progress output.Progress, beat func()) (*chainfirev1.TransferResult, error) {
	var moved uint64
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, gstatus.Error(codes.Unavailable, "the stream ended without a result")
		}
		if err != nil {
			return nil, err
		}
		switch event := resp.GetEvent().(type) {
		case *chainfirev1.TransferSnapshotResponse_Transfer:
			t := event.Transfer
			if t.GetBytesDone() != moved {
				moved = t.GetBytesDone()
				beat()
			}
			progress.Transfer(t.GetBytesDone(), t.GetBytesTotal(), t.GetBytesWire(), t.GetBytesPerSecond())
		case *chainfirev1.TransferSnapshotResponse_Result:
			return event.Result, nil
		}
	}
}

func writePush(w io.Writer, r output.Transfer, to string) {
	if r.AlreadyComplete {
		fmt.Fprintf(w, "%s has the seed at %s already\n", to, r.Position)
		return
	}
	fmt.Fprintf(w, "%s is seeded at %s, revision %d: %s in %d files, %s on the wire, %s reused, %.2fs\n",
		to, r.Position, r.Revision, output.Size(r.BytesTotal), r.Files, output.Size(r.BytesWire), output.Size(r.BytesReused), r.Seconds)
	fmt.Fprintf(w, "cfseed member add NAME --peer-urls %s makes a member of it\n", to)
}
