//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// reply is what one side said to a request.
type reply struct {
	resp proto.Message
	err  error
}

func (a reply) String() string {
	if a.err != nil {
		st := status.Convert(a.err)
		return fmt.Sprintf("%s: %s", st.Code(), st.Message())
	}
	return show(a.resp)
}

// differ compares the answers to one request and gives "" when they are alike.
// Errors are alike when code and message are. Of a response everything counts
// but what is left out here, because it must differ or may:
//
//   - cluster ID, member ID and Raft term of the response's own header: two
//     clusters have two of them. The headers inside a transaction's answer have
//     none, and count.
//   - the time left of a lease, as long as it is one that a clock can have come to
//     since the lease was granted: the sides are asked at different moments.
//   - the order of a lease's keys, and of a list of leases: etcd keeps both in
//     maps (docs/etcd-compatibility.md).
//   - the order of keys among equals in a sorted range of more than twelve keys:
//     etcd's sort is not stable there, ours always is (docs/etcd-compatibility.md).
func differ(req proto.Message, etcd, ours reply) string {
	if etcd.err != nil || ours.err != nil {
		a, b := status.Convert(etcd.err), status.Convert(ours.err)
		if a.Code() == b.Code() && a.Message() == b.Message() {
			return ""
		}
	} else if proto.Equal(normal(req, etcd.resp), normal(req, ours.resp)) {
		return ""
	}
	return fmt.Sprintf("%s\netcd: %s\nours: %s", show(req), etcd, ours)
}

// normal is a copy of a response without what may differ.
func normal(req, resp proto.Message) proto.Message {
	resp = proto.Clone(resp)
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		h.GetHeader().ClusterId, h.GetHeader().MemberId, h.GetHeader().RaftTerm = 0, 0, 0
	}
	switch m := resp.(type) {
	case *pb.RangeResponse:
		if q, ok := req.(*pb.RangeRequest); ok {
			untie(q, m)
		}
	case *pb.TxnResponse:
		if q, ok := req.(*pb.TxnRequest); ok {
			untieTxn(q, m)
		}
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(m.Keys, bytes.Compare)
		if m.GetTTL() > m.GetGrantedTTL()-leasePatience && m.GetTTL() <= m.GetGrantedTTL() {
			m.TTL = m.GetGrantedTTL()
		}
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(m.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.GetID(), b.GetID()) })
	}
	return resp
}

// leasePatience is how many seconds a round may take, at most: the time that
// can have gone from a lease.
const leasePatience = 300

func untieTxn(q *pb.TxnRequest, m *pb.TxnResponse) {
	ops := q.GetFailure()
	if m.GetSucceeded() {
		ops = q.GetSuccess()
	}
	for i, out := range m.GetResponses() {
		if i >= len(ops) {
			return // the comparison will say so
		}
		if r := out.GetResponseRange(); r != nil && ops[i].GetRequestRange() != nil {
			untie(ops[i].GetRequestRange(), r)
		}
		if r := out.GetResponseTxn(); r != nil && ops[i].GetRequestTxn() != nil {
			untieTxn(ops[i].GetRequestTxn(), r)
		}
	}
}

// stableUpTo is the length up to which sort.Sort keeps the order of equals.
const stableUpTo = 12

// untie puts keys that a sort did not tell apart into their own order. Where the
// limit cut through such keys, which of them are in the answer may differ too:
// there only what they were sorted by counts.
func untie(q *pb.RangeRequest, m *pb.RangeResponse) {
	by := sortedBy(q)
	kvs := m.GetKvs()
	if by == nil || m.GetCount() <= stableUpTo {
		return
	}
	for from := 0; from < len(kvs); {
		to := from + 1
		for to < len(kvs) && by(kvs[from], kvs[to]) == 0 {
			to++
		}
		slices.SortFunc(kvs[from:to], func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.GetKey(), b.GetKey()) })
		if to == len(kvs) && m.GetMore() {
			for i, kv := range kvs[from:to] {
				kvs[from+i] = only(q.GetSortTarget(), kv)
			}
		}
		from = to
	}
}

// only is a key with nothing but what it was sorted by.
func only(target pb.RangeRequest_SortTarget, kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	switch target {
	case pb.RangeRequest_VERSION:
		return &mvccpb.KeyValue{Version: kv.GetVersion()}
	case pb.RangeRequest_CREATE:
		return &mvccpb.KeyValue{CreateRevision: kv.GetCreateRevision()}
	case pb.RangeRequest_MOD:
		return &mvccpb.KeyValue{ModRevision: kv.GetModRevision()}
	}
	return &mvccpb.KeyValue{Value: kv.GetValue()}
}

// sortedBy compares two keys as a range sorts them; nil when it does not, or by
// the key, or by values that the answer does not tell.
func sortedBy(q *pb.RangeRequest) func(a, b *mvccpb.KeyValue) int {
	switch q.GetSortTarget() {
	case pb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.GetVersion(), b.GetVersion()) }
	case pb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.GetCreateRevision(), b.GetCreateRevision()) }
	case pb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.GetModRevision(), b.GetModRevision()) }
	case pb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.GetValue(), b.GetValue()) }
	}
	return nil
}

// heard is what a watch has brought until some revision.
type heard struct {
	events []*mvccpb.Event
	end    string // "" while it goes on
}

// differWatch compares the events of a watch and how it ended. How they were
// spread over responses is not compared: that depends on the moment at which the
// sides look (docs/etcd-compatibility.md).
func differWatch(spec string, etcd, ours heard) string {
	for i := range max(len(etcd.events), len(ours.events)) {
		var a, b *mvccpb.Event
		if i < len(etcd.events) {
			a = etcd.events[i]
		}
		if i < len(ours.events) {
			b = ours.events[i]
		}
		if !proto.Equal(a, b) {
			return fmt.Sprintf("%s, event %d\netcd: %s\nours: %s", spec, i, showEvent(a), showEvent(b))
		}
	}
	if etcd.end != ours.end {
		return fmt.Sprintf("%s, its end\netcd: %q\nours: %q", spec, etcd.end, ours.end)
	}
	return ""
}

func showEvent(e *mvccpb.Event) string {
	if e == nil {
		return "no event"
	}
	return show(e)
}
