package mvcc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

// universe is every key that requests name, empty ones apart.
var universe = []string{"a", "a\x00", "a\x00\x09", "ab", "b", "\x00", "\xff", "\xff\xff"}

type gen struct {
	t   *rapid.T
	rev int64
}

func (g gen) key() []byte {
	if rapid.IntRange(0, 30).Draw(g.t, "empty key") == 0 {
		return nil
	}
	return []byte(rapid.SampledFrom(universe).Draw(g.t, "key"))
}

func (g gen) end() []byte {
	return []byte(rapid.SampledFrom([]string{"", "", "\x00", "a\x00\x01", "b", "\xff", "\xff\xff\xff"}).Draw(g.t, "end"))
}

func (g gen) value() []byte {
	return []byte(rapid.SampledFrom([]string{"", "x", "y", "zz"}).Draw(g.t, "value"))
}

func (g gen) few(name string) bool { return rapid.IntRange(0, 5).Draw(g.t, name) == 0 }

func (g gen) revision(name string) int64 {
	if !g.few(name) {
		return 0
	}
	return rapid.Int64Range(-1, g.rev+2).Draw(g.t, name+" at")
}

func (g gen) rangeReq() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: g.key(), RangeEnd: g.end(), Limit: rapid.Int64Range(0, 4).Draw(g.t, "limit"), Revision: g.revision("revision"),
		SortOrder:  rapid.SampledFrom([]pb.RangeRequest_SortOrder{0, 0, 1, 2}).Draw(g.t, "order"),
		SortTarget: rapid.SampledFrom([]pb.RangeRequest_SortTarget{0, 0, 1, 2, 3, 4}).Draw(g.t, "target"),
		KeysOnly:   g.few("keys only"), CountOnly: g.few("count only"),
		MinModRevision: g.revision("min mod"), MaxModRevision: g.revision("max mod"),
		MinCreateRevision: g.revision("min create"), MaxCreateRevision: g.revision("max create"),
	}
}

func (g gen) putReq() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: rapid.Bool().Draw(g.t, "prev"), IgnoreValue: g.few("ignore value"), IgnoreLease: g.few("ignore lease")}
	if g.few("lease") && g.few("a lease") {
		r.Lease = 5
	}
	return r
}

func (g gen) deleteReq() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: g.key(), RangeEnd: g.end(), PrevKv: rapid.Bool().Draw(g.t, "prev")}
}

func (g gen) compare() *pb.Compare {
	c := &pb.Compare{
		Key: g.key(), RangeEnd: g.end(),
		Result: pb.Compare_CompareResult(rapid.Int32Range(0, 3).Draw(g.t, "result")),
		Target: pb.Compare_CompareTarget(rapid.Int32Range(0, 4).Draw(g.t, "target")),
	}
	n := rapid.Int64Range(0, 4).Draw(g.t, "number")
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return c
}

func (g gen) branch(depth int) (ops []*pb.RequestOp) {
	for range rapid.IntRange(0, 3).Draw(g.t, "operations") {
		o := &pb.RequestOp{}
		switch rapid.IntRange(0, 2+depth).Draw(g.t, "kind") {
		case 0:
			o.Request = &pb.RequestOp_RequestRange{RequestRange: g.rangeReq()}
		case 1:
			o.Request = &pb.RequestOp_RequestPut{RequestPut: g.putReq()}
		case 2:
			o.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteReq()}
		default:
			o.Request = &pb.RequestOp_RequestTxn{RequestTxn: g.txnReq(depth - 1)}
		}
		ops = append(ops, o)
	}
	return ops
}

func (g gen) txnReq(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{Success: g.branch(depth), Failure: g.branch(depth)}
	for range rapid.IntRange(0, 2).Draw(g.t, "comparisons") {
		r.Compare = append(r.Compare, g.compare())
	}
	return r
}

// pair is the store under test beside the model.
type pair struct {
	fs    *vfs.MemFS
	s     *store.Store
	m     *model
	index uint64

	purged bool
	last   map[int64]bool // compact revisions whose PurgeLast was done
}

