package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

func verifyCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "Look for damage in a data directory, or for differences between members",
		Description: "With --data-dir, reads the directory of a stopped node and changes nothing. With --cluster,\n" +
			"compares what the running members hold at an index that each of them has applied.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "data-dir", Usage: "verify the data directory `DIR`"},
			&cli.BoolFlag{Name: "quick", Usage: "with --data-dir: leave out what reads every record"},
			&cli.StringFlag{Name: "against", Usage: "with --data-dir: compare it with the running cluster at `ENDPOINTS`"},
			&cli.StringFlag{Name: "cluster", Usage: "compare the members of the cluster at `ENDPOINTS`"},
		}, command.TimeFlags(command.ShortTimeout, "wait at most `DURATION` for a member's answer"),
			command.SecurityFlags(), command.OutputFlags()),
		Action: env.Action(runVerify),
	}
}

func runVerify(ctx context.Context, c *cli.Context, s *command.Session) error {
	dir, cluster, against := c.String("data-dir"), c.String("cluster"), c.String("against")
	switch {
	case (dir == "") == (cluster == ""):
		return fault.Newf(fault.Usage, "", "verify takes one of --data-dir and --cluster").WithHint("%s --help", c.Command.HelpName)
	case cluster != "" && (against != "" || c.Bool("quick")):
		return fault.Newf(fault.Usage, "", "--against and --quick go with --data-dir")
	}
	var (
		report *output.Report
		err    error
	)
	if cluster != "" {
		dialer, derr := command.Dialer(c, strings.Split(cluster, ",")...)
		if derr != nil {
			return derr
		}
		report, err = verifyCluster(ctx, dialer)
	} else {
		report, err = verifyDir(ctx, s, dir, c.Bool("quick"))
		if err == nil && against != "" {
			dialer, derr := command.Dialer(c, strings.Split(against, ",")...)
			if derr != nil {
				return derr
			}
			err = verifyAgainst(ctx, dialer, report)
		}
	}
	if err != nil {
		return err
	}
	if err := s.Out.Result(report, report.Write); err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return command.Reported(err)
	}
	return nil
}
