//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// mirror is a make-mirror's two ends, clusters that know nothing of each other.
type mirror struct {
	c        *Cluster
	e        etcdctl // pointed at the source
	from, to *clientv3.Client
	target   string // its URL
}

// ctlMirror mirrors between two of ours, and between one of ours and etcd, each
// way.
func ctlMirror(t *testing.T, e etcdctl) {
	c := NewCluster(t)
	source, target := c.Start("source"), c.Start("target")
	t.Run("ours to ours", func(t *testing.T) {
		m := mirror{c: c, e: e.in(t).at(source), from: source.client(), to: target.client(), target: target.Client}
		m.all(t)
		m.acrossRestart(source)
	})
	t.Run("with etcd", func(t *testing.T) {
		etcd := startEtcd(c, buildEtcd(t))
		theirs, ours := newSide(t, "etcd", etcd).client, c.Start("ours")
		away := mirror{c: c, e: e.in(t).at(source), from: source.client(), to: theirs, target: etcd}
		away.emptySource(t)
		away.all(t)
		back := mirror{c: c, e: e.in(t), from: theirs, to: ours.client(), target: ours.Client}
		back.e.endpoints = etcd
		back.emptySource(t)
		back.all(t)
	})
}

// emptySource ends what an earlier mirror left.
func (m mirror) emptySource(t *testing.T) {
	t.Helper()
	if _, err := m.from.Delete(t.Context(), "\x00", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
}

func (m mirror) begin(args ...string) *ctlProcess {
	m.e.t.Helper()
	return m.e.begin(append(append([]string{"make-mirror"}, args...), m.target)...)
}

// all mirrors what is there, what comes, what comes after a revision, and no more.
func (m mirror) all(t *testing.T) {
	t.Helper()
	const many = 1100 // more than a page of make-mirror's
	for i := 0; i < many; i += 100 {
		m.txn(t, 100, func(n int) clientv3.Op { return clientv3.OpPut(fmt.Sprintf("m/%04d", i+n), fmt.Sprint("value ", i+n)) })
	}
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpPut("other", "is not mirrored") })
	copying := m.begin("--prefix", "m/", "--dest-prefix", "copy/", "--max-txn-ops", "30")
	m.await("m/", "copy/", many)
	// A put, so that the watch is known to have begun.
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpPut("m/0500", "changed") })
	m.await("m/", "copy/", many)
	before := m.revision(t, m.to)
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpDelete("m/00", clientv3.WithPrefix()) })
	m.await("m/", "copy/", many-100)
	if got := m.revision(t, m.to) - before; got != 4 {
		t.Errorf("100 deletes, 30 a transaction, made %d revisions", got)
	}
	for i := range 20 {
		m.txn(t, 2, func(n int) clientv3.Op { return clientv3.OpPut(fmt.Sprint("m/more/", n), fmt.Sprint(i)) })
	}
	m.await("m/", "copy/", many-98)
	copying.did()
	copying.interrupt()

	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpPut("m/missed", "x") })
	next := m.revision(t, m.from) + 1
	later := m.begin("--prefix", "m/", "--dest-prefix", "copy/", "--rev", fmt.Sprint(next))
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpDelete("m/missed") })
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpPut("m/seen", "x") })
	m.await("m/", "copy/", many-97)
	later.did()
	later.interrupt()

	m.txn(t, 3, func(n int) clientv3.Op { return clientv3.OpPut(fmt.Sprint("n/root/", n), "x") })
	root := m.begin("--prefix", "n/", "--no-dest-prefix")
	m.await("n/root/", "root/", 3)
	root.did()
	root.interrupt()

	if _, err := m.from.Compact(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	m.e.refused("etcdserver: mvcc: required revision has been compacted", "make-mirror", "--prefix", "m/", "--dest-prefix", "copy/", "--rev", "2", m.target)
	res, err := m.to.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil || res.Count != many-97+3 {
		t.Errorf("keys at the target: %v, %v", res, err)
	}
}

// acrossRestart kills the source under a mirror: the mirror goes on.
func (m mirror) acrossRestart(source *Node) {
	t := m.e.t
	t.Helper()
	going := m.begin("--prefix", "r/", "--dest-prefix", "again/")
	m.txn(t, 1, func(int) clientv3.Op { return clientv3.OpPut("r/1", "before") })
	m.await("r/", "again/", 1)
	source.Kill()
	source.Restart()
	m.txn(t, 2, func(n int) clientv3.Op { return clientv3.OpPut(fmt.Sprint("r/", n), "after") })
	m.await("r/", "again/", 2)
	going.interrupt()
}

// txn changes the source, so many operations at a revision.
func (m mirror) txn(t *testing.T, n int, op func(n int) clientv3.Op) {
	t.Helper()
	ops := make([]clientv3.Op, n)
	for i := range ops {
		ops[i] = op(i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitPatience)
	defer cancel()
	if _, err := m.from.Txn(ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
}

func (m mirror) revision(t *testing.T, client *clientv3.Client) int64 {
	t.Helper()
	res, err := client.Get(t.Context(), "absent")
	if err != nil {
		t.Fatal(err)
	}
	return res.Header.GetRevision()
}

// await waits until the target has under its prefix what the source has, so many
// keys.
func (m mirror) await(from, to string, n int) {
	m.e.t.Helper()
	want := prefixed(m.e.t, m.from, from)
	if len(want) != n {
		m.e.t.Fatalf("%d keys at the source, want %d", len(want), n)
	}
	m.c.Eventually("the mirror", func() error { return mirrored(want, prefixed(m.e.t, m.to, to)) })
}

// mirrored tells where two differ.
func mirrored(want, got map[string]string) error {
	for key, value := range want {
		if v, there := got[key]; !there || v != value {
			return fmt.Errorf("%q is %q, want %q", key, v, value)
		}
	}
	for key := range got {
		if _, there := want[key]; !there {
			return fmt.Errorf("%q is there", key)
		}
	}
	return nil
}

// prefixed is the keys of a prefix, without it, and their values.
func prefixed(t *testing.T, client *clientv3.Client, prefix string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitPatience)
	defer cancel()
	res, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range res.Kvs {
		all[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return all
}