// same compares answers and refusals.
func same(t *rapid.T, what proto.Message, got proto.Message, err error, want proto.Message, werr error) {
	t.Helper()
	if err != nil || werr != nil {
		if err == nil || werr == nil || rpctypes.ErrorDesc(err) != werr.Error() {
			t.Fatalf("%v:\ngot error %v\nmodel %v", what, err, werr)
		}
		return
	}
	if !proto.Equal(got, want) {
		t.Fatalf("%v:\ngot   %v\nmodel %v", what, got, want)
	}
}

// entry carries out one writing request on both.
func entry[Req, Resp proto.Message](t *rapid.T, p *pair, req Req, do func(mvcc.Batch, Req) (Resp, error), try func(*attempt) (Resp, error)) {
	t.Helper()
	p.index++
	b := p.s.NewBatch()
	got, err := do(b, req)
	a := p.m.try()
	want, werr := try(a)
	same(t, req, got, err, want, werr)
	if err == nil {
		a.commit()
	} else if rerr := b.Rollback(); rerr != nil {
		t.Fatal(rerr)
	}
	if err := errors.Join(b.Commit(ident.Position{Term: 1, Index: p.index}), b.Close()); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) changes(t *rapid.T, from int64) {
	t.Helper()
	v := p.s.View()
	defer func() { _ = v.Close() }()
	var want []*mvccpb.Event
	for _, ev := range p.m.events {
		if ev.Kv.ModRevision < from {
			continue
		}
		ev = proto.CloneOf(ev)
		if ev.Kv.ModRevision <= p.m.compact {
			ev.PrevKv = nil
		}
		want = append(want, ev)
	}
	err := mvcc.Changes(context.Background(), v, from, true, func(ev *mvccpb.Event) error {
		if len(want) == 0 || !proto.Equal(ev, want[0]) {
			return fmt.Errorf("from %d: got %v, model %v", from, ev, want)
		}
		want = want[1:]
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Fatalf("from %d: %v, missing %v", from, err, want)
	}
}

// kept reads what is compacted as well: all of it, with what was before, or none.
func (p *pair) kept(t *rapid.T, from int64) {
	t.Helper()
	v := p.s.View()
	defer func() { _ = v.Close() }()
	only := []byte(rapid.SampledFrom(universe).Draw(t, "only"))
	var got, want []*mvccpb.Event
	for _, ev := range p.m.events {
		if ev.Kv.ModRevision >= from && string(ev.Kv.Key) >= string(only) {
			if p.last[ev.Kv.ModRevision] { // what it replaced may be gone
				ev = proto.CloneOf(ev)
				ev.PrevKv = nil
			}
			want = append(want, ev)
		}
	}
	at, err := mvcc.ReadHistory(context.Background(), v, mvcc.History{From: from, Kept: true,
		Want: func(_ int64, key []byte) (mvcc.Want, error) {
			if string(key) < string(only) {
				return mvcc.Nothing, nil
			}
			return mvcc.EventAndPrev, nil
		},
		Take: func(ev *mvccpb.Event) error { got = append(got, ev); return nil }})
	gone := errors.Is(err, rpctypes.ErrGRPCCompacted)
	switch {
	case at.Current != p.m.rev() || at.Compacted != p.m.compact:
		t.Fatalf("bounds %v, model %d and %d", at, p.m.rev(), p.m.compact)
	case gone && from < p.m.compact && (p.purged || from == 1):
		return // revision 1 is the empty store: nothing is kept of it
	case err != nil:
		t.Fatalf("kept from %d, compacted at %d: %v", from, at.Compacted, err)
	case !slices.EqualFunc(got, want, func(a, b *mvccpb.Event) bool { return proto.Equal(a, b) }):
		t.Fatalf("kept from %d: got %v, model %v", from, got, want)
	}
}

// TestAgainstModel compares every answer at every revision with the model,
// while history is purged, tables are flushed and the store is reopened.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pair{fs: vfs.NewMem(), m: newModel()}
		p.open(t)
		defer func() { _ = p.s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"put": p.put, "delete": p.delete, "txn": p.txn, "compact": p.compact, "purge": p.purge, "": p.check,
			"flush": func(t *rapid.T) { ok(t, p.s.Flush()) },
			"reopen": func(t *rapid.T) {
				ok(t, p.s.Close())
				p.open(t)
			},
		})
	})
}

