// Package command is the frame that every command of cfseed stands in: where
// flags may stand, what help looks like, how a failure is printed and which
// exit status it gives. A command itself is a cli.Command whose Action comes
// from Env.Action.
package command

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

// Env is what the process gives to a command.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // Stderr is a terminal: progress may be drawn
}

// Constructor makes one command. Commands are made anew for every run since a
// cli.Command remembers what was parsed.
type Constructor func(*Env) *cli.Command

// Session is one run of a command.
type Session struct {
	*Env
	Out *output.Printer
	Log *slog.Logger
}

// Run is the body of a command. ctx ends when the user interrupts or the
// deadline passes.
type Run func(ctx context.Context, c *cli.Context, s *Session) error

// NewApp assembles the commands. about is the first line of help.
func NewApp(env *Env, name, about string, commands []Constructor) *cli.App {
	app := &cli.App{
		Name: name, HelpName: name, Usage: about,
		Writer: io.Discard, ErrWriter: io.Discard, // all printing is ours
		HideHelp: true, HideHelpCommand: true, HideVersion: true,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   asUsage,
	}
	for _, construct := range commands {
		app.Commands = append(app.Commands, construct(env))
	}
	app.Setup() // sets names by itself, so ours come after
	for _, cmd := range app.Commands {
		prepare(cmd, name)
	}
	return app
}

// prepare sets what is the same for every command.
func prepare(cmd *cli.Command, parent string) {
	cmd.HideHelp, cmd.HideHelpCommand = true, true
	cmd.HelpName = parent + " " + cmd.Name
	cmd.OnUsageError = asUsage
	for _, f := range cmd.Flags {
		setEnvironment(f)
	}
	for _, sub := range cmd.Subcommands {
		prepare(sub, cmd.HelpName)
	}
}

// asUsage is called by the flag parser for a value that it can not read.
func asUsage(_ *cli.Context, err error, _ bool) error {
	return fault.New(fault.Usage, "", err)
}

// Main runs the command that args (the program's name first) ask for and gives
// the exit status. ctx must end on a signal and only then: whatever a command
// returns after that counts as interrupted, except success.
func Main(ctx context.Context, env *Env, app *cli.App, args []string) int {
	call, err := arrange(app, args)
	switch {
	case err == nil && call.help:
		err = writeHelp(env.Stdout, app, call.path)
	case err == nil:
		err = app.RunContext(ctx, call.argv)
	}
	if err != nil && ctx.Err() != nil {
		err = fault.New(fault.Interrupted, "", errors.New("interrupted"))
	}
	if err == nil {
		return 0
	}
	var shown *reported
	if !errors.As(err, &shown) {
		output.Failure(env.Stdout, env.Stderr, call.json, app.Name, err)
	}
	return fault.CodeOf(err).Exit()
}

// reported marks a failure whose result was printed already.
type reported struct{ err error }

func (r *reported) Error() string { return r.err.Error() }
func (r *reported) Unwrap() error { return r.err }

// Reported gives an error that sets the exit status and prints nothing: the
// command's result has said it all, as a verification that found damage does.
func Reported(err error) error { return &reported{err} }

// Action gives the cli.Action that runs run inside the frame: arguments
// counted, output and log set up, deadline started.
func (e *Env) Action(run Run) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := checkArguments(c); err != nil {
			return err
		}
		format := c.String(flagOutput)
		if format != output.JSON && format != output.Text {
			return fault.Newf(fault.Usage, "", "--%s %q: want %s or %s", flagOutput, format, output.Text, output.JSON)
		}
		s := &Session{Env: e, Out: output.NewPrinter(e.Stdout, format == output.JSON)}
		if err := s.SetLog(c); err != nil {
			return err
		}
		ctx := c.Context
		limit := c.Duration(flagDeadline) // 0 where there is no such flag
		if limit <= 0 {
			return run(ctx, c, s)
		}
		passed := fault.Newf(fault.Timeout, "", "the deadline of %s passed", limit)
		ctx, cancel := context.WithTimeoutCause(ctx, limit, passed)
		defer cancel()
		err := run(ctx, c, s)
		// A member may end a call for the deadline a moment before we do.
		end, _ := ctx.Deadline()
		late := ctx.Err() != nil || !time.Now().Before(end)
		var shown *reported
		if err != nil && late && c.Context.Err() == nil && !errors.As(err, &shown) {
			return passed
		}
		return err
	}
}

// SetLog makes the log as --log-level has it now.
func (s *Session) SetLog(c *cli.Context) error {
	level, err := levelOf(c.String(flagLogLevel))
	if err != nil {
		return fault.Newf(fault.Usage, "", "--%s %q: want debug, info, warn or error", flagLogLevel, c.String(flagLogLevel))
	}
	s.Log = slog.New(slog.NewTextHandler(s.Stderr, &slog.HandlerOptions{Level: level}))
	return nil
}

// levelOf reads a level of the log. Above error etcd has some that end the
// process; here nothing is logged at those.
func levelOf(name string) (level slog.Level, err error) {
	switch name {
	case "dpanic", "panic", "fatal":
		return slog.LevelError + 4, nil
	}
	err = level.UnmarshalText([]byte(name))
	return level, err
}

// checkArguments holds the arguments against the command's ArgsUsage: words in
// brackets may be left out, one that ends in "..." stands for any number.
func checkArguments(c *cli.Context) error {
	least, most := 0, 0
	for _, word := range strings.Fields(c.Command.ArgsUsage) {
		if !strings.HasPrefix(word, "[") {
			least++
		}
		most++
		if strings.Contains(word, "...") {
			most = 1 << 20
		}
	}
	if n := c.NArg(); n < least || n > most {
		want := c.Command.ArgsUsage
		if want == "" {
			want = "no arguments"
		}
		return fault.Newf(fault.Usage, "", "%s takes %s; got %d arguments", c.Command.HelpName, want, n).
			WithHint("%s --help", c.Command.HelpName)
	}
	return nil
}
