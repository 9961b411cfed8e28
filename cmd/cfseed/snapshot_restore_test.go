package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// What is wrong with the flags or the file is told before anything is made.
func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	file, to := filepath.Join(dir, "file"), filepath.Join(dir, "new")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		exit int
		says string
	}{
		{file, 2, "--data-dir is needed"},
		{"--data-dir " + to, 2, "takes FILE"},
		{file + " --data-dir " + to + " --bump-revision 5", 2, "go together"},
		{file + " --data-dir " + to + " --mark-compacted", 2, "go together"},
		{file + " --data-dir " + to + " --name x --initial-cluster y=http://a:1", 2, "no member is named"},
		{file + " --data-dir " + to + " --initial-advertise-peer-urls a:1", 2, "has no scheme"},
		{file + "x --data-dir " + to, 2, "no such file"},
		{file + " --data-dir " + to, 4, "it ends too early"},
	} {
		code, stdout, stderr := runArgs(t.Context(), "", append(append([]string{"snapshot", "restore"}, strings.Fields(c.args)...), "-o", "json")...)
		if code != c.exit || !strings.Contains(stdout, c.says) {
			t.Errorf("%s: exit %d: %s%s", c.args, code, stdout, stderr)
		}
		if _, err := os.Stat(to); !os.IsNotExist(err) {
			t.Fatalf("%s: the data directory was touched: %v", c.args, err)
		}
	}
}

func TestRestoreShape(t *testing.T) {
	out := &node.Restored{
		Identity: datadir.Identity{Cluster: ident.Cluster{ID: 0xa}, MemberID: 0xb, Name: "n"},
		Position: ident.Position{Term: 3, Index: 41}, Revision: 1049,
		Members: []node.RestoredMember{{ID: 0xb, Name: "n", PeerURLs: []string{"http://n:1"}}},
		Archive: &manifest.Manifest{Cluster: ident.Cluster{ID: 0xc}, Position: ident.Position{Term: 2, Index: 40}, Revision: 49},
	}
	got, err := json.Marshal(restoreShape(out, 2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"cluster_id":"000000000000000a","member_id":"000000000000000b","name":"n","position":{"term":3,"index":41},"revision":1049,`,
		`"members":[{"id":"000000000000000b","name":"n","peer_urls":["http://n:1"]}],"restored_from":{"cluster_id":"000000000000000c","position":{"term":2,"index":40},"revision":49,`,
		`"files":0,"bytes_total":0,"seconds":2}`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}