func ok(t *rapid.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) open(t *rapid.T) {
	s, err := store.Open("state-1", store.Options{FS: p.fs, MemTableBytes: 256 << 10})
	ok(t, err)
	p.s = s
}

func (p *pair) gen(t *rapid.T) gen { return gen{t: t, rev: p.m.rev()} }

func (p *pair) put(t *rapid.T) {
	r := p.gen(t).putReq()
	entry(t, p, r, mvcc.Put, func(a *attempt) (*pb.PutResponse, error) {
		if err := p.m.checkPut(r); err != nil {
			return nil, err
		}
		if err := p.m.checkPutState(r); err != nil {
			return nil, err
		}
		return a.put(r), nil
	})
}

func (p *pair) delete(t *rapid.T) {
	r := p.gen(t).deleteReq()
	entry(t, p, r, mvcc.DeleteRange, func(a *attempt) (*pb.DeleteRangeResponse, error) {
		if len(r.Key) == 0 {
			return nil, errKey
		}
		return a.delete(r), nil
	})
}

func (p *pair) txn(t *rapid.T) {
	r := p.gen(t).txnReq(2)
	entry(t, p, r, mvcc.Txn, func(a *attempt) (*pb.TxnResponse, error) {
		twice := false
		if err := p.m.checkTxn(r, &twice); err != nil {
			return nil, err
		}
		if twice {
			return nil, errTwice
		}
		if err := p.m.path(r); err != nil {
			return nil, err
		}
		resp := a.txn(r)
		resp.Header.Revision = a.rev()
		return resp, nil
	})
}

func (p *pair) compact(t *rapid.T) {
	r := &pb.CompactionRequest{Revision: rapid.Int64Range(p.m.compact-1, p.m.rev()+1).Draw(t, "to")}
	entry(t, p, r, mvcc.Compact, func(*attempt) (*pb.CompactionResponse, error) {
		switch {
		case r.Revision <= p.m.compact:
			return nil, errOld
		case r.Revision > p.m.rev():
			return nil, errFuture
		}
		p.m.compact = r.Revision
		return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: p.m.rev()}}, nil
	})
}

func (p *pair) purge(t *rapid.T) {
	p.purged = true
	v, prune := p.s.View(), p.s.NewPrune()
	more, err := mvcc.Purge(v, prune, rapid.IntRange(1, 5).Draw(t, "rows"))
	ok(t, err, v.Close(), prune.Commit(), prune.Close())
	if more || !rapid.Bool().Draw(t, "last") {
		return
	}
	if p.last == nil {
		p.last = map[int64]bool{}
	}
	p.last[p.m.compact] = true
	var after []byte
	for done := false; !done; done = after == nil {
		v, prune := p.s.View(), p.s.NewPrune()
		after, err = mvcc.PurgeLast(v, prune, after, rapid.IntRange(1, 3).Draw(t, "last rows"))
		ok(t, err, v.Close(), prune.Commit(), prune.Close())
	}
}

// check runs after every action.
func (p *pair) check(t *rapid.T) {
	r := p.gen(t).rangeReq()
	v := p.s.View()
	got, err := mvcc.Range(context.Background(), v, r)
	want, werr := p.m.try().rangeKeys(r)
	same(t, r, got, err, want, werr)
	d, err := v.ScanDigest(context.Background())
	ok(t, err, v.Close())
	if d != p.s.Digest() {
		t.Fatalf("digest %x, scan %x", p.s.Digest(), d)
	}
	p.kept(t, rapid.Int64Range(1, p.m.rev()+1).Draw(t, "kept from"))
	p.changes(t, rapid.Int64Range(max(p.m.compact, 0), p.m.rev()+1).Draw(t, "from"))
}
