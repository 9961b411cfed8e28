package command

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

// invocation is a command line understood: argv is in the order that the flag
// parser wants (it stops at the first argument that is no flag).
type invocation struct {
	argv []string       // program, command path, --flag=value ..., --, arguments
	path []*cli.Command // the command asked for, outermost first
	help bool
	json bool // a failure is to be printed as JSON
}

// given is one flag as it was written.
type given struct {
	written  string // with its dashes, without value
	name     string
	value    string
	hasValue bool
}

// arrange accepts flags anywhere: before the command, after it, between and
// after its arguments. "--" ends them. Even when it fails, path and json are
// set as far as they are understood.
func arrange(app *cli.App, args []string) (call invocation, err error) {
	var (
		flags  []given
		words  []string
		level  = app.Commands
		wanted = takesValue(app.Commands, map[string]bool{})
	)
	for i := 1; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			words = append(words, args[i+1:]...)
			i = len(args)
		case len(arg) > 1 && arg[0] == '-':
			g := split(arg)
			if !g.hasValue && wanted[g.name] && i+1 < len(args) {
				i++
				g.value, g.hasValue = args[i], true
			}
			flags = append(flags, g)
		case len(level) > 0:
			if arg == "help" && len(call.path) == 0 {
				call.help = true
				continue
			}
			cmd := find(level, arg)
			if cmd == nil {
				err, level = unknownCommand(app, call.path, level, arg), nil
				continue
			}
			call.path, level = append(call.path, cmd), cmd.Subcommands
		default:
			words = append(words, arg)
		}
	}
	call.json = asksJSON(flags)
	if err != nil {
		return call, err
	}
	return finish(app, call, flags, words)
}

// finish checks the flags against the command and puts everything in order.
func finish(app *cli.App, call invocation, flags []given, words []string) (invocation, error) {
	call.argv = []string{app.Name}
	var leaf *cli.Command
	for _, cmd := range call.path {
		call.argv, leaf = append(call.argv, cmd.Name), cmd
	}
	for _, g := range flags {
		if g.name == "help" || g.name == "h" {
			call.help = true
		}
	}
	if call.help {
		return call, nil
	}
	if leaf == nil || len(leaf.Subcommands) > 0 {
		return call, missingCommand(app, leaf)
	}
	for _, g := range flags {
		f := lookup(leaf.Flags, g.name)
		switch {
		case f == nil:
			return call, unknownFlag(leaf, g)
		case needsValue(f) && !g.hasValue:
			return call, fault.Newf(fault.Usage, "", "%s needs a value", g.written).WithHint("%s --help", leaf.HelpName)
		case g.hasValue:
			call.argv = append(call.argv, "--"+g.name+"="+g.value)
		default:
			call.argv = append(call.argv, "--"+g.name)
		}
	}
	call.argv = append(append(call.argv, "--"), words...)
	return call, nil
}

// split takes "-o", "--name" or "--name=value" apart.
func split(arg string) given {
	written, value, hasValue := strings.Cut(arg, "=")
	name := strings.TrimPrefix(strings.TrimPrefix(written, "-"), "-")
	return given{written: written, name: name, value: value, hasValue: hasValue}
}

// takesValue collects, over all commands, the flags that are followed by a
// value. (A name is never with a value in one command and without in another:
// a test of the commands sees to that.)
func takesValue(commands []*cli.Command, into map[string]bool) map[string]bool {
	for _, cmd := range commands {
		for _, f := range cmd.Flags {
			for _, name := range f.Names() {
				into[name] = into[name] || needsValue(f)
			}
		}
		takesValue(cmd.Subcommands, into)
	}
	return into
}

func needsValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, cmd := range commands {
		if cmd.HasName(name) {
			return cmd
		}
	}
	return nil
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

// asksJSON reads --output as the parser will: the last one counts, and the
// environment where there is none.
func asksJSON(flags []given) bool {
	format := os.Getenv(environmentName(flagOutput))
	for _, g := range flags {
		if g.name == flagOutput || g.name == flagOutputShort {
			format = g.value
		}
	}
	return format == output.JSON
}

func missingCommand(app *cli.App, parent *cli.Command) error {
	name, commands := app.Name, app.Commands
	if parent != nil {
		name, commands = parent.HelpName, parent.Subcommands
	}
	return fault.Newf(fault.Usage, "", "%s: which command? One of %s", name, strings.Join(commandNames(commands), ", ")).
		WithHint("%s --help", name)
}

func unknownCommand(app *cli.App, path, level []*cli.Command, word string) error {
	name := app.Name
	if len(path) > 0 {
		name = path[len(path)-1].HelpName
	}
	err := fault.Newf(fault.Usage, "", "%s has no command %q", name, word)
	if near := Nearest(word, commandNames(level)); near != "" {
		return err.WithHint("did you mean %s %s?", name, near)
	}
	return err.WithHint("%s --help", name)
}

func unknownFlag(cmd *cli.Command, g given) error {
	err := fault.Newf(fault.Usage, "", "%s has no flag %s", cmd.HelpName, g.written)
	var names []string
	for _, f := range cmd.Flags {
		if Shown(f) {
			names = append(names, f.Names()[0])
		}
	}
	if near := Nearest(g.name, names); near != "" {
		return err.WithHint("did you mean --%s?", near)
	}
	return err.WithHint("%s --help; put -- before arguments that begin with a dash", cmd.HelpName)
}

func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, cmd := range commands {
		names = append(names, cmd.Name)
	}
	return names
}

// Nearest gives the candidate with the fewest letters to change, or "" when
// none is near: at most a third of the word, and one always.
func Nearest(word string, candidates []string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(word, c); d < least || (len(word) > 2 && least > 1 && strings.HasPrefix(c, word)) {
			best, least = c, min(d, least)
		}
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and replacements of bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
