package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/node"
	"github.com/chainfire/cfseed/node/join"
	"github.com/chainfire/cfseed/transfer"
)

func pullCommand(env *command.Env) *cli.Command {
	leaseBytes := command.Bytes(node.DefaultLeaseBytes)
	return &cli.Command{
		Name:  "pull",
		Usage: "Seed a data directory from a running member, the directory of a stopped one, or an archive",
		Description: "Run again to resume. `cfseed node --data-dir DIR --join ENDPOINTS` then goes straight to admission,\n" +
			"as long as the seed's lease lives.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`SOURCE`: client addresses of members, separated by commas, the data directory of a stopped member, or an archive"},
			&cli.StringFlag{Name: "data-dir", Usage: "the new node's data `DIR`"},
			&cli.StringFlag{Name: "name", Usage: "reserve the member under `NAME`; default made from the directory's nonce"},
			&cli.StringFlag{Name: "delta", Usage: "take what did not change from `OLD-DIR`, the data directory of a member that no longer runs; it is only read"},
			&cli.StringFlag{Name: "delta-by", Value: join.DeltaAuto, Usage: "... by `WAY`: files that are the same, and new ones made of its records where that is sooner (auto), never (files), or wherever it can be done (ranges)"},
			&cli.IntFlag{Name: "parallel", Usage: "`N` connections that the seed comes over; default 2, or 4 on a long line"},
			&cli.DurationFlag{Name: "lease-ttl", Value: node.DefaultLeaseTTL, Usage: "the cluster keeps the log after the seed for `DURATION`"},
			&cli.GenericFlag{Name: "lease-bytes", Value: &leaseBytes, Usage: "... and for at most `BYTES` of it"},
			&cli.BoolFlag{Name: "learner", Usage: "reserve as a member that stays a learner"},
		}, command.SeedingFlags(), command.TimeFlags(command.IdleTimeout, "end after `DURATION` without any progress"),
			command.SecurityFlags(), command.OutputFlags()),
		Action: env.Action(pull),
	}
}

func pull(ctx context.Context, c *cli.Context, s *command.Session) error {
	if c.String("from") == "" || c.String("data-dir") == "" {
		return fault.Newf(fault.Usage, "", "--from and --data-dir are needed").
			WithHint("cfseed pull --from 10.0.0.1:2379 --data-dir DIR")
	}
	if c.Int("parallel") < 0 || c.Duration("timeout") <= 0 || c.Duration("lease-ttl") <= 0 {
		return fault.Newf(fault.Usage, "", "--parallel must not be negative, --timeout and --lease-ttl must be more than nothing")
	}
	compression, err := command.CompressionOf(c)
	if err != nil {
		return err
	}
	by := c.String("delta-by")
	if by != join.DeltaAuto && by != join.DeltaFiles && by != join.DeltaRanges {
		return fault.Newf(fault.Usage, "", "--delta-by %s is not one of auto, files, ranges", by)
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	login, err := netsec.ParseLogin(c.String("user"), c.String("password"))
	if err != nil {
		return err
	}
	tls := netsec.Files{Cert: c.String("cert"), Key: c.String("key"), CA: c.String("cacert")}
	cfg := join.PullConfig{Rand: rand.Reader, Config: join.Config{
		Dir: datadir.At(vfs.Default, c.String("data-dir")), Name: c.String("name"), Learner: c.Bool("learner"), Base: c.String("delta"), DeltaBy: by,
		Dial: func(_ context.Context, endpoint string) (*grpc.ClientConn, error) {
			return netsec.Dial(endpoint, tls, login.DialOptions()...)
		},
		DialSeed: func(_ context.Context, endpoint string, opts ...grpc.DialOption) (transfer.Conn, error) {
			return netsec.Dial(endpoint, tls, append(login.DialOptions(), opts...)...)
		},
		DialChannel: func(ctx context.Context, endpoint string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
			return netsec.DialApart(ctx, endpoint, tls, transfer.ChannelProtocol, wrap)
		},
		Parallel: c.Int("parallel"), RateLimit: int64(command.BytesOf(c, "rate-limit")), Compression: compression,
		IdleTimeout: c.Duration("timeout"), LeaseTTL: c.Duration("lease-ttl"), LeaseBytes: command.BytesOf(c, "lease-bytes"),
		Logger: s.Log, Started: progress.Phase,
		Moved:    func(p transfer.Progress) { progress.Transfer(p.BytesDone, p.BytesTotal, p.BytesWire, p.Rate) },
		Foreseen: progress.Forecast, Queued: progress.Queued,
	}}
	if err := setSource(&cfg, c.String("from"), list(c, "from"), tls); err != nil {
		return err
	}
	spareThreads()
	out, err := join.Pull(ctx, cfg)
	if err != nil {
		return err
	}
	progress.Close(true)
	shape := pullShape(out)
	return s.Out.Result(shape, func(w io.Writer) { writePull(w, shape, c.String("data-dir")) })
}

// setSource tells what --from names: a stopped node's directory, an archive, or
// addresses.
func setSource(cfg *join.PullConfig, from string, addresses []string, tls netsec.Files) error {
	const hint = "addresses of members, an archive, or the data directory of a stopped node"
	info, err := os.Stat(from)
	switch {
	case err == nil && info.IsDir():
		cfg.Donor = from
		return nil
	case err == nil:
		cfg.Archive = from
		return nil
	case strings.ContainsRune(from, filepath.Separator) && !strings.Contains(from, "://"):
		if !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.FileCode(err), "--from", err).WithHint(hint)
		}
		return fault.New(fault.Usage, "--from", err).WithHint(hint)
	}
	for _, address := range addresses {
		if err := netsec.CheckEndpoint(address, tls); err != nil {
			return fault.New(fault.Usage, "--from", err).WithHint(hint)
		}
	}
	cfg.Endpoints = addresses
	return nil
}

