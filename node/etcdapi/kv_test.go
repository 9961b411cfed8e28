package etcdapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/node/etcdapi"
)

func TestPutGetDelete(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	before := s.m.Revision()
	for i := range 5 {
		resp, err := s.cli.Put(ctx(t), fmt.Sprintf("k%d", i), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		h := resp.Header
		if h.GetRevision() != before+int64(i)+1 || h.GetClusterId() != clusterID || h.GetMemberId() != selfID || h.GetRaftTerm() != 2 {
			t.Fatalf("header %v", h)
		}
	}
	put, err := s.cli.Put(ctx(t), "k2", "two", clientv3.WithPrevKV())
	if err != nil || string(put.PrevKv.GetValue()) != "2" {
		t.Fatalf("previous %v, %v", put.PrevKv, err)
	}
	for _, c := range []struct {
		name string
		key  string
		opts []clientv3.OpOption
		want string
		n    int64
		more bool
	}{
		{name: "one", key: "k1", want: "k1=1", n: 1},
		{name: "absent", key: "zz", want: "", n: 0},
		{name: "prefix", key: "k", opts: []clientv3.OpOption{clientv3.WithPrefix()}, want: "k0=0 k1=1 k2=two k3=3 k4=4", n: 5},
		{name: "limit", key: "k", opts: []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(2)}, want: "k0=0 k1=1", n: 5, more: true},
		{name: "from key", key: "k3", opts: []clientv3.OpOption{clientv3.WithFromKey()}, want: "k3=3 k4=4", n: 2},
		{name: "descending", key: "k", opts: []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
			want: "k4=4 k3=3 k2=two k1=1 k0=0", n: 5},
		{name: "count", key: "k", opts: []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}, want: "", n: 5},
		{name: "keys only", key: "k3", opts: []clientv3.OpOption{clientv3.WithKeysOnly()}, want: "k3=", n: 1},
		{name: "at a revision", key: "k2", opts: []clientv3.OpOption{clientv3.WithRev(put.Header.GetRevision() - 1)}, want: "k2=2", n: 1},
		{name: "serializable", key: "k2", opts: []clientv3.OpOption{clientv3.WithSerializable()}, want: "k2=two", n: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := s.cli.Get(ctx(t), c.key, c.opts...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, kv := range resp.Kvs {
				got = append(got, string(kv.GetKey())+"="+string(kv.GetValue()))
			}
			if strings.Join(got, " ") != c.want || resp.Count != c.n || resp.More != c.more {
				t.Errorf("got %v, count %d, more %v", got, resp.Count, resp.More)
			}
			if resp.Header.GetRevision() != put.Header.GetRevision() {
				t.Errorf("header revision %d", resp.Header.GetRevision())
			}
		})
	}
	del, err := s.cli.Delete(ctx(t), "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil || del.Deleted != 5 || len(del.PrevKvs) != 5 {
		t.Fatalf("%v, %v", del, err)
	}
	if del, err = s.cli.Delete(ctx(t), "k1"); err != nil || del.Deleted != 0 {
		t.Fatalf("%v, %v", del, err)
	}
}

