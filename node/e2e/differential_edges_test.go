//go:build e2e

package e2e

import (
	"bytes"
	"math"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// differentialEdges compares what is too large, too slow or too rare for random
// rounds.
func differentialEdges(t *testing.T, p pair) {
	value := func(size int) []byte { return bytes.Repeat([]byte("v"), size) }
	put := func(key string, size int) *pb.PutRequest { return &pb.PutRequest{Key: []byte(key), Value: value(size)} }
	putOp := func(key string, size int) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key, size)}}
	}
	nested := func(depth int) *pb.TxnRequest {
		q := &pb.TxnRequest{Success: []*pb.RequestOp{putOp("deep", 1)}}
		for range depth {
			q = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: q}}}}
		}
		return q
	}
	lease := func(id, ttl int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: ttl} }
	const limit = 3 << 19 // bytes of a request
	steps := []diffOp{
		{req: put("big", limit-1<<10)},
		{req: put("big", limit)},
		{req: put("big", limit+1<<10)},
		{req: put("big", limit+400<<10)},
		{req: put("big", limit+600<<10)},
		{req: &pb.TxnRequest{Success: []*pb.RequestOp{putOp("one", limit/2), putOp("two", limit/2)}}},
		{req: &pb.DeleteRangeRequest{Key: value(limit)}},
		{req: &pb.RangeRequest{Key: value(limit)}},
		{req: &pb.RangeRequest{Key: value(limit + 600<<10)}},
		{watch: &watchSpec{Key: "big/", End: "big0", PrevKV: true}},
		{watch: &watchSpec{Key: "big/", End: "big0", PrevKV: true, Fragments: true}},
		{req: put("big/1", 700<<10)},
		{req: put("big/2", 700<<10)},
		{req: put("big/1", 700<<10)},
		{req: &pb.TxnRequest{Success: []*pb.RequestOp{putOp("big/3", 500<<10), putOp("big/4", 500<<10)}}},
		{req: &pb.DeleteRangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0"), PrevKv: true}},
		{watch: &watchSpec{Key: "big/", End: "big0", PrevKV: true, Start: 6}},
		{watch: &watchSpec{Key: "big/", End: "big0", PrevKV: true, Start: 6, Fragments: true}},
		{watch: &watchSpec{Key: "b", End: "a"}},
		{watch: &watchSpec{Start: whenNegative}},
		{watch: &watchSpec{NoPut: true, NoDelete: true}},
		{req: nested(1)}, {req: nested(127)}, {req: nested(128)}, {req: nested(300)},
		{req: &pb.TxnRequest{}},
		{req: &pb.TxnRequest{Compare: []*pb.Compare{{}}}},
		{req: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), SortTarget: 9}}}}}},
		{req: &pb.RangeRequest{Key: everything, RangeEnd: everything, Limit: math.MaxInt64}},
		{req: &pb.RangeRequest{Key: everything, RangeEnd: everything, Limit: math.MinInt64}},
		{req: &pb.RangeRequest{Key: []byte("a"), Revision: whenNegative}},
		{req: lease(7, math.MinInt64)}, {req: &pb.LeaseRevokeRequest{ID: 7}},
		{req: lease(7, 0)}, {req: &pb.LeaseRevokeRequest{ID: 7}},
		{req: lease(7, 1)}, {req: &pb.LeaseRevokeRequest{ID: 7}},
		{req: lease(7, 9_000_000_000)}, {req: lease(7, 9_000_000_001)}, {req: lease(7, math.MaxInt64)}, {req: lease(7, 600)},
		{req: lease(math.MinInt64, 600)}, {req: lease(math.MaxInt64, 600)},
		{req: &pb.LeaseLeasesRequest{}},
		{req: &pb.CompactionRequest{}},
		{req: &pb.CompactionRequest{Revision: whenNegative}},
		{req: &pb.CompactionRequest{Revision: 1, Physical: true}},
		{req: &pb.CompactionRequest{Revision: 1, Physical: true}},
		{req: &pb.CompactionRequest{Revision: -1, Physical: true}},
	}
	d, r := p.run(t, steps)
	if d != "" {
		t.Fatal(r.report(d))
	}
	for _, side := range p.sides() { // or a step has shown nothing
		if a := side.ask(proto.Message(&pb.PutRequest{Key: []byte("big"), Value: value(limit)}), false); a.err == nil {
			t.Errorf("%s takes a request above the limit", side.name)
		}
	}
}