func pullShape(out *join.PullOutcome) output.Pull {
	id := out.Identity
	shape := output.Pull{
		ClusterID: output.ID(id.Cluster.ID), MemberID: output.ID(id.MemberID).Optional(),
		Position: &output.Position{Term: id.Seed.Position.Term, Index: id.Seed.Position.Index},
		Revision: out.Revision, Files: out.Files,
		BytesTotal: out.Result.BytesTotal, BytesWire: out.Result.BytesWire, BytesReused: out.Result.BytesReused,
		BytesDiscarded: out.Result.BytesDiscarded, Failovers: out.Result.Failovers, Retries: out.Result.Retries,
		Seconds: out.Seconds, LeaseID: output.ID(id.Seed.LeaseID).Optional(),
		ManifestRoot: id.Seed.ManifestRoot[:], AlreadyComplete: out.AlreadyComplete,
	}
	if out.Delta != "" {
		shape.Delta = &out.Delta
	}
	if !out.LeaseExpires.IsZero() {
		expires := out.LeaseExpires.UTC().Format(time.RFC3339)
		shape.LeaseExpires = &expires
	}
	return shape
}

func writePull(w io.Writer, p output.Pull, dir string) {
	if p.AlreadyComplete {
		fmt.Fprintf(w, "%s holds the seed at %s already, revision %d: %s in %d files\n", dir, p.Position, p.Revision,
			output.Size(p.BytesTotal), p.Files)
	} else {
		fmt.Fprintf(w, "%s is seeded at %s, revision %d: %s in %d files, %s on the wire, %s reused, %.2fs\n",
			dir, p.Position, p.Revision, output.Size(p.BytesTotal), p.Files, output.Size(p.BytesWire), output.Size(p.BytesReused), p.Seconds)
	}
	if p.BytesDiscarded > 0 {
		fmt.Fprintf(w, "another source took over: %s that were here had nothing in common with its seed and were fetched again\n",
			output.Size(p.BytesDiscarded))
	}
	if p.LeaseExpires != nil {
		fmt.Fprintf(w, "lease %s expires %s; before that: cfseed node --data-dir %s --join ENDPOINTS\n", p.LeaseID, *p.LeaseExpires, dir)
	} else {
		fmt.Fprintf(w, "cfseed node --data-dir %s --join ENDPOINTS makes a member of it\n", dir)
	}
}
