//go:build e2e

package e2e

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"
)

// drawTxn gives a transaction that is not one of those that only we refuse.
func drawTxn(t *rapid.T) *pb.TxnRequest {
	if oneIn(t, 250) {
		return crowdedTxn(t)
	}
	return rapid.Custom(func(t *rapid.T) *pb.TxnRequest { return drawTxnOf(t, 0) }).Filter(func(q *pb.TxnRequest) bool {
		return !writesTwiceUnseen(q.GetSuccess()) && !writesTwiceUnseen(q.GetFailure())
	}).Draw(t, "txn")
}

func drawTxnOf(t *rapid.T, depth int) *pb.TxnRequest {
	q := &pb.TxnRequest{}
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		q.Compare = append(q.Compare, drawCompare(t))
	}
	q.Success, q.Failure = drawBranch(t, depth), drawBranch(t, depth)
	return q
}

func drawBranch(t *rapid.T, depth int) (ops []*pb.RequestOp) {
	for range rapid.IntRange(0, 4).Draw(t, "ops") {
		ops = append(ops, drawRequestOp(t, depth))
	}
	return ops
}

func drawRequestOp(t *rapid.T, depth int) *pb.RequestOp {
	switch n := rapid.IntRange(0, 11).Draw(t, "op"); {
	case n < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: drawPut(t)}}
	case n < 8:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: drawRead(t)}}
	case n < 10:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: drawDelete(t)}}
	case depth < 2:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: drawTxnOf(t, depth+1)}}
	case oneIn(t, 20):
		return &pb.RequestOp{} // etcd has an answer to an empty one too
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: drawRead(t)}}
}

func drawCompare(t *rapid.T) *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(rapid.IntRange(0, 3).Draw(t, "result")),
		Target: pb.Compare_CompareTarget(rapid.IntRange(0, 4).Draw(t, "target"))}
	c.Key, c.RangeEnd = drawRange(t)
	if oneIn(t, 2) {
		c.RangeEnd = nil
	}
	if oneIn(t, 30) {
		return c // nothing to compare with
	}
	switch c.GetTarget() {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(rapid.IntRange(0, 3).Draw(t, "version"))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: drawWhen(t)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: drawWhen(t)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: drawValue(t)}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: drawLease(t)}
	}
	return c
}

// crowdedTxn is one operation within the limit, at it, or above it, at the first
// level or the second.
func crowdedTxn(t *rapid.T) *pb.TxnRequest {
	branch := func(n int) (ops []*pb.RequestOp) {
		for i := range n {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "crowd/%d", i)}}})
		}
		return ops
	}
	q := &pb.TxnRequest{Success: branch(pick(t, 127, 128, 129))}
	if oneIn(t, 2) {
		q = &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: q}}}}
	}
	return q
}

// writesTwiceUnseen reports whether a branch is one of the two that etcd does
// not refuse though a key may be written twice (docs/etcd-compatibility.md,
// shown by internal/state/mvcc.TestScripts): a put beside a delete without an
// end, and a put in a nested transaction before a sibling that deletes the key.
func writesTwiceUnseen(branch []*pb.RequestOp) bool {
	var puts []string
	var dels []*pb.DeleteRangeRequest
	unseen := false
	for _, op := range branch {
		q := op.GetRequestTxn()
		if q == nil {
			continue
		}
		p, d := writesIn(q.GetSuccess())
		p2, d2 := writesIn(q.GetFailure())
		for _, del := range append(d, d2...) {
			unseen = unseen || meets(puts, del)
		}
		puts = append(append(puts, p...), p2...)
		unseen = unseen || writesTwiceUnseen(q.GetSuccess()) || writesTwiceUnseen(q.GetFailure())
	}
	puts, dels = writesIn(branch)
	for _, del := range dels {
		unseen = unseen || isOpen(del) && meets(puts, del)
	}
	return unseen
}

func writesIn(branch []*pb.RequestOp) (puts []string, dels []*pb.DeleteRangeRequest) {
	for _, op := range branch {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			puts = append(puts, string(o.RequestPut.GetKey()))
		case *pb.RequestOp_RequestDeleteRange:
			dels = append(dels, o.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			for _, nested := range [][]*pb.RequestOp{o.RequestTxn.GetSuccess(), o.RequestTxn.GetFailure()} {
				p, d := writesIn(nested)
				puts, dels = append(puts, p...), append(dels, d...)
			}
		}
	}
	return puts, dels
}

func isOpen(d *pb.DeleteRangeRequest) bool {
	return len(d.GetRangeEnd()) == 1 && d.GetRangeEnd()[0] == 0
}

func meets(puts []string, d *pb.DeleteRangeRequest) bool {
	for _, k := range puts {
		lo, hi := string(d.GetKey()), string(d.GetRangeEnd())
		switch {
		case hi == "" && k == lo, isOpen(d) && k >= lo, hi != "" && !isOpen(d) && lo <= k && k < hi:
			return true
		}
	}
	return false
}
