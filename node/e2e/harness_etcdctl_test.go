//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// buildEtcdctl builds etcd's own etcdctl into a directory of the test.
func buildEtcdctl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcdctl")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "..", "testdata", "etcdctl"), "-mod=readonly", "-race=false", "-o", path, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	out, err := build.CombinedOutput()
	switch {
	case err == nil:
	case os.Getenv("CFSEED_E2E_ETCDCTL") == "required":
		t.Fatalf("etcdctl can not be built: %v\n%s", err, out)
	default:
		t.Skipf("etcdctl can not be built (its modules come from the network): %v\n%s", err, out)
	}
	return path
}

// etcdctl is the tool, pointed at some nodes.
type etcdctl struct {
	t         *testing.T
	path      string
	endpoints string
	runs      *ctlRuns // nil: nobody counts them
}

// in is the tool in a part of the test.
func (e etcdctl) in(t *testing.T) etcdctl {
	e.t = t
	return e
}

// at is the tool pointed at other nodes.
func (e etcdctl) at(nodes ...*Node) etcdctl {
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.Client)
	}
	e.endpoints = strings.Join(urls, ",")
	return e
}

// input runs a command that reads stdin.
func (e etcdctl) input(stdin string, args ...string) Result {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.path, append([]string{"--endpoints", e.endpoints}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		e.t.Fatalf("etcdctl %s: %v, %v", strings.Join(args, " "), err, ctx.Err())
	}
	e.runs.note(err == nil, args)
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

func (e etcdctl) run(args ...string) Result { e.t.Helper(); return e.input("", args...) }

// must runs a command that must succeed and gives what it said.
func (e etcdctl) must(args ...string) string {
	e.t.Helper()
	r := e.run(args...)
	if r.Code != 0 {
		e.t.Fatalf("etcdctl %s: %s", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// json runs a command that must succeed and reads its JSON into out.
func (e etcdctl) json(out any, args ...string) {
	e.t.Helper()
	text := e.must(append(args, "-w", "json")...)
	if err := json.Unmarshal([]byte(text), out); err != nil {
		e.t.Fatalf("etcdctl %s: %v in %s", strings.Join(args, " "), err, text)
	}
}

// refused wants a command to fail with etcd's own words, and nothing on stdout.
func (e etcdctl) refused(words string, args ...string) {
	e.t.Helper()
	if r := e.run(args...); r.Code != 1 || r.Stdout != "" || !strings.HasSuffix(r.Stderr, "Error: "+words+"\n") {
		e.t.Errorf("etcdctl %s: want %q, got %s", strings.Join(args, " "), words, r)
	}
}

var (
	printedID  = regexp.MustCompile(`^Member +([0-9a-f]+) added`)
	printedEnv = regexp.MustCompile(`(?m)^(ETCD_[A-Z_]+)=(".*")$`)
)

// addMember runs member add and gives the ID and the environment it prints.
func (e etcdctl) addMember(n *Node, more ...string) (id string, env []string) {
	e.t.Helper()
	text := e.must(append([]string{"member", "add", n.Name, "--peer-urls", n.Peer}, more...)...)
	m := printedID.FindStringSubmatch(text)
	if m == nil {
		e.t.Fatalf("member add: %s", text)
	}
	for _, line := range printedEnv.FindAllStringSubmatch(text, -1) {
		value, err := strconv.Unquote(line[2])
		if err != nil {
			e.t.Fatalf("member add: %s: %v", line[0], err)
		}
		env = append(env, line[1]+"="+value)
	}
	if len(env) != 4 {
		e.t.Fatalf("member add: %s", text)
	}
	return strings.Repeat("0", 16-len(m[1])) + m[1], env
}

// short is an ID as etcdctl lists it, without leading zeros; its sentences pad
// it with blanks.
func short(id string) string { return strings.TrimLeft(id, "0") }

// sentence is how etcdctl begins to say what has become of a member.
func sentence(n *Node, done string) string {
	return fmt.Sprintf("Member %16s %s cluster ", short(n.ID), done)
}
