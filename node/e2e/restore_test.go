//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// asRoot is etcd's client of a node that asks who calls.
func asRoot(t *testing.T, n *Node) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{n.Client}, DialTimeout: 5 * time.Second,
		Username: "root", Password: "root", Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // ends with "context canceled" by design
	return client
}

// dataOf is all that a restore keeps, as a client sees it.
func dataOf(t *testing.T, n *Node, cli *clientv3.Client, lease clientv3.LeaseID, past int64) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	hash, err0 := cli.HashKV(ctx, n.Client, 0)
	now, err1 := cli.Get(ctx, "", clientv3.WithFromKey())
	then, err2 := cli.Get(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(past))
	left, err3 := cli.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
	users, err4 := cli.UserList(ctx)
	auth, err5 := cli.AuthStatus(ctx)
	if err := errors.Join(err0, err1, err2, err3, err4, err5); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return fmt.Sprintf("hash %d at %d, compacted to %d\nnow %v at %d\nthen %v\nlease of %d with %q\nusers %v, asked %t, revision %d",
		hash.Hash, hash.HashRevision, hash.CompactRevision, now.Kvs, now.Header.Revision, then.Kvs, left.GrantedTTL, left.Keys, users.Users, auth.Enabled, auth.AuthRevision)
}

// flipped is a copy of a file with one bit changed.
func flipped(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 4
	if err := os.WriteFile(file+".bad", b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file + ".bad"
}

// TestRestore makes a new cluster of one from an archive, at the old one's
// address: keys, history, leases and users are there, and it grows.
func TestRestore(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--bcrypt-cost", "4")
	old := c.Start("n1")
	cli := old.client()
	granted, err := cli.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		_, err0 := cli.Put(t.Context(), fmt.Sprintf("a/%02d", i%20), fmt.Sprint(i))
		_, err1 := cli.Put(t.Context(), fmt.Sprintf("leased/%02d", i), "v", clientv3.WithLease(granted.ID))
		if err := errors.Join(err0, err1); err != nil {
			t.Fatal(err)
		}
	}
	_, err0 := cli.Delete(t.Context(), "a/07")
	_, err1 := cli.Compact(t.Context(), 30)
	if err := errors.Join(err0, err1); err != nil {
		t.Fatal(err)
	}
	makeUsers(t, cli, "cfseed-seed")
	c.Secure = []string{"--user", "root:root"}
	root := asRoot(t, old)
	before := dataOf(t, old, root, granted.ID, 60)
	file := filepath.Join(c.Dir, "archive")
	saved := c.MustAsk("snapshot", "save", file)
	if _, err := root.Put(t.Context(), "later", "than the archive"); err != nil {
		t.Fatal(err)
	}
	restore := func(file, dir string, more ...string) Result {
		t.Helper()
		return c.CLI(append([]string{"snapshot", "restore", file, "--data-dir", dir}, more...)...)
	}
	dir := filepath.Join(c.Dir, "restored")
	if r := restore(flipped(t, file), dir); r.Code != 4 || r.Str("error", "code") != "corrupt" {
		t.Errorf("a damaged archive: %s", r)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged archive left %v", err)
	}
	if r := restore(file, old.DataDir); r.Code != 1 || r.Str("error", "code") != "not_empty" {
		t.Errorf("over a member that runs: %s", r)
	}
	if r := restore(file, c.Dir); r.Code != 1 || r.Str("error", "code") != "not_empty" {
		t.Errorf("beside other files: %s", r)
	}
	if r := restore(file, dir, "--bump-revision", "5"); r.Code != 2 || r.Str("error", "code") != "usage" {
		t.Errorf("half of a pair of flags: %s", r)
	}
	old.Kill()
	c.VerifyDirs(old)

	r := restore(file, dir, "--name", "r1", "--initial-advertise-peer-urls", old.Peer)
	if r.Code != 0 || r.Str("cluster_id") == saved.Str("cluster_id") || r.Str("member_id") == old.ID || r.Num("revision") != saved.Num("revision") ||
		r.Str("restored_from", "cluster_id") != saved.Str("cluster_id") || r.Num("position", "index") != saved.Num("position", "index")+1 {
		t.Fatalf("restore: %s", r)
	}
	if again := restore(file, dir); again.Str("error", "code") != "not_empty" {
		t.Errorf("again: %s", again)
	}
	now := c.New("r1")
	now.DataDir, now.Peer = dir, old.Peer
	c.VerifyDirs(now)
	now.Spawn()
	now.WaitReady(startPatience)
	if now.ID != r.Str("member_id") {
		t.Errorf("it runs as %s, was restored as %s", now.ID, r.Str("member_id"))
	}
	if after := dataOf(t, now, asRoot(t, now), granted.ID, 60); after != before {
		t.Errorf("restored:\n%s\nbefore:\n%s", after, before)
	}
	second := c.New("r2")
	second.Env = []string{"CFSEED_USER=op", "CFSEED_PASSWORD=op"}
	second.Spawn("--join", now.Client)
	second.WaitReady(startPatience)
	c.AwaitRole("voter", now, second)
	c.AwaitEqual(now, second)
	now.Kill()
	now.Restart()
	if got, err := asRoot(t, second).Get(t.Context(), "a/", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || got.Count != 19 {
		t.Errorf("%v, %v", got, err)
	}
	if now.Stop() != 0 || second.Stop() != 0 {
		t.Error("they did not stop cleanly")
	}
	c.VerifyDirs(now, second)
}

// TestRestoreThree makes a new cluster of three from one archive, at the
// addresses of two of the old members and a new one, while the third old member
// still runs: the new ones form one cluster, and the old one has no part in it.
func TestRestoreThree(t *testing.T) {
	t.Parallel()
	c, was := static(t, "--heartbeat-interval", "20ms", "--election-timeout", "200ms")
	w := c.StartWriter(2, 100)
	w.AwaitMore(100)
	w.Stop()
	file := filepath.Join(c.Dir, "archive")
	saved := c.MustAsk("snapshot", "save", file)
	c.MustAsk("put", "later", "than the archive")
	other := filepath.Join(c.Dir, "other")
	c.MustAsk("snapshot", "save", other)
	was[0].Kill()
	was[1].Kill()

	var now []*Node
	for i, name := range []string{"r1", "r2", "r3"} {
		n := c.New(name)
		if i < 2 {
			n.Peer = was[i].Peer
		}
		now = append(now, n)
	}
	restore := func(n *Node, file, dir string) Result {
		t.Helper()
		r := c.CLI("snapshot", "restore", file, "--data-dir", dir, "--name", n.Name, "--initial-cluster", initialCluster(now),
			"--bump-revision", "1000", "--mark-compacted")
		if r.Code != 0 {
			t.Fatalf("restore %s: %s", n.Name, r)
		}
		return r
	}
	ids := map[string]bool{}
	var cluster string
	for _, n := range now {
		r := restore(n, file, n.DataDir)
		cluster = r.Str("cluster_id")
		ids[cluster], ids[r.Str("member_id")] = true, true
		n.Spawn("--initial-cluster", initialCluster(now), "--initial-cluster-state", "new")
	}
	if len(ids) != 4 || ids[saved.Str("cluster_id")] || ids[was[0].ID] || ids[was[1].ID] || ids[was[2].ID] {
		t.Errorf("one cluster and three members have the IDs %v", ids)
	}
	if r := restore(now[0], other, filepath.Join(c.Dir, "stranger")); r.Str("cluster_id") == cluster || ids[r.Str("member_id")] {
		t.Errorf("from another archive: %s", r)
	}
	for _, n := range now {
		n.WaitReady(startPatience)
	}
	ends(t, was[2], "is of cluster")

	cli := c.Client(now...)
	last := int64(saved.Num("revision"))
	got, err := cli.Get(t.Context(), "later")
	if err != nil || got.Count != 0 || got.Header.Revision != last+1000 {
		t.Errorf("%v, %v", got, err)
	}
	for _, rev := range []int64{last, last + 1, last + 999} {
		if _, err := cli.Get(t.Context(), "later", clientv3.WithRev(rev)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("a read at %d: %v", rev, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), waitPatience)
		if ev := <-cli.Watch(ctx, "later", clientv3.WithRev(rev)); !errors.Is(ev.Err(), rpctypes.ErrCompacted) || ev.CompactRevision != last+1000 {
			t.Errorf("a watch from %d: %+v", rev, ev)
		}
		cancel()
	}
	w.CheckOn(now...)
	more := c.StartWriter(2, 100, now...)
	more.AwaitMore(50)
	leader := c.Leader()
	leader.Kill()
	more.AwaitMore(50)
	leader.Restart()
	more.Stop()
	c.AwaitEqual(now...)
	more.CheckOn(now...)
	for _, n := range now {
		if log := n.LogTail(1 << 20); strings.Contains(log, "panic") {
			t.Errorf("%s panicked", n.Name)
		}
		if code := n.Stop(); code != 0 {
			t.Errorf("%s stopped with %d", n.Name, code)
		}
	}
	c.VerifyDirs(now...)
}
