package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	gstatus "google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func memberAddCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "Seed a waiting node, add it as a learner and promote it",
		ArgsUsage: "NAME",
		Description: "The newcomer waits at the peer URL, started with\n" +
			"  cfseed node --name NAME --await-seed --initial-advertise-peer-urls URL\n" +
			"Phases: reserve, seed, verify, admit, catch_up, promote. Nobody at the URL: exit 3 and nothing\n" +
			"was changed. When the command is interrupted the cluster goes on or cleans up by itself; the same\n" +
			"command continues. Of --parallel, --rate-limit and --compression, what is not given is what the\n" +
			"newcomer was started with.",
		Flags: command.Flags([]cli.Flag{
			peerURLsFlag(),
			&cli.BoolFlag{Name: "learner", Usage: "leave it a learner"},
			&cli.BoolFlag{Name: "no-seed", Usage: "only reserve its ID; the node seeds itself when it starts"},
			&cli.UintFlag{Name: "parallel", Usage: "move over `N` streams"},
		}, command.SeedingFlags(), command.JoinTokenFlag(), command.LongClientFlags(), command.OutputFlags()),
		Action: env.Action(memberAdd),
	}
}

func memberAdd(ctx context.Context, c *cli.Context, s *command.Session) error {
	req, err := memberAddRequest(c)
	if err != nil {
		return err
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	var result *chainfirev1.MemberAddResult
	err = dialer.Follow(ctx, "member add", func(ctx context.Context, conn *grpc.ClientConn, beat func()) error {
		stream, err := chainfirev1.NewClusterClient(conn).MemberAdd(ctx, req)
		if err != nil {
			return err
		}
		result, err = followMemberAdd(stream, progress, beat)
		return err
	})
	if err != nil {
		return err
	}
	progress.Close(true)
	shape := output.MemberAddOf(result)
	return s.Out.Result(shape, func(w io.Writer) { writeMemberAdd(w, shape, req.GetNoSeed()) })
}

func memberAddRequest(c *cli.Context) (*chainfirev1.MemberAddRequest, error) {
	peerURLs, err := urls(c, "peer-urls")
	if err != nil {
		return nil, err
	}
	compression, err := command.CompressionOf(c)
	if err != nil {
		return nil, err
	}
	if !c.IsSet("compression") {
		compression = "" // as the newcomer was started
	}
	return &chainfirev1.MemberAddRequest{
		Name: c.Args().First(), PeerUrls: peerURLs, Learner: c.Bool("learner"), NoSeed: c.Bool("no-seed"),
		RateLimit: command.BytesOf(c, "rate-limit"), Compression: compression, Parallel: uint32(c.Uint("parallel")),
		JoinToken: c.String("join-token"),
	}, nil
}

// followMemberAdd shows the stream's progress until its result. Bytes that do
// not move are no progress.
func followMemberAdd(stream grpc.ServerStreamingClient[chainfirev1.MemberAddResponse], progress output.Progress, beat func()) (*chainfirev1.MemberAddResult, error) {
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
		case *chainfirev1.MemberAddResponse_Phase:
			beat()
			progress.Phase(event.Phase.GetName())
		case *chainfirev1.MemberAddResponse_Transfer:
			t := event.Transfer
			if t.GetBytesDone() != moved {
				moved = t.GetBytesDone()
				beat()
			}
			progress.Transfer(t.GetBytesDone(), t.GetBytesTotal(), t.GetBytesWire(), t.GetBytesPerSecond())
			progress.Forecast(t.GetForecast())
			if t.GetQueue() != nil { // the source answers, and it will be our turn
				beat()
				progress.Queued(t.GetQueue())
			}
		case *chainfirev1.MemberAddResponse_Result:
			return event.Result, nil
		}
	}
}

func writeMemberAdd(w io.Writer, r output.MemberAdd, noSeed bool) {
	if noSeed {
		fmt.Fprintf(w, "member %s %s reserved; it joins when it is started there: cfseed node --name %s --join ENDPOINTS --initial-advertise-peer-urls URL\n",
			r.MemberID, r.Name, cmp.Or(r.Name, "NAME"))
		return
	}
	if r.AlreadyMember {
		fmt.Fprintf(w, "member %s %s is a %s already\n", r.MemberID, r.Name, r.Role)
		return
	}
	fmt.Fprintf(w, "member %s %s is a %s, seeded at %s\n", r.MemberID, r.Name, r.Role, r.Position)
	fmt.Fprintf(w, "%s on the wire, %s reused, %s entries fetched before and %s after it was added, %s Raft snapshots\n",
		output.Bytes(r.BytesWire), output.Bytes(r.BytesReused), output.Count(r.TailEntries), output.Count(r.EntriesAfterAdd),
		output.Count(r.RaftSnapshotsSent))
	var phases []string
	for _, p := range r.Phases {
		phases = append(phases, fmt.Sprintf("%s %.2fs", p.Name, p.Seconds))
	}
	if len(phases) > 0 {
		fmt.Fprintln(w, strings.Join(phases, ", "))
	}
}
