package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/internal/fault"
)

// testApp has commands "lone" and "group inner"; inner's body is run.
func testApp(env *Env, run Run) *cli.App {
	own := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "name", Aliases: []string{"n"}, Value: "nobody", Usage: "the `NAME`"},
			&cli.BoolFlag{Name: "fast"},
			&cli.GenericFlag{Name: "size", Value: new(Bytes)},
		}
	}
	return NewApp(env, "prog", "prog is for tests.", []Constructor{
		func(e *Env) *cli.Command {
			return &cli.Command{Name: "lone", Usage: "Alone", Flags: Flags(own(), ShortClientFlags(), OutputFlags()), Action: e.Action(run)}
		},
		func(e *Env) *cli.Command {
			return &cli.Command{Name: "group", Usage: "A group", Subcommands: []*cli.Command{{
				Name: "inner", Usage: "Inside", ArgsUsage: "A [B]",
				Flags: Flags(own(), ShortClientFlags(), OutputFlags()), Action: e.Action(run),
			}}}
		},
	})
}

func TestArrange(t *testing.T) {
	tests := []struct {
		args string
		want string // argv, or "error: " and part of the message
	}{
		{"group inner a", "group inner -- a"},
		{"group inner --name x a b", "group inner --name=x -- a b"},
		{"group inner a --name x b", "group inner --name=x -- a b"},
		{"--name x group inner a b", "group inner --name=x -- a b"},
		{"group --name=x inner a b", "group inner --name=x -- a b"},
		{"group inner a b -name x", "group inner --name=x -- a b"},
		{"group inner a -n x", "group inner --n=x -- a"},
		{"group inner a --name=", "group inner --name= -- a"},
		{"group inner a --name -5", "group inner --name=-5 -- a"},
		{"group inner a --fast b", "group inner --fast -- a b"},
		{"group inner --fast=false a", "group inner --fast=false -- a"},
		{"group inner a -", "group inner -- a -"},
		{"group inner -- -5 --name", "group inner -- -5 --name"},
		{"group inner a -- --fast --", "group inner -- a --fast --"},
		{"lone group", "lone -- group"},
		{"lone", "lone --"},
		{"", "error: prog: which command? One of lone, group"},
		{"group", "error: prog group: which command? One of inner"},
		{"grop inner", `error: prog has no command "grop"`},
		{"group iner -o json", `error: prog group has no command "iner"`},
		{"lone --nme x", "error: prog lone has no flag --nme"},
		{"lone -5", "error: prog lone has no flag -5"},
		{"lone --name", "error: --name needs a value"},
	}
	for _, tc := range tests {
		app := testApp(&Env{}, nil)
		call, err := arrange(app, append([]string{"prog"}, strings.Fields(tc.args)...))
		got := strings.TrimPrefix(strings.Join(call.argv, " "), "prog ")
		if err != nil {
			got = "error: " + err.Error()
			if !fault.Is(err, fault.Usage) || fault.HintOf(err) == "" {
				t.Errorf("%q: code %s, hint %q", tc.args, fault.CodeOf(err), fault.HintOf(err))
			}
		}
		if got != tc.want && (err == nil || !strings.HasPrefix(got, tc.want)) {
			t.Errorf("%q:\n got %s\nwant %s", tc.args, got, tc.want)
		}
	}
}

func TestArrangeFindsHelpAndJSON(t *testing.T) {
	tests := []struct {
		args       string
		help, json bool
	}{
		{"lone", false, false},
		{"lone --help", true, false},
		{"-h", true, false},
		{"help group inner", true, false},
		{"group inner --bogus -h", true, false},
		{"group --help -o json", true, true},
		{"bogus -o json", false, true},
		{"lone --bogus --output=json", false, true},
		{"lone -o json -o text", false, false},
		{"lone -- -o json -h", false, false},
		{"lone help", false, false},
	}
	for _, tc := range tests {
		call, _ := arrange(testApp(&Env{}, nil), append([]string{"prog"}, strings.Fields(tc.args)...))
		if call.help != tc.help || call.json != tc.json {
			t.Errorf("%q: help %v json %v", tc.args, call.help, call.json)
		}
	}
	t.Setenv("CFSEED_OUTPUT", "json")
	if call, err := arrange(testApp(&Env{}, nil), []string{"prog", "bogus"}); err == nil || !call.json {
		t.Errorf("with CFSEED_OUTPUT=json: json %v, %v", call.json, err)
	}
}

