// Command cfseed runs a node of a ChainFire cluster, seeds new nodes, and asks
// and checks a cluster. Each command is one file here; what they share is in
// internal/command (the frame), internal/dial (connections) and internal/output
// (what is printed).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	env := &command.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Terminal: isTerminal(os.Stderr)}
	os.Exit(command.Main(ctx, env, newApp(env), os.Args))
}

// isTerminal reports whether somebody looks at f as it is written.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
