package mvcc

import (
	"bytes"
	"cmp"
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/store"
)

// plan is a transaction with its branch chosen.
type plan struct {
	succeeded bool
	ops       []*etcdserverpb.RequestOp
	nested    []*plan // one for each transaction among ops, in order
}

// runTxn chooses the branches, refuses what can not be carried out, and only
// then writes. w is nil when nothing may be written.
func runTxn(ctx context.Context, r Reader, w *writer, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	p, err := choose(r, req)
	if err != nil {
		return nil, err
	}
	current, compacted, err := r.Revisions()
	if err != nil {
		return nil, err
	}
	if err := p.check(r, current, compacted); err != nil {
		return nil, err
	}
	resp, err := p.run(ctx, r, w)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = current
	if w != nil {
		resp.Header.Revision = w.revision()
	}
	return resp, nil
}

func choose(r Reader, req *etcdserverpb.TxnRequest) (*plan, error) {
	p := &plan{succeeded: true, ops: req.GetSuccess()}
	for _, c := range req.GetCompare() {
		ok, err := holds(r, c)
		if err != nil {
			return nil, err
		}
		if !ok {
			p.succeeded, p.ops = false, req.GetFailure()
			break
		}
	}
	for _, op := range p.ops {
		if o, ok := op.GetRequest().(*etcdserverpb.RequestOp_RequestTxn); ok {
			n, err := choose(r, o.RequestTxn)
			if err != nil {
				return nil, err
			}
			p.nested = append(p.nested, n)
		}
	}
	return p, nil
}

// check refuses, as etcd does before it writes anything: puts that need a
// lease or an older value that is not there, and ranges at revisions that can
// not be read.
func (p *plan) check(r Reader, current, compacted int64) error {
	nested := p.nested
	for _, op := range p.ops {
		var err error
		switch o := op.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			err = checkPutState(r, o.RequestPut)
		case *etcdserverpb.RequestOp_RequestRange:
			switch rev := o.RequestRange.GetRevision(); {
			case rev == 0:
			case rev > current:
				err = rpctypes.ErrGRPCFutureRev
			case rev < compacted:
				err = rpctypes.ErrGRPCCompacted
			}
		case *etcdserverpb.RequestOp_RequestTxn:
			err = nested[0].check(r, current, compacted)
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkLease refuses a put with a lease that does not exist.
func checkLease(r lease.Getter, req *etcdserverpb.PutRequest) error {
	if req.GetLease() == 0 {
		return nil
	}
	_, found, err := lease.Find(r, req.GetLease())
	if err == nil && !found {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return err
}

// checkPutState refuses a put for what is, or is not, there: the lease first,
// as etcd does.
func checkPutState(r Reader, req *etcdserverpb.PutRequest) error {
	if err := checkLease(r, req); err != nil {
		return err
	}
	if req.GetIgnoreValue() || req.GetIgnoreLease() {
		current, _, err := r.Revisions()
		if err != nil {
			return err
		}
		v, err := r.Version(store.MVCC, req.GetKey(), current)
		if err != nil {
			return err
		}
		if v.Revision == 0 || !v.Live {
			return rpctypes.ErrGRPCKeyNotFound
		}
	}
	return nil
}

func (p *plan) run(ctx context.Context, r Reader, w *writer) (*etcdserverpb.TxnResponse, error) {
	resp := &etcdserverpb.TxnResponse{
		Header:    &etcdserverpb.ResponseHeader{},
		Succeeded: p.succeeded,
		Responses: make([]*etcdserverpb.ResponseOp, 0, len(p.ops)),
	}
	nested := p.nested
	for _, op := range p.ops {
		var out etcdserverpb.ResponseOp
		switch o := op.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestRange:
			got, err := rangeAt(ctx, r, o.RequestRange)
			if err != nil {
				return nil, err
			}
			out.Response = &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: got}
		case *etcdserverpb.RequestOp_RequestPut:
			got, err := w.put(o.RequestPut)
			if err != nil {
				return nil, err
			}
			out.Response = &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: got}
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			got, err := w.deleteRange(o.RequestDeleteRange)
			if err != nil {
				return nil, err
			}
			out.Response = &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: got}
		case *etcdserverpb.RequestOp_RequestTxn:
			got, err := nested[0].run(ctx, r, w)
			if err != nil {
				return nil, err
			}
			nested = nested[1:]
			out.Response = &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: got}
		}
		resp.Responses = append(resp.Responses, &out)
	}
	return resp, nil
}

// holds evaluates one comparison: on every key of its range, or on a key with
// all revisions 0 when there is none. The value of no key equals nothing.
func holds(r Reader, c *etcdserverpb.Compare) (bool, error) {
	current, _, err := r.Revisions()
	if err != nil {
		return false, err
	}
	found, all := false, true
	err = visit(r, c.GetKey(), c.GetRangeEnd(), current, func(key []byte, v store.Version) error {
		rec, err := decodeRecord(v.Value)
		if err != nil {
			return damaged(key, err)
		}
		found = true
		if !compareRecord(c, rec, v.Revision) {
			all = false
			return store.ErrStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrStop) {
		return false, err
	}
	if !found {
		return c.GetTarget() != etcdserverpb.Compare_VALUE && compareRecord(c, record{}, 0), nil
	}
	return all, nil
}

func compareRecord(c *etcdserverpb.Compare, r record, mod int64) bool {
	var order int
	switch c.GetTarget() {
	case etcdserverpb.Compare_VERSION:
		order = cmp.Compare(r.version, c.GetVersion())
	case etcdserverpb.Compare_CREATE:
		order = cmp.Compare(r.create, c.GetCreateRevision())
	case etcdserverpb.Compare_MOD:
		order = cmp.Compare(mod, c.GetModRevision())
	case etcdserverpb.Compare_VALUE:
		order = bytes.Compare(r.value, c.GetValue())
	case etcdserverpb.Compare_LEASE:
		order = cmp.Compare(r.lease, c.GetLease())
	}
	switch c.GetResult() {
	case etcdserverpb.Compare_EQUAL:
		return order == 0
	case etcdserverpb.Compare_NOT_EQUAL:
		return order != 0
	case etcdserverpb.Compare_GREATER:
		return order > 0
	case etcdserverpb.Compare_LESS:
		return order < 0
	}
	return true
}