func TestSuggestions(t *testing.T) {
	candidates := []string{"endpoints", "timeout", "cert", "key", "user"}
	tests := map[string]string{
		"endpoint": "endpoints", "endpionts": "endpoints", "time": "timeout", "crt": "cert", "kye": "",
		"usr": "user", "zzz": "", "end": "endpoints", "": "",
	}
	for word, want := range tests {
		if got := Nearest(word, candidates); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"abc", "abc", 0}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestBytes(t *testing.T) {
	tests := []struct {
		in   string
		want uint64
		text string
	}{
		{"0", 0, "0"}, {"1", 1, "1"}, {"1024", 1024, "1KiB"}, {"100MiB", 100 << 20, "100MiB"}, {"1.5KiB", 1536, "1536"},
		{"2GB", 2e9, "1953125KiB"}, {"3g", 3 << 30, "3GiB"}, {"5 KB", 5000, "5000"}, {"7tib", 7 << 40, "7TiB"},
	}
	for _, tc := range tests {
		var b Bytes
		if err := b.Set(tc.in); err != nil || uint64(b) != tc.want || b.String() != tc.text {
			t.Errorf("%q: %d %q, %v", tc.in, b, b.String(), err)
		}
		again := Bytes(0)
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%q does not read back: %d, %v", b.String(), again, err)
		}
	}
	for _, bad := range []string{"", "x", "-1", "1XiB", "NaN", "Inf", "1e30", "18446744073709551616", "1 2", "MiB", "1ii"} {
		var b Bytes
		if err := b.Set(bad); err == nil {
			t.Errorf("%q was read as %d", bad, b)
		}
	}
}

// runMain runs one command line and gives what it printed.
func runMain(ctx context.Context, run Run, args ...string) (code int, stdout, stderr string) {
	var out, log bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &log}
	code = Main(ctx, env, testApp(env, run), append([]string{"prog"}, args...))
	return code, out.String(), log.String()
}

func TestMainReportsEveryCode(t *testing.T) {
	for _, code := range fault.Codes() {
		run := func(context.Context, *cli.Context, *Session) error {
			return fault.Newf(code, "op", "it <broke>").WithHint("mend it")
		}
		got, stdout, stderr := runMain(t.Context(), run, "lone")
		if got != code.Exit() || stdout != "" || stderr != "prog: op: it <broke>\nhint: mend it\n" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", code, got, stdout, stderr)
		}
		got, stdout, stderr = runMain(t.Context(), run, "lone", "-o", "json")
		want := `{"error":{"code":"` + string(code) + `","message":"op: it <broke>","hint":"mend it"}}` + "\n"
		if got != code.Exit() || stdout != want || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", code, got, stdout, stderr)
		}
	}
	got, stdout, _ := runMain(t.Context(), func(context.Context, *cli.Context, *Session) error { return errors.New("plain") }, "lone", "-o=json")
	if got != 1 || stdout != `{"error":{"code":"failed","message":"plain","hint":""}}`+"\n" {
		t.Errorf("plain error: exit %d, stdout %q", got, stdout)
	}
}

func TestReportedSetsOnlyTheExitStatus(t *testing.T) {
	run := func(_ context.Context, _ *cli.Context, s *Session) error {
		if err := s.Out.Result(map[string]bool{"ok": false}, func(w io.Writer) { _, _ = io.WriteString(w, "bad\n") }); err != nil {
			return err
		}
		return Reported(fault.Newf(fault.Corrupt, "", "damaged"))
	}
	if code, stdout, stderr := runMain(t.Context(), run, "lone", "-o", "json"); code != 4 || stdout != "{\"ok\":false}\n" || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	run := func(ctx context.Context, _ *cli.Context, _ *Session) error {
		cancel()
		<-ctx.Done()
		return fault.New(fault.Unreachable, "call", ctx.Err())
	}
	if code, _, stderr := runMain(ctx, run, "lone"); code != 130 || !strings.Contains(stderr, "interrupted") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
	clean := func(context.Context, *cli.Context, *Session) error { return nil }
	if code, _, stderr := runMain(ctx, clean, "lone"); code != 0 {
		t.Errorf("a clean stop: exit %d, stderr %q", code, stderr)
	}
}

