package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/bench"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

func benchJoinCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "join",
		Usage: "Measure what a join costs, beside copying the same files",
		Description: "Clusters of processes are loaded; then a member is added under a constant load, in turns with\n" +
			"copying and syncing the source's data directory. Takes minutes, and several times the largest size\n" +
			"of disk. Slowness never fails the command: it is a row of the table.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "sizes", Value: "256MiB,1GiB", Usage: "`BYTES` of values, as 256MiB,1GiB"},
			&cli.StringFlag{Name: "members", Value: "1,3", Usage: "`N` members before the join, as 1,3"},
			&cli.GenericFlag{Name: "value-size", Value: bytesFlag(256), Usage: "`BYTES` of one value"},
			&cli.IntFlag{Name: "runs", Value: 3, Usage: "`N` runs of each combination"},
			&cli.IntFlag{Name: "rate", Value: 200, Usage: "`N` puts a second while measuring"},
			&cli.DurationFlag{Name: "quiet", Value: 10 * time.Second, Usage: "`DURATION` of the windows in which nothing else runs"},
			&cli.StringFlag{Name: "dir", Usage: "make data directories in `DIR`; default the system's for temporary files"},
			&cli.StringFlag{Name: "out", Usage: "write samples, command and machine as JSON to `FILE`"},
		}, command.OutputFlags()),
		Action: env.Action(benchJoin),
	}
}

func benchJoin(ctx context.Context, c *cli.Context, s *command.Session) error {
	cfg, err := benchJoinConfig(c)
	if err != nil {
		return err
	}
	progress, say := narration(s)
	defer progress.Close(false)
	cfg.Progress, cfg.Say = progress, say
	rep, err := bench.Run(ctx, cfg)
	progress.Close(err == nil)
	if err != nil {
		return err
	}
	rep.Command = commandLine()
	return printReport(c, s, rep)
}

func benchJoinConfig(c *cli.Context) (cfg bench.Config, err error) {
	cfg = bench.Config{Dir: c.String("dir"), Runs: c.Int("runs"), Rate: c.Int("rate"), Quiet: c.Duration("quiet"), Seed: 1,
		ValueSize: int(min(command.BytesOf(c, "value-size"), 1<<20))}
	if cfg.Binary, err = os.Executable(); err != nil {
		return cfg, fault.New(fault.Internal, "bench", err)
	}
	if cfg.Sizes, err = sizesOf(c); err != nil {
		return cfg, err
	}
	for part := range strings.SplitSeq(c.String("members"), ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return cfg, fault.Newf(fault.Usage, "--members", "%q is not a number", part)
		}
		cfg.Members = append(cfg.Members, n)
	}
	return cfg, cfg.Check()
}
