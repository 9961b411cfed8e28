package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/node/join"
)

// A seed that came from a stopped member's directory has no member ID and no
// lease: null, and not left out, so that scripts need not tell the two apart.
func TestPullOfAnOfflineSourceHasNulls(t *testing.T) {
	out := &join.PullOutcome{Outcome: join.Outcome{Identity: datadir.Identity{Seed: &datadir.SeedRef{}}}}
	offline, err := json.Marshal(pullShape(out))
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"member_id", "lease_id", "lease_expires"} {
		if !strings.Contains(string(offline), `"`+field+`":null`) {
			t.Errorf("no %s: null in %s", field, offline)
		}
	}
	out.Identity.MemberID, out.Identity.Seed.LeaseID = 5, 9
	out.LeaseExpires = time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	online, err := json.Marshal(pullShape(out))
	if err != nil || !strings.Contains(string(online), `"lease_id":"0000000000000009","lease_expires":"2026-01-02T02:04:05Z"`) {
		t.Errorf("%s, %v", online, err)
	}
}

// What --from names is told apart before anything is touched.
func TestPullFromNothing(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--from", filepath.Join(dir, "no.archive")}, "no such file"},
		{[]string{"--from", "10.0.0.1"}, "has no port"},
		{[]string{"--from", "h:1,ftp://h:1"}, "scheme"},
		{[]string{"--from", "h:1", "--timeout", "0s"}, "--timeout"},
		{[]string{"--from", "h:1", "--parallel", "-1"}, "--parallel"},
		{[]string{"--from", "h:1", "--lease-ttl", "-1s"}, "--lease-ttl"},
	} {
		code, stdout, stderr := runArgs(t.Context(), "", append([]string{"pull", "--data-dir", filepath.Join(dir, "new")}, c.args...)...)
		if code != 2 || stdout != "" || !strings.Contains(stderr, c.says) {
			t.Errorf("%v: exit %d: %s%s", c.args, code, stdout, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !os.IsNotExist(err) {
		t.Errorf("the data directory was touched: %v", err)
	}
}

// A file that is no archive is told to be none, and not asked for as a host.
func TestPullFromAFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "archive")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runArgs(t.Context(), "", "pull", "--from", file, "--data-dir", filepath.Join(dir, "new"), "--timeout", "1s", "-o", "json")
	if code != 4 || !strings.Contains(stdout, `"corrupt"`) || !strings.Contains(stdout, "it ends too early") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !os.IsNotExist(err) {
		t.Errorf("the data directory was touched: %v", err)
	}
}
