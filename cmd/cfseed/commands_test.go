package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() { // flags of whoever runs the tests
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CFSEED_") || strings.HasPrefix(name, etcdPrefix) {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

// runArgs runs one command line in this process.
func runArgs(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, log bytes.Buffer
	env := &command.Env{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &log}
	code = command.Main(ctx, env, newApp(env), append([]string{"cfseed"}, args...))
	return code, out.String(), log.String()
}

var (
	logTime = regexp.MustCompile(`time=\S+ `)
	seconds = regexp.MustCompile(`"seconds":[0-9.e-]+`)
)

// TestCommands runs the scripts in testdata/commands. In them,
//
//	run                   runs one command line; $a, $b, $c are the members' URLs,
//	                      $dead one where nobody is, "" an empty argument
//	requests [sorted]     prints what the members were asked since
//	set member=a ...      changes what a member answers: digest, applied, unlisted
//	stop member=a         ends a member
func TestCommands(t *testing.T) {
	datadriven.Walk(t, "testdata/commands", func(t *testing.T, path string) {
		cluster := startFakeCluster(t)
		names := strings.NewReplacer("$a", cluster.members[0].url, "$b", cluster.members[1].url,
			"$c", cluster.members[2].url, "$dead", deadURL(t, cluster))
		urls := []string{}
		for _, name := range []string{"$a", "$b", "$c"} {
			urls = append(urls, names.Replace(name), name, strings.TrimPrefix(names.Replace(name), "http://"), name)
		}
		urls = append(urls, names.Replace("$dead"), "$dead", strings.TrimPrefix(names.Replace("$dead"), "http://"), "$dead")
		hide := strings.NewReplacer(urls...)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "run":
				return hide.Replace(runScriptLine(t, names.Replace(d.Input)))
			case "requests":
				cluster.mu.Lock()
				defer cluster.mu.Unlock()
				calls := cluster.calls
				cluster.calls = nil
				if len(calls) == 0 {
					return "none\n"
				}
				if d.HasArg("sorted") { // they were made side by side
					slices.Sort(calls)
				}
				return hide.Replace(strings.Join(calls, "\n") + "\n")
			case "set", "stop":
				return changeFake(t, d, cluster)
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
				return ""
			}
		})
	})
}

func runScriptLine(t *testing.T, line string) string {
	stdin := ""
	if before, input, ok := strings.Cut(line, "<<<"); ok {
		line, stdin = before, strings.TrimSpace(input)
	}
	args := strings.Fields(line)
	for i := range args {
		if args[i] == `""` {
			args[i] = ""
		}
	}
	code, stdout, stderr := runArgs(t.Context(), stdin, args...)
	out := fmt.Sprintf("exit %d\n", code)
	if stdout != "" {
		out += "stdout:\n" + seconds.ReplaceAllString(stdout, `"seconds":N`)
	}
	if stderr != "" {
		out += "stderr:\n" + logTime.ReplaceAllString(stderr, "")
	}
	return out
}

func changeFake(t *testing.T, d *datadriven.TestData, cluster *fakeCluster) string {
	var name string
	d.ScanArgs(t, "member", &name)
	for _, m := range cluster.members {
		if m.name != name {
			continue
		}
		if d.Cmd == "stop" {
			m.server.Stop()
			return ""
		}
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "digest":
				var digest int
				d.ScanArgs(t, "digest", &digest)
				m.digest = byte(digest)
			case "applied":
				d.ScanArgs(t, "applied", &m.applied)
			case "unlisted":
				m.unlisted = true
			}
		}
	}
	return ""
}

// deadURL is a URL at which a member was, and no longer is.
func deadURL(t *testing.T, cluster *fakeCluster) string {
	t.Helper()
	other := startFakeCluster(t)
	for _, m := range other.members {
		m.server.Stop()
	}
	return other.members[0].url
}

// TestEveryErrorCodeReachesTheScript: what a member says keeps its class, exit
// status and hint all the way.
func TestEveryErrorCodeReachesTheScript(t *testing.T) {
	for _, code := range fault.Codes() {
		endpoint := serveStatusError(t, fault.Newf(code, "", "because").WithHint("do this"))
		exit, stdout, _ := runArgs(t.Context(), "", "status", "--endpoints", endpoint, "-o", "json")
		want := fmt.Sprintf(`{"error":{"code":%q,"message":"status: `, code)
		if exit != code.Exit() || !strings.HasPrefix(stdout, want) || !strings.Contains(stdout, "because") {
			t.Errorf("%s: exit %d, stdout %s", code, exit, stdout)
		}
	}
}

// TestInterruptEndsEveryCall: Ctrl-C while a member is silent.
func TestInterruptEndsEveryCall(t *testing.T) {
	cluster := startFakeCluster(t)
	url := cluster.members[0].url
	for _, args := range [][]string{
		{"get", "slow", "--endpoints", url},
		{"member", "add", "silent", "--peer-urls", "http://x:1", "--endpoints", url},
		{"push", "--to", "http://silent:1", "--from", url},
		{"status", "--watch", "--interval", "1h", "--endpoints", url, "-o", "json"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		before := cluster.callCount()
		done := make(chan struct{})
		var code int
		go func() {
			defer close(done)
			code, _, _ = runArgs(ctx, "", args...)
		}()
		cluster.awaitCall(t, before+1)
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%v did not end", args)
		}
		if code != 130 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// TestWatchPrintsOneObjectALine follows status --watch for three objects.
func TestWatchPrintsOneObjectALine(t *testing.T) {
	cluster := startFakeCluster(t)
	_, once, _ := runArgs(t.Context(), "", "status", "-o", "json", "--endpoints", cluster.members[0].url)
	ctx, cancel := context.WithCancel(t.Context())
	out := &countingWriter{limit: 3, full: cancel}
	env := &command.Env{Stdout: out, Stderr: &bytes.Buffer{}}
	code := command.Main(ctx, env, newApp(env), []string{"cfseed", "status", "--watch", "--interval", "1ms", "-o", "json",
		"--endpoints", cluster.members[0].url})
	if code != 130 {
		t.Errorf("exit %d", code)
	}
	if got := out.text.String(); !strings.HasPrefix(got, strings.Repeat(once, 3)) {
		t.Errorf("got %s", got)
	}
}

// countingWriter calls full at the limit-th write.
type countingWriter struct {
	text  bytes.Buffer
	limit int
	full  func()
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.limit--; w.limit == 0 {
		w.full()
	}
	return w.text.Write(p)
}

func TestTokensAreRandom(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		code, stdout, _ := runArgs(t.Context(), "", "member", "token", "d")
		if !regexp.MustCompile(`^[0-9a-f]{32}\n$`).MatchString(stdout) || code != 0 || seen[stdout] {
			t.Fatalf("exit %d, token %q, seen %v", code, stdout, seen[stdout])
		}
		seen[stdout] = true
	}
}
