//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestCfseedWatch: `cfseed watch` prints each change once and in order, goes on
// where it was when the member it watches at is killed, and ends when it is
// interrupted.
func TestCfseedWatch(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	client := c.Client(nodes[1], nodes[2])
	past := putAll(t, client, "past", 2)
	ctx, cancel := context.WithTimeout(t.Context(), cliDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "watch", "w/", "--prefix", "--prev-kv", "--rev", fmt.Sprint(past-1), "-o", "json",
		"--endpoints", nodes[0].Client+","+nodes[1].Client+","+nodes[2].Client)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func() (e struct {
		Type     string
		Revision int64
		KV       struct{ Key, Value string }
		PrevKV   *struct{ Value string } `json:"prev_kv"`
	}) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the watch has ended: %s", &stderr)
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		return e
	}
	want := past - 1
	upTo := func(revision int64) {
		t.Helper()
		for ; want <= revision; want++ {
			if e := next(); e.Revision != want || e.Type != "put" || !strings.HasPrefix(e.KV.Key, "w/") {
				t.Fatalf("%+v, want revision %d", e, want)
			}
		}
	}
	upTo(past)
	upTo(putAll(t, client, "now", 3))
	nodes[0].Kill()
	upTo(putAll(t, client, "without", 5))
	if _, err := client.Delete(t.Context(), "w/now/00"); err != nil {
		t.Fatal(err)
	}
	if e := next(); e.Type != "delete" || e.KV.Key != "w/now/00" || e.PrevKV == nil || e.PrevKV.Value != "now" {
		t.Errorf("a delete: %+v", e)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"error":{"code":"interrupted",`) || lines.Scan() {
		t.Errorf("the last line is %s", lines.Text())
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), &stderr)
	}
}
