package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/demo"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

func demoCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "Run a cluster of three processes on this machine, and prove and measure what it does",
		Description: "One node is loaded with the files of a directory; two more join under a write load; the leader\n" +
			"is killed; every acknowledged key is read back from every member; all data directories are verified.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "load", Usage: "load the files of `DIR`; default Go's own sources"},
			&cli.IntFlag{Name: "writers", Value: 4, Usage: "`N` concurrent writers while members join"},
			&cli.DurationFlag{Name: "deadline", Value: demo.Deadline, Usage: "end it after `DURATION`; 0 = no limit"},
			&cli.BoolFlag{Name: "inject-lost-key", Usage: "delete an acknowledged key behind the check's back: it must fail with status 4"},
		}, command.OutputFlags()),
		Action: env.Action(runDemo),
	}
}

func runDemo(ctx context.Context, c *cli.Context, s *command.Session) error {
	binary, err := os.Executable()
	if err != nil {
		return fault.New(fault.Internal, "demo", err)
	}
	load := c.String("load")
	if load == "" {
		if load, err = demo.DefaultLoad(ctx); err != nil {
			return err
		}
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	cfg := demo.Config{Binary: binary, Load: load, Writers: max(1, c.Int("writers")), Progress: progress, LoseKey: c.Bool("inject-lost-key"),
		Say: func(format string, args ...any) { s.Log.Info(fmt.Sprintf(format, args...)) }}
	rep, runErr := demo.Run(ctx, cfg)
	progress.Close(runErr == nil)
	if runErr != nil && !fault.Is(runErr, fault.Different) && !fault.Is(runErr, fault.Corrupt) {
		return runErr
	}
	if err := s.Out.Result(rep, func(w io.Writer) { writeDemo(w, rep) }); err != nil {
		return errors.Join(runErr, err)
	}
	if runErr != nil && s.Out.IsJSON() {
		return command.Reported(runErr)
	}
	return runErr
}

func writeDemo(w io.Writer, r demo.Report) {
	fmt.Fprintf(w, "loaded     %d files, %s in %.1f s (%d skipped)\n", r.Files, output.Size(uint64(r.BytesLoaded)), r.LoadSeconds, r.Skipped)
	for _, j := range r.Joins {
		fmt.Fprintf(w, "joined     %s as %s in %.2f s: %s, %s on the wire, %s entries after add, %s raft snapshots sent\n",
			j.Name, j.Role, j.Seconds, output.Bytes(j.BytesTotal), output.Bytes(j.BytesWire), output.Count(j.EntriesAfterAdd), output.Count(j.RaftSnapshotsSent))
		for _, p := range j.Phases {
			fmt.Fprintf(w, "             %-8s %6.3f s\n", p.Name, p.Seconds)
		}
	}
	fmt.Fprintf(w, "writes     %d acknowledged; put p50 %.1f ms, p99 %.1f ms before the joins, p50 %.1f ms, p99 %.1f ms during\n",
		r.WritesDuring, r.PutBefore.P50, r.PutBefore.P99, r.PutDuring.P50, r.PutDuring.P99)
	fmt.Fprintf(w, "failover   %.2f s from the leader's death to the next write; longest gap between writes %.2f s\n", r.FailoverSeconds, r.LongestGap)
	fmt.Fprintf(w, "read back  %d keys, %d lost\n", r.KeysChecked, len(r.KeysLost))
	for _, k := range r.KeysLost[:min(10, len(r.KeysLost))] {
		fmt.Fprintf(w, "             lost %s\n", k)
	}
	for _, v := range r.Verified {
		verdict := "ok"
		if !v.OK {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "verified   %s %s, digest %s\n", v.Name, verdict, v.Digest)
	}
	fmt.Fprintf(w, "total      %.1f s\n", r.Seconds)
}
