package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

func benchCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "bench",
		Usage:       "Measure on this machine",
		Subcommands: []*cli.Command{benchJoinCommand(env), benchSeedCommand(env), benchNetCommand(env), benchKVCommand(env)},
	}
}

func bytesFlag(n command.Bytes) *command.Bytes { return &n }

// sizesOf reads --sizes, rising.
func sizesOf(c *cli.Context) ([]uint64, error) {
	var out []uint64
	for _, part := range list(c, "sizes") {
		var b command.Bytes
		if err := b.Set(part); err != nil {
			return nil, fault.New(fault.Usage, "--sizes", err)
		}
		out = append(out, uint64(b))
	}
	slices.Sort(out)
	return out, nil
}

// commandLine is how a benchmark was called, for its report.
func commandLine() string { return strings.Join(append([]string{"cfseed"}, os.Args[1:]...), " ") }

// narration is how a benchmark shows where it is: the progress is the caller's to
// close.
func narration(s *command.Session) (output.Progress, func(format string, args ...any)) {
	return output.NewProgress(s.Stderr, s.Terminal, s.Log), func(format string, args ...any) {
		s.Log.Info(fmt.Sprintf(format, args...))
	}
}

// printReport keeps the samples of a benchmark that has come through where --out
// says, and prints it.
func printReport(c *cli.Context, s *command.Session, report interface{ Write(w io.Writer) }) error {
	if err := writeSamples(c.String("out"), report); err != nil {
		return err
	}
	return s.Out.Result(report, report.Write)
}

// writeSamples writes a report with all of its samples as JSON; an empty path
// is none.
func writeSamples(path string, report any) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fault.New(fault.Internal, "write report", err).At(path)
	}
	return nil
}
