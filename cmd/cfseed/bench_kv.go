package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/kvbench"
	"github.com/chainfire/cfseed/internal/fault"
)

func benchKVCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "kv",
		Usage: "Measure keys and values beside etcd",
		Description: "Workloads: " + strings.Join(kvbench.Names(), ", ") + ".\n" +
			"etcd's binary has to be on the path. Takes a quarter of an hour and some GiB of disk. Slowness never\n" +
			"fails the command: a bound that is missed is a row.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "only", Usage: "`WORKLOADS` to measure, as put-1,range,keys; default all"},
			&cli.StringFlag{Name: "members", Value: "1,3", Usage: "`SIZES` of the clusters; keys is measured with one member"},
			&cli.IntFlag{Name: "keys", Value: 4_000_000, Usage: "`N` keys to load for keys; 0 leaves it out"},
			&cli.GenericFlag{Name: "value-size", Value: bytesFlag(256), Usage: "`BYTES` of one value"},
			&cli.DurationFlag{Name: "span", Value: 5 * time.Second, Usage: "`DURATION` of one run of a workload"},
			&cli.IntFlag{Name: "runs", Value: 3, Usage: "`N` runs of each side"},
			&cli.BoolFlag{Name: "quick", Usage: "one run of a second each, 100,000 keys: to see that it works"},
			&cli.StringFlag{Name: "dir", Usage: "make data directories in `DIR`; default the system's for temporary files"},
			&cli.StringFlag{Name: "out", Usage: "write samples, command and machine as JSON to `FILE`"},
		}, command.OutputFlags()),
		Action: env.Action(benchKV),
	}
}

func benchKV(ctx context.Context, c *cli.Context, s *command.Session) (err error) {
	cfg := kvbench.Config{Dir: c.String("dir"), Only: list(c, "only"), Keys: c.Int("keys"), Span: c.Duration("span"), Runs: c.Int("runs"), Seed: 1,
		ValueSize: int(min(command.BytesOf(c, "value-size"), 1<<20))}
	if c.Bool("quick") {
		cfg.Keys, cfg.Span, cfg.Runs = min(cfg.Keys, 100_000), time.Second, 1
	}
	for _, text := range list(c, "members") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fault.Newf(fault.Usage, "--members", "%q is not a number", text)
		}
		cfg.Members = append(cfg.Members, n)
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if cfg.Binary, err = os.Executable(); err != nil {
		return fault.New(fault.Internal, "bench", err)
	}
	if cfg.Etcd, err = exec.LookPath("etcd"); err != nil {
		return fault.New(fault.Usage, "bench kv", err).WithHint("`make etcd` builds it into .bin, `make bench-kv` has that on the path")
	}
	progress, say := narration(s)
	defer progress.Close(false)
	cfg.Progress, cfg.Say = progress, say
	rep, err := kvbench.Run(ctx, cfg)
	progress.Close(err == nil)
	rep.Command = commandLine()
	if err != nil { // what was measured until then took long, and is kept
		return errors.Join(err, writeSamples(c.String("out"), rep))
	}
	return printReport(c, s, rep)
}
