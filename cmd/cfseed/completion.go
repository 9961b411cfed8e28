package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

// completionResult is the shape of the completion command's JSON.
type completionResult struct {
	Shell  string `json:"shell"`
	Script string `json:"script"`
}

func completionCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "Print a script that completes commands and flags in a shell",
		ArgsUsage: "SHELL",
		Description: "SHELL is bash, zsh or fish:\n" +
			"  source <(cfseed completion bash)\n" +
			"  source <(cfseed completion zsh)\n" +
			"  cfseed completion fish | source",
		Flags: command.OutputFlags(),
		Action: env.Action(func(_ context.Context, c *cli.Context, s *command.Session) error {
			shell := c.Args().First()
			write, known := map[string]func(io.Writer, []completed){"bash": bashScript, "zsh": zshScript, "fish": fishScript}[shell]
			if !known {
				return fault.Newf(fault.Usage, "", "%q: want bash, zsh or fish", shell)
			}
			var script strings.Builder
			write(&script, completedOf(c.App.Commands))
			return s.Out.Result(completionResult{shell, script.String()}, func(w io.Writer) { fmt.Fprint(w, script.String()) })
		}),
	}
}

// completed is what may stand after the words of a command.
type completed struct {
	path     string // the words, with a blank before each; "" = the program
	commands []named
	flags    []named
}

// named is a word and what it is for.
type named struct {
	name, about string
	value       bool // a value follows
}

// valuesOf are what flags take that take one of a few words.
var valuesOf = []struct{ flag, values string }{
	{"--output", "text json"}, {"-o", "text json"}, {"--log-level", "debug info warn error"}, {"--compression", "auto zstd s2 none"},
	{"--initial-cluster-state", "new existing"}, {"--auto-compaction-mode", "periodic revision"},
	{"--sort-by", "key version create modify value"}, {"--order", "ascend descend"},
}

// completedOf lists the program and all its commands, outer before inner.
func completedOf(commands []*cli.Command) []completed {
	var all []completed
	var visit func(path string, level []*cli.Command, flags []cli.Flag)
	visit = func(path string, level []*cli.Command, flags []cli.Flag) {
		c := completed{path: path, flags: []named{{name: "--help", about: "what it does, and all flags"}}}
		for _, cmd := range level {
			c.commands = append(c.commands, named{name: cmd.Name, about: cmd.Usage})
		}
		for _, f := range flags {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || !command.Shown(f) {
				continue
			}
			c.flags = append(c.flags, named{"--" + f.Names()[0], strings.ReplaceAll(d.GetUsage(), "`", ""), d.TakesValue()})
		}
		all = append(all, c)
		for _, cmd := range level {
			visit(path+" "+cmd.Name, cmd.Subcommands, cmd.Flags)
		}
	}
	visit("", commands, nil)
	return all
}

func words(list []named) string {
	var out []string
	for _, n := range list {
		out = append(out, n.name)
	}
	return strings.Join(out, " ")
}

// choose writes a shell's case, one line for each command.
func choose(w io.Writer, all []completed, line func(completed) string) {
	for _, c := range all {
		fmt.Fprintf(w, "    %q) %s ;;\n", c.path, line(c))
	}
}

// values writes a case that gives the values of the flag before the cursor.
func values(w io.Writer, give string) {
	for _, v := range valuesOf {
		fmt.Fprintf(w, "    %s) %s ;;\n", v.flag, fmt.Sprintf(give, v.values))
	}
}

// findPath sets path to the words of the command among those before the cursor,
// which is what both scripts begin with.
func findPath(w io.Writer, all []completed) {
	var paths []string
	for _, c := range all[1:] {
		paths = append(paths, fmt.Sprintf("%q", c.path))
	}
	fmt.Fprintf(w, "    case \"$path $word\" in\n      %s) path=\"$path $word\" ;;\n    esac\n  done\n", strings.Join(paths, " | "))
}

func bashScript(w io.Writer, all []completed) {
	fmt.Fprint(w, "# Completion of cfseed for bash.\n_cfseed() {\n"+
		"  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" path=\"\" word commands=\"\" flags=\"\"\n"+
		"  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n")
	findPath(w, all)
	fmt.Fprint(w, "  case \"$prev\" in\n")
	values(w, `COMPREPLY=($(compgen -W "%s" -- "$cur")); return`)
	fmt.Fprint(w, "  esac\n  case \"$path\" in\n")
	choose(w, all, func(c completed) string {
		return fmt.Sprintf("commands=%q flags=%q", words(c.commands), words(c.flags))
	})
	fmt.Fprint(w, "  esac\n"+
		"  [[ $cur == -* ]] && commands=\"$flags\"\n"+
		"  COMPREPLY=($(compgen -W \"$commands\" -- \"$cur\"))\n"+
		"}\ncomplete -o default -F _cfseed cfseed\n")
}

func zshScript(w io.Writer, all []completed) {
	fmt.Fprint(w, "#compdef cfseed\n# Completion of cfseed for zsh.\n_cfseed() {\n"+
		"  local cur=\"${words[CURRENT]}\" prev=\"${words[CURRENT-1]}\" cmdpath=\"\" word\n"+
		"  local -a commands flags\n"+
		"  for word in \"${(@)words[2,CURRENT-1]}\"; do\n")
	var path strings.Builder
	findPath(&path, all)
	// $path is zsh's own: the directories of programs.
	fmt.Fprint(w, strings.NewReplacer("$path", "$cmdpath", "path=", "cmdpath=").Replace(path.String()))
	fmt.Fprint(w, "  case \"$prev\" in\n")
	values(w, "compadd -- %s; return")
	fmt.Fprint(w, "  esac\n  case \"$cmdpath\" in\n")
	choose(w, all, func(c completed) string {
		return fmt.Sprintf("commands=(%s) flags=(%s)", words(c.commands), words(c.flags))
	})
	fmt.Fprint(w, "  esac\n"+
		"  if [[ $cur == -* ]]; then compadd -- $flags\n"+
		"  elif (( $#commands )); then compadd -- $commands\n"+
		"  else _files; fi\n"+
		"}\ncompdef _cfseed cfseed\n")
}

func fishScript(w io.Writer, all []completed) {
	fmt.Fprint(w, "# Completion of cfseed for fish.\ncomplete -c cfseed -f\n")
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	for _, c := range all {
		when := fishCondition(c)
		for _, cmd := range c.commands {
			fmt.Fprintf(w, "complete -c cfseed -n %s -a %s -d %s\n", quote(when), cmd.name, quote(cmd.about))
		}
		for _, f := range c.flags {
			line := fmt.Sprintf("complete -c cfseed -n %s -l %s -d %s", quote(when), strings.TrimPrefix(f.name, "--"), quote(f.about))
			if i := slices.IndexFunc(valuesOf, func(v struct{ flag, values string }) bool { return v.flag == f.name }); i >= 0 {
				line += " -x -a " + quote(valuesOf[i].values)
			} else if f.value {
				line += " -r -F"
			}
			fmt.Fprintln(w, line)
		}
	}
}

// fishCondition holds where the words of the command stand and none that goes on
// from there.
func fishCondition(c completed) string {
	var out []string
	for word := range strings.FieldsSeq(c.path) {
		out = append(out, "__fish_seen_subcommand_from "+word)
	}
	if len(c.commands) > 0 {
		out = append(out, "not __fish_seen_subcommand_from "+words(c.commands))
	}
	return strings.Join(out, "; and ")
}
