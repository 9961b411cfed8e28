package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// buildVersion is what the version command prints.
type buildVersion struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

func versionCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "Print which build this is",
		Flags: command.OutputFlags(),
		Action: env.Action(func(_ context.Context, _ *cli.Context, s *command.Session) error {
			return s.Out.Result(thisBuild(), func(w io.Writer) { fmt.Fprintln(w, thisBuild()) })
		}),
	}
}

func (v buildVersion) String() string {
	return fmt.Sprintf("cfseed %s %s %s", v.Version, v.Revision, v.Go)
}

func thisBuild() buildVersion {
	v := buildVersion{Version: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Go = info.Main.Version, info.GoVersion
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				v.Revision = setting.Value
			}
		}
	}
	return v
}
