package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// leaf is a command that can be run, and the words that name it.
type leaf struct {
	words []string
	cmd   *cli.Command
}

// leaves gives every command without subcommands; groups are given to visit.
func leaves(commands []*cli.Command, words []string, visit func(leaf)) {
	for _, cmd := range commands {
		l := leaf{append(slices.Clone(words), cmd.Name), cmd}
		visit(l)
		leaves(cmd.Subcommands, l.words, visit)
	}
}

func allCommands() []leaf {
	var all []leaf
	leaves(newApp(&command.Env{Stdout: io.Discard, Stderr: io.Discard}).Commands, nil, func(l leaf) { all = append(all, l) })
	return all
}

// sample gives a value that the flag can read and that is not its default.
func sample(t *testing.T, f cli.Flag) string {
	t.Helper()
	switch f := f.(type) {
	case *cli.StringFlag:
		return "some-text"
	case *cli.DurationFlag:
		return "17s"
	case *cli.IntFlag, *cli.Int64Flag, *cli.UintFlag, *cli.Uint64Flag, *cli.Float64Flag:
		return "17"
	case *cli.GenericFlag:
		if _, is := f.Value.(*command.Millis); is {
			return "17"
		}
		return "17KiB"
	case *cli.StringSliceFlag:
		return "x,y"
	default:
		t.Fatalf("flag --%s has a type that this test and the environment do not know: %T", f.Names()[0], f)
		return ""
	}
}

// captured is what a command's body is given.
type captured struct {
	args   []string
	values map[string]string
}

// capture runs the program with the body of the command at words replaced.
func capture(t *testing.T, words, args []string) captured {
	t.Helper()
	var got captured
	ran := false
	env := &command.Env{Stdout: io.Discard, Stderr: io.Discard}
	app := newApp(env)
	leaves(app.Commands, nil, func(l leaf) {
		if !slices.Equal(l.words, words) {
			return
		}
		l.cmd.Action = func(c *cli.Context) error {
			ran = true
			got.args, got.values = c.Args().Slice(), map[string]string{}
			for _, f := range l.cmd.Flags {
				got.values[f.Names()[0]] = fmt.Sprint(c.Value(f.Names()[0]))
			}
			return nil
		}
	})
	var errors strings.Builder
	env.Stderr = &errors
	if code := command.Main(context.Background(), env, app, append([]string{"cfseed"}, args...)); code != 0 || !ran {
		t.Fatalf("cfseed %q: exit %d, ran %v: %s", args, code, ran, errors.String())
	}
	return got
}

func (c captured) equal(o captured) bool {
	return slices.Equal(c.args, o.args) && fmt.Sprint(c.values) == fmt.Sprint(o.values)
}

// TestFlagsStandAnywhere runs every command with each of its flags before the
// command, between its words, before, between and after its arguments.
func TestFlagsStandAnywhere(t *testing.T) {
	for _, l := range allCommands() {
		if len(l.cmd.Subcommands) > 0 {
			continue
		}
		t.Run(strings.Join(l.words, "-"), func(t *testing.T) {
			plain := append(slices.Clone(l.words), "one", "two")
			defaults := capture(t, l.words, plain)
			for _, f := range l.cmd.Flags {
				written := [][]string{{"--" + f.Names()[0]}}
				if f.(cli.DocGenerationFlag).TakesValue() {
					value := sample(t, f)
					written = [][]string{{"--" + f.Names()[0], value}, {"--" + f.Names()[0] + "=" + value}}
					if len(f.Names()) > 1 {
						written = append(written, []string{"-" + f.Names()[1], value})
					}
				}
				var first captured
				for _, flag := range written {
					for at := range len(plain) + 1 {
						got := capture(t, l.words, slices.Concat(plain[:at], flag, plain[at:]))
						if first.values == nil {
							first = got
						}
						if !got.equal(first) || !slices.Equal(got.args, defaults.args) {
							t.Errorf("%q at %d: got %v, want %v", flag, at, got, first)
						}
					}
				}
				if first.equal(defaults) {
					t.Errorf("--%s has no effect on what the command is given", f.Names()[0])
				}
			}
		})
	}
}

