//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestEtcdctlCompat talks to a cluster with etcd's own client, which is what
// etcdctl is made of: key-value calls at a follower, the member list, status.
func TestEtcdctlCompat(t *testing.T) {
	t.Parallel()
	c, nodes := three(t)
	follower := c.Followers()[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keyValueCalls(ctx, t, c.Client(follower))

	list, err := follower.client().MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Members) != 3 {
		t.Fatalf("member list: %v", list.Members)
	}
	for _, n := range nodes {
		found := false
		for _, m := range list.Members {
			found = found || fmt.Sprintf("%016x", m.ID) == n.ID && m.Name == n.Name && !m.IsLearner &&
				fmt.Sprint(m.PeerURLs) == fmt.Sprint([]string{n.Peer}) && fmt.Sprint(m.ClientURLs) == fmt.Sprint([]string{n.Client})
		}
		if !found {
			t.Errorf("%s (%s) is not in the member list %v", n.Name, n.ID, list.Members)
		}
	}
	var raftTerm uint64
	for i, n := range nodes {
		st, err := c.Client(follower).Status(ctx, n.Client)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%016x", st.Header.MemberId) != n.ID || st.Leader == 0 || st.Version == "" || st.DbSize <= 0 || st.RaftIndex == 0 || st.IsLearner {
			t.Errorf("status of %s: %v", n.Name, st)
		}
		if i > 0 && st.RaftTerm != raftTerm {
			t.Errorf("%s is at term %d, another at %d", n.Name, st.RaftTerm, raftTerm)
		}
		raftTerm = st.RaftTerm
	}
}

func keyValueCalls(ctx context.Context, t *testing.T, client *clientv3.Client) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put, err := client.Put(ctx, "a/1", "one")
	must(err)
	second, err := client.Put(ctx, "a/1", "two", clientv3.WithPrevKV())
	must(err)
	if second.Header.Revision != put.Header.Revision+1 || string(second.PrevKv.Value) != "one" {
		t.Errorf("second put: %v", second)
	}
	_, err = client.Put(ctx, "a/2", "three")
	must(err)
	get, err := client.Get(ctx, "a/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	must(err)
	if get.Count != 2 || string(get.Kvs[0].Key) != "a/2" || string(get.Kvs[1].Value) != "two" || get.Kvs[1].Version != 2 {
		t.Errorf("get by prefix: %v", get)
	}
	old, err := client.Get(ctx, "a/1", clientv3.WithRev(put.Header.Revision))
	must(err)
	if len(old.Kvs) != 1 || string(old.Kvs[0].Value) != "one" {
		t.Errorf("get at revision %d: %v", put.Header.Revision, old)
	}
	txn := func(expect string) *clientv3.TxnResponse {
		t.Helper()
		res, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Value("a/1"), "=", expect)).
			Then(clientv3.OpPut("a/1", "four"), clientv3.OpGet("a/2")).Else(clientv3.OpGet("a/1")).Commit()
		must(err)
		return res
	}
	if yes := txn("two"); !yes.Succeeded || string(yes.Responses[1].GetResponseRange().Kvs[0].Value) != "three" {
		t.Errorf("transaction: %v", yes)
	}
	if no := txn("two"); no.Succeeded || string(no.Responses[0].GetResponseRange().Kvs[0].Value) != "four" {
		t.Errorf("transaction whose condition fails: %v", no)
	}
	del, err := client.Delete(ctx, "a/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(err)
	if del.Deleted != 2 || len(del.PrevKvs) != 2 {
		t.Errorf("delete: %v", del)
	}
	_, err = client.Compact(ctx, del.Header.Revision)
	must(err)
	if _, err := client.Get(ctx, "a/1", clientv3.WithRev(put.Header.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("get at a compacted revision: %v", err)
	}
	if _, err := client.Get(ctx, "a/1", clientv3.WithRev(del.Header.Revision+1000)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("get at a future revision: %v", err)
	}
	if _, err := client.Put(ctx, "", "x"); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("put of no key: %v", err)
	}
}
