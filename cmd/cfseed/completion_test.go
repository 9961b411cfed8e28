package main

import (
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// TestBashCompletion sources the script in bash and asks it what may stand where
// the cursor is: behind the last word.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err) // continuous integration itself is a script of bash
	}
	code, script, stderr := runArgs(t.Context(), "", "completion", "bash")
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	const ask = `
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_cfseed
printf '%s\n' "${COMPREPLY[@]}"
`
	for _, c := range []struct {
		line string // | is an empty last word
		want string // all that is proposed; "+x" = x is among them, "-x" = it is not
	}{
		{"cfseed n", "node"},
		{"cfseed |", "+node +member +completion -add -name"},
		{"cfseed member |", "+add +list +token -node"},
		{"cfseed member a", "add"},
		{"cfseed member add --pe", "--peer-urls"},
		{"cfseed member add --peer-urls x d --lea", "--learner"},
		{"cfseed node --initial-cluster-s", "--initial-cluster-state"},
		{"cfseed node --initial-cluster-state |", "new existing"},
		{"cfseed node --name n --initial-cluster-state e", "existing"},
		{"cfseed node --wal", ""}, // without effect, so nobody is led to it
		{"cfseed get k -o j", "json"},
		{"cfseed get k --sort-by v", "version value"},
		{"cfseed get --endpoints node --pre", "--prefix"},
		{"cfseed completion --h", "--help"},
		{"cfseed get |", ""},
	} {
		args := strings.Fields(c.line)
		if last := len(args) - 1; args[last] == "|" {
			args[last] = ""
		}
		out, err := exec.CommandContext(t.Context(), bash, append([]string{"--norc", "-c", script + ask, "bash"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", c.line, err, out)
		}
		got := strings.Fields(string(out))
		if !strings.HasPrefix(c.want, "+") {
			if want := strings.Fields(c.want); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", c.line, got, want)
			}
			continue
		}
		for want := range strings.FieldsSeq(c.want) {
			if slices.Contains(got, want[1:]) != (want[0] == '+') {
				t.Errorf("%s: %q, want %s", c.line, got, want)
			}
		}
	}
}

// TestCompletionScripts: where the other shells are, they read their scripts;
// each names every command and every flag that is shown.
func TestCompletionScripts(t *testing.T) {
	for shell, check := range map[string][]string{"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "--no-execute"}} {
		code, script, stderr := runArgs(t.Context(), "", "completion", shell)
		if code != 0 || stderr != "" {
			t.Fatalf("%s: exit %d, %s", shell, code, stderr)
		}
		for _, c := range completedOf(newApp(&command.Env{Stdout: io.Discard, Stderr: io.Discard}).Commands) {
			for _, n := range append(c.commands, c.flags...) {
				if !strings.Contains(script, strings.TrimPrefix(n.name, "--")) {
					t.Errorf("%s: no %s after cfseed%s", shell, n.name, c.path)
				}
			}
		}
		path, err := exec.LookPath(check[0])
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), path, check[1:]...)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s can not read it: %v: %s", shell, err, out)
		}
	}
	if code, _, stderr := runArgs(t.Context(), "", "completion", "tcsh"); code != 2 || !strings.Contains(stderr, "want bash, zsh or fish") {
		t.Errorf("another shell: exit %d, %s", code, stderr)
	}
}