// TestFlagsAgree: a flag of one name takes a value in every command or in none
// (arguments are permuted by that), has a name of letters and dashes, says what
// it does, and can be set by the environment.
func TestFlagsAgree(t *testing.T) {
	takes := map[string]bool{}
	for _, l := range allCommands() {
		for _, f := range l.cmd.Flags {
			d, ok := f.(interface {
				cli.DocGenerationFlag
				GetEnvVars() []string
			})
			if !ok {
				t.Fatalf("%v: %T can not be documented", f.Names(), f)
			}
			for _, name := range f.Names() {
				if before, seen := takes[name]; seen && before != d.TakesValue() {
					t.Errorf("%v: --%s takes a value in one command and none in another", l.words, name)
				}
				takes[name] = d.TakesValue()
				if !regexp.MustCompile(`^[a-z][a-z0-9-]*$`).MatchString(name) {
					t.Errorf("%v: flag name %q", l.words, name)
				}
			}
			if d.GetUsage() == "" {
				t.Errorf("%v: --%s has no usage text", l.words, f.Names()[0])
			}
			if d.TakesValue() && strings.Count(d.GetUsage(), "`") != 2 {
				t.Errorf("%v: --%s names no value in backquotes", l.words, f.Names()[0])
			}
			upper := func(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
			want := []string{"CFSEED_" + upper(f.Names()[0])}
			if l.words[0] == "node" && isEtcds(t, f) {
				want = append(want, "ETCD_"+upper(f.Names()[len(f.Names())-1]))
			}
			if !slices.Equal(d.GetEnvVars(), want) {
				t.Errorf("%v: --%s is set by %v, want %v", l.words, f.Names()[0], d.GetEnvVars(), want)
			}
		}
	}
}

// TestEveryCommandTakesJSON: -o and --log-level, and a usage text.
func TestEveryCommandTakesJSON(t *testing.T) {
	for _, l := range allCommands() {
		if l.cmd.Usage == "" || strings.HasSuffix(l.cmd.Usage, ".") {
			t.Errorf("%v: usage %q: want one sentence without its full stop", l.words, l.cmd.Usage)
		}
		if len(l.cmd.Subcommands) > 0 {
			continue
		}
		var names []string
		for _, f := range l.cmd.Flags {
			names = append(names, f.Names()...)
		}
		for _, want := range []string{"o", "output", "log-level"} {
			if !slices.Contains(names, want) {
				t.Errorf("%v lacks --%s", l.words, want)
			}
		}
	}
}

// TestUnknownFlagsAreUsageErrors: exit 2 and a hint, in every command, as text
// and as JSON.
func TestUnknownFlagsAreUsageErrors(t *testing.T) {
	for _, l := range allCommands() {
		if len(l.cmd.Subcommands) > 0 {
			continue
		}
		code, stdout, stderr := runArgs(t.Context(), "", append(slices.Clone(l.words), "--outputt", "json")...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, "did you mean --output?") {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", l.words, code, stdout, stderr)
		}
		code, stdout, stderr = runArgs(t.Context(), "", append(slices.Clone(l.words), "--qqqqqq", "-o", "json")...)
		if code != 2 || stderr != "" || !strings.HasPrefix(stdout, `{"error":{"code":"usage",`) {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", l.words, code, stdout, stderr)
		}
	}
}

// TestCommandsAreDocumented: docs/command-line.md names every command.
func TestCommandsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/command-line.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range allCommands() {
		// "member promote" may stand as "promote", after others of its group.
		name := regexp.MustCompile("`([a-z]+ )?" + l.words[len(l.words)-1] + "`")
		if len(l.cmd.Subcommands) == 0 && !name.Match(text) {
			t.Errorf("docs/command-line.md does not name %s", strings.Join(l.words, " "))
		}
	}
}

// TestDocumentedFlagsExist: the documents name no flag that no command has, but
// among what is not served yet (TestContractIsServedOrListed).
func TestDocumentedFlagsExist(t *testing.T) {
	known := []string{"help"}
	for _, l := range allCommands() {
		for _, f := range l.cmd.Flags {
			known = append(known, f.Names()...)
		}
	}
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "SECURITY.md", "docs/command-line.md", "docs/operations.md"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.Replace(string(text), notServed(string(text)), "", 1))
		for _, m := range regexp.MustCompile("(?:^|[ `(\\[])--([a-z][a-z0-9-]*)").FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s speaks of --%s, which no command has", name, m[1])
			}
		}
	}
}

const exitCodes = `EXIT CODES
  0    done
  1    failed
  2    wrong usage
  3    unreachable or timed out
  4    verification found damage or difference
  130  interrupted
`

// TestHelp compares every help text with testdata/help. A new command gets a
// stanza there ("help", its words, "----") and is written by -rewrite.
func TestHelp(t *testing.T) {
	missing := map[string]bool{"": true}
	for _, l := range allCommands() {
		missing[strings.Join(l.words, " ")] = true
	}
	datadriven.RunTest(t, "testdata/help", func(t *testing.T, d *datadriven.TestData) string {
		words := strings.Fields(d.Input)
		delete(missing, strings.Join(words, " "))
		code, stdout, stderr := runArgs(t.Context(), "", append(words, "--help")...)
		if code != 0 || stderr != "" || !strings.HasSuffix(stdout, exitCodes) {
			t.Errorf("%v --help: exit %d, stderr %q, and the text must end with the exit codes", words, code, stderr)
		}
		if _, again, _ := runArgs(t.Context(), "", append([]string{"help"}, words...)...); again != stdout {
			t.Errorf("help %v differs from %v --help", words, words)
		}
		// The table is the same everywhere and checked above.
		return strings.TrimSpace(strings.TrimSuffix(stdout, exitCodes)) + "\n"
	})
	for words := range missing {
		t.Errorf("testdata/help has no stanza for %q", words)
	}
}