func TestDeadline(t *testing.T) {
	run := func(ctx context.Context, _ *cli.Context, _ *Session) error {
		<-ctx.Done()
		return ctx.Err()
	}
	code, stdout, _ := runMain(t.Context(), run, "lone", "--deadline", "1ms", "-o", "json")
	if code != 3 || !strings.Contains(stdout, `"code":"timeout"`) || !strings.Contains(stdout, "the deadline of 1ms passed") {
		t.Errorf("exit %d, stdout %q", code, stdout)
	}
	told := func(ctx context.Context, _ *cli.Context, _ *Session) error {
		<-ctx.Done()
		return Reported(fault.Newf(fault.Different, "", "a key is lost"))
	}
	if code, stdout, _ := runMain(t.Context(), told, "lone", "--deadline", "1ms", "-o", "json"); code != 4 || stdout != "" {
		t.Errorf("a result that was printed: exit %d, then %q", code, stdout)
	}
}

func TestBadCommonFlags(t *testing.T) {
	never := func(context.Context, *cli.Context, *Session) error { return errors.New("it ran") }
	for args, want := range map[string]string{
		"lone -o yaml":              "want text or json",
		"lone --log-level loud":     "want debug, info, warn or error",
		"lone --timeout soon":       "invalid value",
		"lone --size lots":          "not a number of bytes",
		"lone a":                    "prog: lone takes no arguments; got 1 arguments",
		"group inner":               "prog: group inner takes A [B]; got 0 arguments",
		"group inner a b c":         "got 3 arguments",
		"group inner a --fast=nope": "invalid boolean value",
	} {
		code, stdout, stderr := runMain(t.Context(), never, strings.Fields(args)...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

func TestEnvironmentSetsFlags(t *testing.T) {
	t.Setenv("CFSEED_NAME", "from-env")
	t.Setenv("CFSEED_SIZE", "2KiB")
	t.Setenv("CFSEED_DEADLINE", "1h")
	var name string
	var size uint64
	var left time.Duration
	run := func(ctx context.Context, c *cli.Context, _ *Session) error {
		name, size = c.String("name"), BytesOf(c, "size")
		if end, ok := ctx.Deadline(); ok {
			left = time.Until(end)
		}
		return nil
	}
	if code, _, stderr := runMain(t.Context(), run, "lone"); code != 0 || name != "from-env" || size != 2048 || left < 59*time.Minute {
		t.Errorf("exit %d, name %q, size %d, left %s, stderr %q", code, name, size, left, stderr)
	}
	if code, _, _ := runMain(t.Context(), run, "lone", "--name", "flag", "--size", "3"); code != 0 || name != "flag" || size != 3 {
		t.Errorf("the command line does not win: exit %d, name %q, size %d", code, name, size)
	}
	t.Setenv("CFSEED_SIZE", "lots")
	if code, _, stderr := runMain(t.Context(), run, "lone"); code != 2 || !strings.Contains(stderr, "CFSEED_SIZE") {
		t.Errorf("bad environment: exit %d, stderr %q", code, stderr)
	}
}

func TestLogGoesToStderr(t *testing.T) {
	run := func(_ context.Context, _ *cli.Context, s *Session) error {
		s.Log.Info("quiet")
		s.Log.Warn("loud")
		return nil
	}
	code, stdout, stderr := runMain(t.Context(), run, "lone", "--log-level", "warn")
	if code != 0 || stdout != "" || strings.Contains(stderr, "quiet") || !strings.Contains(stderr, "loud") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestHelpEndsWithExitCodes(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"lone", "-h"}, {"group", "--help"}, {"help", "group", "inner"}} {
		code, stdout, stderr := runMain(t.Context(), nil, args...)
		if code != 0 || !strings.HasSuffix(stdout, exitCodes) || stderr != "" {
			t.Errorf("%q: exit %d, stderr %q, ends in %q", args, code, stderr, stdout[max(0, len(stdout)-80):])
		}
	}
	_, stdout, _ := runMain(t.Context(), nil, "lone", "-h")
	for _, want := range []string{"-n, --name NAME", "the NAME (default nobody)", "--name by CFSEED_NAME"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("help lacks %q:\n%s", want, stdout)
		}
	}
}

func TestExitCodesTableIsTheFaultsTable(t *testing.T) {
	var want []string
	for _, code := range fault.Codes() {
		want = append(want, itoa(code.Exit()))
	}
	want = append(want, "0")
	slices.Sort(want)
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(exitCodes), "\n")[1:] {
		got = append(got, strings.Fields(line)[0])
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("help lists %v, the codes give %v", got, want)
	}
}

func itoa(n int) string { b := Bytes(n); return b.String() }

func TestHelpFailsWhenItCanNotBeWritten(t *testing.T) {
	env := &Env{Stdout: brokenWriter{}, Stderr: io.Discard}
	if code := Main(t.Context(), env, testApp(env, nil), []string{"prog", "--help"}); code != 1 {
		t.Errorf("exit %d", code)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }
