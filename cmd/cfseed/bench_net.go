package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/netbench"
	"github.com/chainfire/cfseed/internal/fault"
)

func benchNetCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "net",
		Usage: "Measure how much of a long line a pull uses",
		Description: "A member and a pull run on this machine, with a line between them that has the round trip times and\n" +
			"rates named. Takes minutes, and the fastest rate times --busy of disk, three times. Slowness never\n" +
			"fails the command: it is a row of the table.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "rtts", Value: "10ms,50ms,100ms", Usage: "round trip `TIMES`, as 10ms,50ms"},
			&cli.StringFlag{Name: "mbits", Value: "100,1000", Usage: "rates of the line in `MBIT/S`, as 100,1000"},
			&cli.DurationFlag{Name: "busy", Value: 10 * time.Second, Usage: "a seed keeps the line busy for `DURATION`"},
			&cli.IntFlag{Name: "runs", Value: 3, Usage: "`N` runs of each combination"},
			&cli.GenericFlag{Name: "window", Value: bytesFlag(3 << 20), Usage: "`BYTES` on their way on one TCP connection at most, 0 for any"},
			&cli.StringFlag{Name: "pull-flags", Usage: "more `FLAGS` of cfseed pull, separated by spaces"},
			&cli.StringFlag{Name: "dir", Usage: "make data directories in `DIR`; default the system's for temporary files"},
			&cli.StringFlag{Name: "out", Usage: "write samples, command and machine as JSON to `FILE`"},
		}, command.OutputFlags()),
		Action: env.Action(runBenchNet),
	}
}

func runBenchNet(ctx context.Context, c *cli.Context, s *command.Session) error {
	cfg, err := benchNetConfig(c)
	if err == nil {
		err = cfg.Check()
	}
	if err != nil {
		return err
	}
	progress, say := narration(s)
	defer progress.Close(false)
	cfg.Progress, cfg.Say = progress, say
	rep, err := netbench.Run(ctx, cfg)
	progress.Close(err == nil)
	if err != nil {
		return err
	}
	rep.Command = commandLine()
	return printReport(c, s, rep)
}

func benchNetConfig(c *cli.Context) (cfg netbench.Config, err error) {
	cfg = netbench.Config{Dir: c.String("dir"), Busy: c.Duration("busy"), Runs: c.Int("runs"),
		Window: int64(min(command.BytesOf(c, "window"), 1<<40)), Flags: strings.Fields(c.String("pull-flags"))}
	if cfg.Binary, err = os.Executable(); err != nil {
		return cfg, fault.New(fault.Internal, "bench net", err)
	}
	for _, part := range list(c, "rtts") {
		d, err := time.ParseDuration(part)
		if err != nil {
			return cfg, fault.New(fault.Usage, "--rtts", err)
		}
		cfg.RTTs = append(cfg.RTTs, d)
	}
	for _, part := range list(c, "mbits") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return cfg, fault.Newf(fault.Usage, "--mbits", "%q is not a number", part)
		}
		cfg.Mbits = append(cfg.Mbits, n)
	}
	slices.Sort(cfg.Mbits)
	return cfg, nil
}
