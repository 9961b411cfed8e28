package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/seedbench"
	"github.com/chainfire/cfseed/internal/fault"
)

func benchSeedCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "seed",
		Usage: "Measure what seeding costs, table by table",
		Description: "Tables: " + strings.Join(seedbench.Names(), ", ") + ".\n" +
			"Takes most of an hour, and several times the largest size of disk. Slowness never fails the command:\n" +
			"a bound that is missed is a row. Programs that are not installed (rsync, tar, zstd, etcd) are left out.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "only", Usage: "`TABLES` to measure, as throughput,delta; default all"},
			&cli.StringFlag{Name: "sizes", Value: "1GiB,4GiB", Usage: "`BYTES` of values; tables that need one size take the smallest"},
			&cli.GenericFlag{Name: "value-size", Value: bytesFlag(0), Usage: "`BYTES` of one value; default 256, above 1GiB of values 1KiB"},
			&cli.IntFlag{Name: "runs", Value: 3, Usage: "`N` runs of each combination"},
			&cli.DurationFlag{Name: "quiet", Value: 10 * time.Second, Usage: "`DURATION` of the windows in which nothing else runs"},
			&cli.StringFlag{Name: "dir", Usage: "make data directories in `DIR`; default the system's for temporary files"},
			&cli.StringFlag{Name: "out", Usage: "write samples, command and machine as JSON to `FILE`"},
			&cli.StringFlag{Name: "plots", Usage: "write a picture of each table as SVG into `DIR`"},
		}, command.OutputFlags()),
		Action: env.Action(benchSeed),
	}
}

func benchSeed(ctx context.Context, c *cli.Context, s *command.Session) (err error) {
	cfg := seedbench.Config{Dir: c.String("dir"), Only: list(c, "only"), Runs: c.Int("runs"), Quiet: c.Duration("quiet"), Seed: 1,
		ValueSize: int(min(command.BytesOf(c, "value-size"), 1<<20))}
	if cfg.Binary, err = os.Executable(); err != nil {
		return fault.New(fault.Internal, "bench", err)
	}
	if cfg.Sizes, err = sizesOf(c); err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	progress, say := narration(s)
	defer progress.Close(false)
	cfg.Progress, cfg.Say = progress, say
	rep, err := seedbench.Run(ctx, cfg)
	progress.Close(err == nil)
	rep.Command = commandLine()
	if err != nil { // what was measured until then took long, and is kept
		return errors.Join(err, writeSamples(c.String("out"), rep))
	}
	if err := printReport(c, s, rep); err != nil || c.String("plots") == "" {
		return err
	}
	return rep.Plot(c.String("plots"))
}
