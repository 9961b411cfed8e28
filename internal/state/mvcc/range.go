package mvcc

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/store"
)

// Reader is what reads need: a store.View, or the store.Batch of an entry.
type Reader interface {
	Get(t store.Table, key []byte) ([]byte, error)
	Version(t store.Table, key []byte, rev int64) (store.Version, error)
	ScanVersions(t store.Table, lo, hi []byte, rev int64, fn func(key []byte, v store.Version) error) error
	Revisions() (current, compacted int64, err error)
}

// Range answers a range request as etcd does. Count is that of all keys in the
// range at the revision, whatever Limit and the revision filters leave out.
func Range(ctx context.Context, r Reader, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := CheckRange(req); err != nil {
		return nil, err
	}
	return rangeAt(ctx, r, req)
}

// readRevision resolves a requested revision.
func readRevision(r Reader, rev int64) (at, current int64, err error) {
	current, compacted, err := r.Revisions()
	switch {
	case err != nil:
		return 0, 0, err
	case rev > current:
		return 0, current, rpctypes.ErrGRPCFutureRev
	case rev <= 0:
		return current, current, nil
	case rev < compacted:
		return 0, current, rpctypes.ErrGRPCCompacted
	}
	return rev, current, nil
}

func rangeAt(ctx context.Context, r Reader, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	rev, current, err := readRevision(r, req.GetRevision())
	if err != nil {
		return nil, err
	}
	c := collector{ctx: ctx, req: req, limit: fetchLimit(req)}
	if err := visit(r, req.GetKey(), req.GetRangeEnd(), rev, c.add); err != nil {
		return nil, err
	}
	resp := &etcdserverpb.RangeResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: current},
		Count:  c.count,
	}
	sortKVs(c.kvs, req)
	if n := req.GetLimit(); n > 0 && int64(len(c.kvs)) > n {
		c.kvs = c.kvs[:n]
		resp.More = true
	}
	if req.GetKeysOnly() {
		for _, kv := range c.kvs {
			kv.Value = nil
		}
	}
	resp.Kvs = c.kvs
	return resp, nil
}

// visit gives the live keys of etcd's (key, end) at rev, in order.
func visit(r Reader, key, end []byte, rev int64, fn func(key []byte, v store.Version) error) error {
	if len(end) == 0 {
		v, err := r.Version(store.MVCC, key, rev)
		if err != nil || v.Revision == 0 || !v.Live {
			return err
		}
		return fn(key, v)
	}
	s := spanOf(key, end)
	if s.hi != nil && bytes.Compare(s.lo, s.hi) >= 0 {
		return nil
	}
	return r.ScanVersions(store.MVCC, s.lo, s.hi, rev, fn)
}

// fetchLimit is the number of keys to collect, 0 for all. With an order or a
// filter the limit applies to what these leave, so all are needed; else one
// more than asked for shows that there is more.
func fetchLimit(req *etcdserverpb.RangeRequest) int64 {
	if req.GetSortOrder() != etcdserverpb.RangeRequest_NONE || filtered(req) || req.GetLimit() <= 0 {
		return 0
	}
	if req.GetLimit() == 1<<63-1 {
		return 0
	}
	return req.GetLimit() + 1
}

func filtered(req *etcdserverpb.RangeRequest) bool {
	return req.GetMinModRevision() != 0 || req.GetMaxModRevision() != 0 ||
		req.GetMinCreateRevision() != 0 || req.GetMaxCreateRevision() != 0
}

// checkEvery is the number of keys between looks at the context.
const checkEvery = 1024

// collector gathers the answer of one range.
type collector struct {
	ctx   context.Context
	req   *etcdserverpb.RangeRequest
	limit int64
	count int64
	kvs   []*mvccpb.KeyValue
}

func (c *collector) add(key []byte, v store.Version) error {
	if c.count++; c.count%checkEvery == 0 && c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	if c.req.GetCountOnly() || c.limit > 0 && int64(len(c.kvs)) >= c.limit {
		return nil
	}
	withValue := !c.req.GetKeysOnly() || c.req.GetSortTarget() == etcdserverpb.RangeRequest_VALUE
	kv, err := keyValue(key, v, withValue)
	if err != nil || !c.wanted(kv) {
		return err
	}
	c.kvs = append(c.kvs, kv)
	return nil
}

func (c *collector) wanted(kv *mvccpb.KeyValue) bool {
	outside := func(rev, lo, hi int64) bool { return lo != 0 && rev < lo || hi != 0 && rev > hi }
	return !outside(kv.ModRevision, c.req.GetMinModRevision(), c.req.GetMaxModRevision()) &&
		!outside(kv.CreateRevision, c.req.GetMinCreateRevision(), c.req.GetMaxCreateRevision())
}

// sortKVs orders what was fetched. Ties stay in key order, so that all members
// answer alike. A target without an order means ascending, after the limit:
// etcd's way.
func sortKVs(kvs []*mvccpb.KeyValue, req *etcdserverpb.RangeRequest) {
	target, order := req.GetSortTarget(), req.GetSortOrder()
	if order == etcdserverpb.RangeRequest_NONE && target != etcdserverpb.RangeRequest_KEY {
		order = etcdserverpb.RangeRequest_ASCEND
	}
	if order == etcdserverpb.RangeRequest_NONE || order == etcdserverpb.RangeRequest_ASCEND && target == etcdserverpb.RangeRequest_KEY {
		return
	}
	by := map[etcdserverpb.RangeRequest_SortTarget]func(a, b *mvccpb.KeyValue) int{
		etcdserverpb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) },
		etcdserverpb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) },
		etcdserverpb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) },
		etcdserverpb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) },
		etcdserverpb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) },
	}[target]
	if order == etcdserverpb.RangeRequest_DESCEND {
		slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int { return by(b, a) })
		return
	}
	slices.SortStableFunc(kvs, by)
}
