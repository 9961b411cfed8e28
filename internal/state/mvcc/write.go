package mvcc

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/store"
)

// Batch is what writes need: the store.Batch of an entry.
type Batch interface {
	Reader
	lease.Writer
	SetVersion(key []byte, v, old store.Version) error
	SetRevision(rev int64)
	SetCompactRevision(rev int64)
}

var _ Batch = (*store.Batch)(nil)

// writer gives the writes of one entry their revisions.
type writer struct {
	b     Batch
	begin int64 // current revision before the entry
	subs  uint32
}

func newWriter(b Batch) (*writer, error) {
	current, _, err := b.Revisions()
	return &writer{b: b, begin: current}, err
}

// set writes one version; live nil is a tombstone.
func (w *writer) set(key []byte, live *record, old store.Version) error {
	v := store.Version{Revision: w.begin + 1}
	if live != nil {
		v.Live, v.Value = true, live.encode()
	}
	if err := w.b.Set(store.Revisions, revisionKey(v.Revision, w.subs), key); err != nil {
		return err
	}
	if w.subs == 0 {
		w.b.SetRevision(v.Revision)
	}
	w.subs++
	return w.b.SetVersion(key, v, old)
}

// revision is what a response header says after the writes so far.
func (w *writer) revision() int64 {
	if w.subs > 0 {
		return w.begin + 1
	}
	return w.begin
}

// Put carries out a put request.
func Put(b Batch, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := CheckPut(req); err != nil {
		return nil, err
	}
	w, err := newWriter(b)
	if err != nil {
		return nil, err
	}
	return w.put(req)
}

func (w *writer) put(req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := checkLease(w.b, req); err != nil {
		return nil, err
	}
	old, err := w.b.Version(store.MVCC, req.GetKey(), w.begin+1)
	if err != nil {
		return nil, err
	}
	next := record{create: w.begin + 1, version: 1, lease: req.GetLease(), value: req.GetValue()}
	resp := &etcdserverpb.PutResponse{}
	was := int64(0)
	switch {
	case old.Revision != 0 && old.Live:
		r, err := decodeRecord(old.Value)
		if err != nil {
			return nil, damaged(req.GetKey(), err)
		}
		next.create, next.version, was = r.create, r.version+1, r.lease
		if req.GetIgnoreValue() {
			next.value = r.value
		}
		if req.GetIgnoreLease() {
			next.lease = r.lease
		}
		if req.GetPrevKv() {
			if resp.PrevKv, err = keyValue(req.GetKey(), old, true); err != nil {
				return nil, err
			}
		}
	case req.GetIgnoreValue() || req.GetIgnoreLease():
		return nil, rpctypes.ErrGRPCKeyNotFound
	}
	if err := w.set(req.GetKey(), &next, old); err != nil {
		return nil, err
	}
	// After the last use of old, which lasts until the next read only.
	if err := lease.Move(w.b, was, next.lease, req.GetKey()); err != nil {
		return nil, err
	}
	resp.Header = &etcdserverpb.ResponseHeader{Revision: w.revision()}
	return resp, nil
}

// DeleteRange carries out a delete request.
func DeleteRange(b Batch, req *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	if err := CheckDeleteRange(req); err != nil {
		return nil, err
	}
	w, err := newWriter(b)
	if err != nil {
		return nil, err
	}
	return w.deleteRange(req)
}

func (w *writer) deleteRange(req *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	resp := &etcdserverpb.DeleteRangeResponse{}
	err := visit(w.b, req.GetKey(), req.GetRangeEnd(), w.begin+1, func(key []byte, v store.Version) error {
		if req.GetPrevKv() {
			kv, err := keyValue(key, v, true)
			if err != nil {
				return err
			}
			resp.PrevKvs = append(resp.PrevKvs, kv)
		}
		resp.Deleted++
		return w.delete(key, v)
	})
	if err != nil {
		return nil, err
	}
	resp.Header = &etcdserverpb.ResponseHeader{Revision: w.revision()}
	return resp, nil
}

// delete writes the tombstone of a live version, which ends its hold on a lease.
func (w *writer) delete(key []byte, live store.Version) error {
	r, err := decodeRecord(live.Value)
	if err != nil {
		return damaged(key, err)
	}
	if err := w.set(key, nil, live); err != nil {
		return err
	}
	return lease.Move(w.b, r.lease, 0, key) // after the last use of live, which lasts until the next read only
}

// DeleteKeys deletes the keys of a lease that ends, in the order given and in
// one revision.
func DeleteKeys(b Batch, keys [][]byte) error {
	w, err := newWriter(b)
	if err != nil {
		return err
	}
	for _, key := range keys {
		v, err := b.Version(store.MVCC, key, w.begin+1)
		if err != nil {
			return err
		}
		if v.Revision == 0 || !v.Live {
			return damaged(key, errors.New("it is attached to a lease and does not exist"))
		}
		if err := w.delete(key, v); err != nil {
			return err
		}
	}
	return nil
}

// Compact makes every revision before the given one unreadable. The current
// revision may be compacted; one that is compacted already may not.
func Compact(b Batch, req *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	current, compacted, err := b.Revisions()
	switch {
	case err != nil:
		return nil, err
	case req.GetRevision() <= compacted:
		return nil, rpctypes.ErrGRPCCompacted
	case req.GetRevision() > current:
		return nil, rpctypes.ErrGRPCFutureRev
	}
	b.SetCompactRevision(req.GetRevision())
	return &etcdserverpb.CompactionResponse{Header: &etcdserverpb.ResponseHeader{Revision: current}}, nil
}

// Txn carries out a transaction. All comparisons, those of nested
// transactions too, are of the state before it.
func Txn(b Batch, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := CheckTxn(req, MaxTxnOps); err != nil {
		return nil, err
	}
	w, err := newWriter(b)
	if err != nil {
		return nil, err
	}
	return runTxn(context.Background(), b, w, req)
}

// TxnRead carries out a transaction that writes nothing.
func TxnRead(ctx context.Context, r Reader, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := CheckTxn(req, MaxTxnOps); err != nil {
		return nil, err
	}
	if !IsReadOnly(req) {
		return nil, fault.Newf(fault.Usage, "read transaction", "it writes")
	}
	return runTxn(ctx, r, nil, req)
}
