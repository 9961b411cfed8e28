package command

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// exitCodes ends every help text; the table is a contract.
const exitCodes = `EXIT CODES
  0    done
  1    failed
  2    wrong usage
  3    unreachable or timed out
  4    verification found damage or difference
  130  interrupted
`

// writeHelp prints the help of the command at path, or of the program.
func writeHelp(w io.Writer, app *cli.App, path []*cli.Command) error {
	var text bytes.Buffer
	if len(path) == 0 {
		fmt.Fprintf(&text, "%s\n\nUSAGE\n  %s COMMAND [FLAGS] [ARGUMENTS]\n\n", app.Usage, app.Name)
		writeCommands(&text, app.Commands)
		fmt.Fprintf(&text, "Help on one of them: %s COMMAND --help\n\n", app.Name)
	} else {
		writeCommandHelp(&text, path[len(path)-1])
	}
	text.WriteString(exitCodes)
	_, err := w.Write(text.Bytes())
	return err
}

func writeCommandHelp(text *bytes.Buffer, cmd *cli.Command) {
	fmt.Fprintf(text, "%s\n\nUSAGE\n  %s", cmd.Usage, cmd.HelpName)
	if len(cmd.Subcommands) > 0 {
		text.WriteString(" COMMAND")
	}
	text.WriteString(" [FLAGS]")
	if cmd.ArgsUsage != "" {
		text.WriteString(" " + cmd.ArgsUsage)
	}
	text.WriteString("\n\n")
	if cmd.Description != "" {
		fmt.Fprintf(text, "%s\n\n", strings.TrimSpace(cmd.Description))
	}
	writeCommands(text, cmd.Subcommands)
	writeFlags(text, cmd.Flags)
}

func writeCommands(text *bytes.Buffer, commands []*cli.Command) {
	if len(commands) == 0 {
		return
	}
	text.WriteString("COMMANDS\n")
	columns := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for _, cmd := range commands {
		fmt.Fprintf(columns, "  %s\t%s\n", cmd.Name, cmd.Usage)
	}
	columns.Flush() // a bytes.Buffer takes everything
	text.WriteString("\n")
}

// writeFlags prints the flags under their categories, in the order in which
// these first appear; flags without one come first.
func writeFlags(text *bytes.Buffer, flags []cli.Flag) {
	var order []string
	groups := map[string][]cli.Flag{}
	for _, f := range flags {
		if !Shown(f) {
			continue
		}
		category := ""
		if c, ok := f.(cli.CategorizableFlag); ok {
			category = c.GetCategory()
		}
		if !slices.Contains(order, category) {
			order = append(order, category)
		}
		groups[category] = append(groups[category], f)
	}
	for _, category := range order {
		if category == "" {
			text.WriteString("FLAGS\n")
		} else {
			text.WriteString(category + "\n")
		}
		columns := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
		for _, f := range groups[category] {
			if d, ok := f.(cli.DocGenerationFlag); ok {
				fmt.Fprintf(columns, "  %s\t%s\n", flagSyntax(f, d), flagMeaning(d))
			}
		}
		columns.Flush() // a bytes.Buffer takes everything
		text.WriteString("\n")
	}
	if len(flags) > 0 {
		fmt.Fprintf(text, "Each flag can be set by the environment: --%s by %s.\n\n", flags[0].Names()[0], environmentName(flags[0].Names()[0]))
	}
}

// Shown reports whether a flag is shown to users: one that is not is taken, and
// nobody is led to it.
func Shown(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return !ok || v.IsVisible()
}

// flagSyntax gives "-o, --output FORMAT"; the placeholder is what the usage
// text has in backquotes.
func flagSyntax(f cli.Flag, d cli.DocGenerationFlag) string {
	var names []string
	for _, name := range f.Names() {
		if len(name) == 1 {
			names = slices.Insert(names, 0, "-"+name)
		} else {
			names = append(names, "--"+name)
		}
	}
	syntax := strings.Join(names, ", ")
	if !d.TakesValue() {
		return syntax
	}
	placeholder := "VALUE"
	if parts := strings.SplitN(d.GetUsage(), "`", 3); len(parts) == 3 {
		placeholder = parts[1]
	}
	return syntax + " " + placeholder
}

func flagMeaning(d cli.DocGenerationFlag) string {
	meaning := strings.ReplaceAll(d.GetUsage(), "`", "")
	if !d.TakesValue() {
		return meaning
	}
	switch value := strings.Trim(d.GetDefaultText(), `"`); value {
	case "", "0", "0s", "[]":
		return meaning
	default:
		return meaning + " (default " + value + ")"
	}
}
