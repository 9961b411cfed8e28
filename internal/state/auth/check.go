package auth

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// KeysOf gives fn the keys attached to a lease until it has an error, which KeysOf
// returns; none when there is no such lease.
type KeysOf func(lease int64, fn func(key []byte) error) error

// CheckRange refuses a range that the client may not read.
func (r *Rules) CheckRange(c envelope.Client, req *pb.RangeRequest) error {
	return r.MayRead(c, req.GetKey(), req.GetRangeEnd())
}

// remembered is KeysOf that looks at each lease once, for one check of one client:
// what has been allowed is not looked at again, and a refusal is the last question.
// A transaction may put tens of thousands of keys to one lease that has as many.
func (keys KeysOf) remembered() KeysOf {
	var seen map[int64]bool
	return func(lease int64, fn func(key []byte) error) error {
		if seen[lease] {
			return nil
		}
		if seen == nil {
			seen = map[int64]bool{}
		}
		seen[lease] = true
		return keys(lease, fn)
	}
}

// CheckPut refuses a put of a key that the client may not write, or read when it
// wants the older value, and one to a lease that it could not revoke.
func (r *Rules) CheckPut(c envelope.Client, req *pb.PutRequest, keys KeysOf) error {
	if err := r.MayWrite(c, req.GetKey(), nil); err != nil {
		return err
	}
	if req.GetLease() != 0 {
		if err := r.CheckLease(c, req.GetLease(), keys); err != nil {
			return err
		}
	}
	if req.GetPrevKv() {
		return r.MayRead(c, req.GetKey(), nil)
	}
	return nil
}

// CheckDeleteRange refuses a delete of keys that the client may not write, or read
// when it wants the older values.
func (r *Rules) CheckDeleteRange(c envelope.Client, req *pb.DeleteRangeRequest, _ KeysOf) error {
	if err := r.MayWrite(c, req.GetKey(), req.GetRangeEnd()); err != nil {
		return err
	}
	if req.GetPrevKv() {
		return r.MayRead(c, req.GetKey(), req.GetRangeEnd())
	}
	return nil
}

// CheckTxn refuses a transaction of which the client may not do everything, in
// whichever branch. A comparison reads.
func (r *Rules) CheckTxn(c envelope.Client, req *pb.TxnRequest, keys KeysOf) error {
	return r.checkTxn(c, req, keys.remembered())
}

func (r *Rules) checkTxn(c envelope.Client, req *pb.TxnRequest, keys KeysOf) error {
	for _, cmp := range req.GetCompare() {
		if err := r.MayRead(c, cmp.GetKey(), cmp.GetRangeEnd()); err != nil {
			return err
		}
	}
	for _, branch := range [][]*pb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range branch {
			var err error
			switch o := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
				err = r.CheckRange(c, o.RequestRange)
			case *pb.RequestOp_RequestPut:
				err = r.CheckPut(c, o.RequestPut, keys)
			case *pb.RequestOp_RequestDeleteRange:
				err = r.CheckDeleteRange(c, o.RequestDeleteRange, keys)
			case *pb.RequestOp_RequestTxn:
				err = r.checkTxn(c, o.RequestTxn, keys)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckLease refuses a client that may not write every key of a lease: it must
// not delete them by revoking it, nor keep them by renewing it.
func (r *Rules) CheckLease(c envelope.Client, id int64, keys KeysOf) error {
	return r.eachKey(c, id, keys, r.MayWrite)
}

// CheckLeaseKeys refuses a client that may not read every key of a lease.
func (r *Rules) CheckLeaseKeys(c envelope.Client, id int64, keys KeysOf) error {
	return r.eachKey(c, id, keys, r.MayRead)
}

func (r *Rules) eachKey(c envelope.Client, id int64, keys KeysOf, may func(c envelope.Client, key, end []byte) error) error {
	if r.Admin(c) == nil {
		return nil // most often: nothing is asked, or root asks
	}
	return keys(id, func(key []byte) error { return may(c, key, nil) })
}
