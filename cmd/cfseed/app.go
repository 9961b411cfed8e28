package main

import (
	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// commands are the program's commands in the order of its help. A new command
// is one file with a constructor, one line here, and its page in testdata/help.
func commands() []command.Constructor {
	return []command.Constructor{
		nodeCommand,
		demoCommand,
		benchCommand,
		pullCommand,
		pushCommand,
		verifyCommand,
		snapshotCommand,
		memberCommand,
		statusCommand,
		getCommand,
		putCommand,
		delCommand,
		watchCommand,
		completionCommand,
		versionCommand,
	}
}

func newApp(env *command.Env) *cli.App {
	return command.NewApp(env, "cfseed", "cfseed runs, seeds and checks nodes of a ChainFire cluster.", commands())
}
