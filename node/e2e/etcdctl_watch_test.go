//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// watch runs `etcdctl watch` until it has printed as many lines as are wanted,
// and ends it. once, if given, runs when it has printed the first n lines.
func (e etcdctl) watch(args, want string, n int, once func()) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.path, append([]string{"--endpoints", e.endpoints, "watch"}, strings.Fields(args)...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	got := ""
	lines := bufio.NewScanner(out)
	for i := 0; len(got) < len(want); i++ {
		if i == n && once != nil {
			once()
		}
		if !lines.Scan() {
			break
		}
		got += lines.Text() + "\n"
	}
	cancel()
	_ = cmd.Wait() // it was killed
	e.runs.note(got == want, append([]string{"watch"}, strings.Fields(args)...))
	if got != want {
		e.t.Errorf("etcdctl watch %s:\n%q, want\n%q\n%s", args, got, want, &stderr)
	}
}

// ctlWatch watches what ctlKeys has written.
func ctlWatch(t *testing.T, e etcdctl) {
	t.Helper()
	const past = "PUT\na/1\none\nPUT\na/1\ntwo\n"
	e.watch("a/1 --rev 2", past, 0, nil)
	e.watch("a/1 --rev 2 --prev-kv", "PUT\na/1\none\nPUT\na/1\none\na/1\ntwo\n", 0, nil)
	e.watch("a --prefix --rev 4", "PUT\na/2\nthree\nPUT\na/3\nfour\nPUT\na/0\nzero\n", 0, nil)
	e.watch("a/2 a/4 --rev 1", "PUT\na/2\nthree\nPUT\na/3\nfour\n", 0, nil)
}

// ctlWatchMore comes after ctlCompaction, at revision 10: a watch goes on from
// what was to what comes, and one of what is compacted ends with etcd's words.
func ctlWatchMore(t *testing.T, e etcdctl) {
	t.Helper()
	e.must("put", "w", "old")
	e.watch("w --rev 10 --prev-kv", "PUT\nw\nold\nDELETE\nw\nold\nw\n\n", 3, func() { e.must("del", "w") })
	r := e.run("watch", "a/1", "--rev", "3")
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	if r.Stdout != "" || !slices.ContainsFunc(lines, func(l string) bool {
		return strings.Contains(l, "watch was canceled (etcdserver: mvcc: required revision has been compacted)")
	}) {
		t.Errorf("a watch of what is compacted: %s", r)
	}
}