func TestTxn(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	run := func(cmp clientv3.Cmp) *clientv3.TxnResponse {
		t.Helper()
		resp, err := s.cli.Txn(ctx(t)).If(cmp).
			Then(clientv3.OpPut("a", "then"), clientv3.OpGet("a"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("n", "nested")}, nil)).
			Else(clientv3.OpPut("a", "else"), clientv3.OpDelete("n")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := run(clientv3.Compare(clientv3.Version("a"), "=", 0)); !resp.Succeeded || len(resp.Responses) != 3 ||
		string(resp.Responses[1].GetResponseRange().GetKvs()[0].GetValue()) != "then" {
		t.Errorf("%v", resp)
	}
	resp := run(clientv3.Compare(clientv3.Version("a"), "=", 0))
	if resp.Succeeded || resp.Responses[1].GetResponseDeleteRange().GetDeleted() != 1 {
		t.Errorf("%v", resp)
	}
	if got, err := s.cli.Get(ctx(t), "a"); err != nil || string(got.Kvs[0].GetValue()) != "else" ||
		got.Header.GetRevision() != resp.Header.GetRevision() {
		t.Errorf("%v, %v", got, err)
	}
}

// A header tells the revision of the answer, not that of the moment it is sent.
func TestHeaderIsOfTheAnswer(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	s.ahead.Store(50)
	put, err := s.cli.Put(ctx(t), "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	rev := s.m.Revision()
	get, err := s.cli.Get(ctx(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	txn, err := s.cli.Txn(ctx(t)).Then(clientv3.OpGet("k")).Commit()
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]*pb.ResponseHeader{"put": put.Header, "get": get.Header, "txn": txn.Header} {
		if h.GetRevision() != rev {
			t.Errorf("%s: revision %d, want %d", name, h.GetRevision(), rev)
		}
	}
}

// Which requests are replicated, which wait for a read index, which do neither.
func TestReadsDoNotPropose(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	get, local := clientv3.OpGet("a"), clientv3.OpGet("a", clientv3.WithSerializable())
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	txn := func(ops ...clientv3.Op) func() error {
		return func() error { _, err := s.cli.Txn(ctx(t)).Then(ops...).Commit(); return err }
	}
	do := func(op clientv3.Op) func() error {
		return func() error { _, err := s.cli.Do(ctx(t), op); return err }
	}
	for _, c := range []struct {
		name             string
		call             func() error
		reads, proposals int64
	}{
		{"get", do(get), 1, 0},
		{"serializable get", do(local), 0, 0},
		{"put", do(clientv3.OpPut("a", "b")), 0, 1},
		{"delete", do(clientv3.OpDelete("a")), 0, 1},
		{"txn of gets", txn(get, get), 1, 0},
		{"txn of serializable gets", txn(local, local), 0, 0},
		{"mixed txn", txn(local, get), 1, 0},
		{"writing txn", txn(get, clientv3.OpPut("a", "b")), 0, 1},
		{"nested read", txn(nested(get)), 1, 0},
		{"nested serializable read", txn(nested(local)), 0, 0},
		{"nested write", txn(nested(clientv3.OpPut("a", "b"))), 0, 1},
		{"nothing", txn(), 1, 0},
		{"comparison alone", func() error {
			_, err := s.cli.Txn(ctx(t)).If(clientv3.Compare(clientv3.Version("a"), "=", 0)).Commit()
			return err
		}, 1, 0},
		{"linearizable member list", func() error { _, err := s.cli.MemberList(ctx(t)); return err }, 1, 0},
		{"member list", func() error { _, err := s.cli.MemberList(ctx(t), clientv3.WithSerializable()); return err }, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.reads.Store(0)
			s.proposals.Store(0)
			if err := c.call(); err != nil {
				t.Fatal(err)
			}
			if r, p := s.reads.Load(), s.proposals.Load(); r != c.reads || p != c.proposals {
				t.Errorf("%d read indexes, %d proposals; want %d, %d", r, p, c.reads, c.proposals)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	if _, err := s.cli.Put(ctx(t), "there", "v"); err != nil {
		t.Fatal(err)
	}
	kv := pb.NewKVClient(s.conn)
	put := func(r *pb.PutRequest) func() error { return func() error { _, err := kv.Put(ctx(t), r); return err } }
	get := func(r *pb.RangeRequest) func() error {
		return func() error { _, err := kv.Range(ctx(t), r); return err }
	}
	txn := func(ops ...*pb.RequestOp) func() error {
		return func() error { _, err := kv.Txn(ctx(t), &pb.TxnRequest{Success: ops}); return err }
	}
	opPut := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
	}
	opDel := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
	}
	opTxn := func(then, otherwise []*pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: then, Failure: otherwise}}}
	}
	list := func(ops ...*pb.RequestOp) []*pb.RequestOp { return ops }
	many := func(n int) []*pb.RequestOp {
		var ops []*pb.RequestOp
		for i := range n {
			ops = append(ops, opPut(fmt.Sprint("k", i)))
		}
		return ops
	}
	for _, c := range []struct {
		name string
		call func() error
		want error
	}{
		{"put without key", put(&pb.PutRequest{}), rpctypes.ErrEmptyKey},
		{"put with value and ignore_value", put(&pb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true}), rpctypes.ErrValueProvided},
		{"put with lease and ignore_lease", put(&pb.PutRequest{Key: []byte("k"), Lease: 1, IgnoreLease: true}), rpctypes.ErrLeaseProvided},
		{"put with unknown lease", put(&pb.PutRequest{Key: []byte("k"), Lease: 1}), rpctypes.ErrLeaseNotFound},
		{"ignore_value of nothing", put(&pb.PutRequest{Key: []byte("absent"), IgnoreValue: true}), rpctypes.ErrKeyNotFound},
		{"get without key", get(&pb.RangeRequest{}), rpctypes.ErrEmptyKey},
		{"get with unknown order", get(&pb.RangeRequest{Key: []byte("k"), SortOrder: 9}), rpctypes.ErrInvalidSortOption},
		{"get with unknown target", get(&pb.RangeRequest{Key: []byte("k"), SortTarget: 9}), rpctypes.ErrInvalidSortOption},
		{"get in the future", get(&pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40}), rpctypes.ErrFutureRev},
		{"delete without key", func() error { _, err := kv.DeleteRange(ctx(t), &pb.DeleteRangeRequest{}); return err }, rpctypes.ErrEmptyKey},
		{"txn at the limit", txn(many(128)...), nil},
		{"txn over the limit", txn(many(129)...), rpctypes.ErrTooManyOps},
		{"nested txn over the limit", txn(opTxn(many(128), nil)), rpctypes.ErrTooManyOps},
		{"empty operation", txn(&pb.RequestOp{}), rpctypes.ErrKeyNotFound},
		{"comparison without key", func() error {
			_, err := kv.Txn(ctx(t), &pb.TxnRequest{Compare: []*pb.Compare{{}}})
			return err
		}, rpctypes.ErrEmptyKey},
		{"txn puts twice", txn(opPut("a"), opPut("a")), rpctypes.ErrDuplicateKey},
		{"txn puts and deletes", txn(opPut("b"), opDel("a", "c")), rpctypes.ErrDuplicateKey},
		{"txn puts beside what it deletes", txn(opPut("c"), opDel("a", "c")), nil},
		{"txn deletes twice", txn(opDel("a", ""), opDel("a", "c")), nil},
		{"nested put twice", txn(opPut("a"), opTxn(list(opPut("a")), nil)), rpctypes.ErrDuplicateKey},
		{"same key in both branches", txn(opTxn(list(opPut("a")), list(opPut("a")))), nil},
		{"same key in two nested txns", txn(opTxn(list(opPut("a")), nil), opTxn(nil, list(opPut("a")))), rpctypes.ErrDuplicateKey},
		{"compact the future", func() error {
			_, err := kv.Compact(ctx(t), &pb.CompactionRequest{Revision: 1 << 40})
			return err
		}, rpctypes.ErrFutureRev},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := rpctypes.Error(c.call()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRequestSize(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	fits := bytes.Repeat([]byte{'v'}, etcdapi.DefaultMaxRequestBytes-64)
	if _, err := s.cli.Put(ctx(t), "k", string(fits)); err != nil {
		t.Errorf("%d bytes: %v", len(fits), err)
	}
	for _, size := range []int{etcdapi.DefaultMaxRequestBytes, etcdapi.DefaultMaxRequestBytes + 256<<10} {
		if _, err := s.cli.Put(ctx(t), "k", strings.Repeat("v", size)); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	small := serve(t, etcdapi.Options{MaxRequestBytes: 100}, nil)
	if _, err := small.cli.Put(ctx(t), "k", strings.Repeat("v", 100)); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("with a limit of 100 bytes: %v", err)
	}
	if _, err := small.cli.Put(ctx(t), "k", "v"); err != nil {
		t.Error(err)
	}
}

func TestCompact(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	var revs []int64
	for i := range 4 {
		resp, err := s.cli.Put(ctx(t), "k", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, resp.Header.GetRevision())
	}
	if _, err := s.cli.Compact(ctx(t), revs[1]); err != nil {
		t.Fatal(err)
	}
	if s.lastPurged.Load() != 0 {
		t.Error("a compaction that is not physical waited for the purge")
	}
	if _, err := s.cli.Get(ctx(t), "k", clientv3.WithRev(revs[0])); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted revision: %v", err)
	}
	if got, err := s.cli.Get(ctx(t), "k", clientv3.WithRev(revs[1])); err != nil || string(got.Kvs[0].GetValue()) != "1" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := s.cli.Compact(ctx(t), revs[1]); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted again: %v", err)
	}
	if _, err := s.cli.Compact(ctx(t), revs[2], clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if s.lastPurged.Load() != revs[2] {
		t.Error("a physical compaction did not wait for the purge")
	}
}

// Keys alone come without their lease, as etcd's do, unless they are sorted by
// their values.
func TestKeysOnlyLease(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	kv, leases := pb.NewKVClient(s.conn), pb.NewLeaseClient(s.conn)
	if _, err := leases.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{ID: 5, TTL: 600}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx(t), &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 5}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req  *pb.RangeRequest
		want int64
	}{
		{&pb.RangeRequest{}, 5},
		{&pb.RangeRequest{KeysOnly: true}, 0},
		{&pb.RangeRequest{KeysOnly: true, SortTarget: pb.RangeRequest_MOD}, 0},
		{&pb.RangeRequest{KeysOnly: true, SortTarget: pb.RangeRequest_VALUE}, 5},
	} {
		c.req.Key = []byte("k")
		resp, err := kv.Range(ctx(t), c.req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.GetKvs()[0]; got.GetLease() != c.want || len(got.GetValue()) > 0 == c.req.GetKeysOnly() || got.GetModRevision() != 2 {
			t.Errorf("%v: %v", c.req, got)
		}
	}
}
