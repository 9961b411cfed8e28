//go:build e2e

package e2e

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// diffOp is one step of a round. Revisions in it are symbolic (see when): a
// round that is run again, to make it smaller, begins at another revision.
type diffOp struct {
	req    proto.Message // nil when a watch is begun
	stream bool          // a range that is answered in pieces
	watch  *watchSpec
}

func (o diffOp) String() string {
	switch {
	case o.watch != nil:
		return fmt.Sprintf("watch %+v", *o.watch)
	case o.stream:
		return "stream " + show(o.req)
	}
	return show(o.req)
}

// GoString is how rapid tells of it.
func (o *diffOp) GoString() string {
	if o == nil {
		return "the end"
	}
	return o.String()
}

// show prints a message in one line.
func show(m proto.Message) string {
	if m == nil {
		return "nothing"
	}
	text := prototext.MarshalOptions{}.Format(m)
	if len(text) > 2000 {
		text = text[:2000] + "..."
	}
	return fmt.Sprintf("%s{%s}", m.ProtoReflect().Descriptor().Name(), strings.Join(strings.Fields(text), " "))
}

// when is a revision as an operation is drawn with it:
//
//	0            none given
//	1 to 99      the current one, and what was before it
//	-1 to -99    revisions that are not there yet
//	100 to 199   around the compacted one, which is 150
//	200          a negative one
type when = int64

const (
	whenCompacted when = 150
	whenNegative  when = 200
)

// at gives the revision that a when stands for.
func (r *round) at(w when) int64 {
	switch {
	case w == 0:
		return 0
	case w == whenNegative:
		return -1
	case w >= 100:
		return max(r.compacted+w-whenCompacted, 0)
	}
	return max(r.revision+1-w, 1)
}

// resolve is a request with the revisions that its symbols stand for now.
func (r *round) resolve(m proto.Message) proto.Message {
	m = proto.Clone(m)
	switch q := m.(type) {
	case *pb.RangeRequest:
		r.resolveRange(q)
	case *pb.TxnRequest:
		r.resolveTxn(q)
	case *pb.CompactionRequest:
		q.Revision = r.at(q.GetRevision())
	}
	return m
}

func (r *round) resolveRange(q *pb.RangeRequest) {
	for _, field := range []*int64{&q.Revision, &q.MinModRevision, &q.MaxModRevision, &q.MinCreateRevision, &q.MaxCreateRevision} {
		*field = r.at(*field)
	}
}

func (r *round) resolveTxn(q *pb.TxnRequest) {
	for _, c := range q.GetCompare() {
		switch u := c.GetTargetUnion().(type) {
		case *pb.Compare_ModRevision:
			u.ModRevision = r.at(u.ModRevision)
		case *pb.Compare_CreateRevision:
			u.CreateRevision = r.at(u.CreateRevision)
		}
	}
	for _, op := range append(append([]*pb.RequestOp(nil), q.GetSuccess()...), q.GetFailure()...) {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			r.resolveRange(o.RequestRange)
		case *pb.RequestOp_RequestTxn:
			r.resolveTxn(o.RequestTxn)
		}
	}
}

// The keys are few, so that operations meet: more than etcd sorts stably, with
// prefixes of each other, and the ends of the key space.
var differentialKeys = []string{"a", "a/", "a/1", "a/2", "a/2/3", "a0", "b", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "c", "c/1", "z",
	"\x00", "\x00\x01", "\xff", "\xff\xff"}

var differentialLeases = []int64{1, 1 << 62, -4}

// drawLeaseID is a lease that there may be, or one of those that there never are.
func drawLeaseID(t *rapid.T) int64 {
	if oneIn(t, 8) {
		return pick[int64](t, 0, 5)
	}
	return pick(t, differentialLeases...)
}

// oneIn is true once in n times; what fails is made smaller towards false.
func oneIn(t *rapid.T, n int) bool { return rapid.IntRange(0, n-1).Draw(t, "chance") == n-1 }

func pick[E any](t *rapid.T, of ...E) E { return rapid.SampledFrom(of).Draw(t, "choice") }

func drawKey(t *rapid.T) []byte {
	if oneIn(t, 80) {
		return nil
	}
	return []byte(pick(t, differentialKeys...))
}

// drawRange gives a key and an end, in every form that etcd knows.
func drawRange(t *rapid.T) (key, end []byte) {
	key = drawKey(t)
	switch rapid.IntRange(0, 9).Draw(t, "range") {
	case 0, 1, 2:
		return key, nil
	case 3, 4:
		return key, []byte(clientv3.GetPrefixRangeEnd(string(key)))
	case 5, 6:
		return []byte{0}, []byte{0}
	case 7:
		return key, []byte{0}
	}
	return key, drawKey(t)
}

func drawWhen(t *rapid.T) when {
	switch rapid.IntRange(0, 11).Draw(t, "when") {
	case 0, 1, 2, 3:
		return 0
	case 4, 5, 6, 7, 8:
		return int64(rapid.IntRange(1, 30).Draw(t, "back"))
	case 9:
		return whenCompacted + int64(rapid.IntRange(-2, 4).Draw(t, "around"))
	case 10:
		return -int64(rapid.IntRange(1, 3).Draw(t, "ahead"))
	}
	return pick(t, 1, whenCompacted, whenNegative)
}

// drawBack is a revision that most ranges can be read at.
func drawBack(t *rapid.T) when {
	if oneIn(t, 3) {
		return drawWhen(t)
	}
	return 0
}

func drawValue(t *rapid.T) []byte {
	if oneIn(t, 60) {
		return []byte(strings.Repeat("long ", 50))
	}
	return []byte(pick(t, "", "v", "w", "x", "vv", "\x00", "\xff"))
}

func drawLease(t *rapid.T) int64 {
	if oneIn(t, 4) {
		return drawLeaseID(t)
	}
	return 0
}

func drawPut(t *rapid.T) *pb.PutRequest {
	p := &pb.PutRequest{Key: drawKey(t), Value: drawValue(t), Lease: drawLease(t), PrevKv: oneIn(t, 3), IgnoreLease: oneIn(t, 12)}
	if oneIn(t, 12) {
		p.IgnoreValue = true
		if !oneIn(t, 4) {
			p.Value = nil
		}
	}
	if p.IgnoreLease && !oneIn(t, 4) {
		p.Lease = 0
	}
	return p
}

func drawDelete(t *rapid.T) *pb.DeleteRangeRequest {
	key, end := drawRange(t)
	if len(end) == 1 && end[0] == 0 && !oneIn(t, 4) {
		end = nil // or nothing would be left for the others
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: oneIn(t, 2)}
}

func drawRead(t *rapid.T) *pb.RangeRequest {
	q := &pb.RangeRequest{Revision: drawBack(t), Serializable: oneIn(t, 3), KeysOnly: oneIn(t, 6), CountOnly: oneIn(t, 12)}
	q.Key, q.RangeEnd = drawRange(t)
	if oneIn(t, 3) {
		q.Limit = int64(rapid.IntRange(-1, 15).Draw(t, "limit"))
	}
	if oneIn(t, 2) {
		q.SortOrder = pb.RangeRequest_SortOrder(rapid.IntRange(0, 2).Draw(t, "order"))
		q.SortTarget = pb.RangeRequest_SortTarget(rapid.IntRange(0, 4).Draw(t, "target"))
	}
	if oneIn(t, 4) {
		q.MinModRevision, q.MaxModRevision = drawBack(t), drawBack(t)
		q.MinCreateRevision, q.MaxCreateRevision = drawBack(t), drawBack(t)
	}
	if oneIn(t, 150) {
		q.SortOrder = 7
	}
	if oneIn(t, 150) {
		q.SortTarget = 7
	}
	return q
}

// watchSpec is a watch to begin.
type watchSpec struct {
	Key, End                           string
	Start                              when
	NoPut, NoDelete, PrevKV, Fragments bool
}

func drawWatch(t *rapid.T) *watchSpec {
	key, end := drawRange(t)
	w := &watchSpec{Key: string(key), End: string(end), Start: drawWhen(t), NoPut: oneIn(t, 5), NoDelete: oneIn(t, 5), PrevKV: oneIn(t, 2),
		Fragments: oneIn(t, 3)}
	if w.NoPut && w.NoDelete {
		w.Start = 0 // nothing tells that it has caught up, before a compaction
	}
	return w
}

// drawRound gives the operations of a round, a hundred or so, at most so many. Each
// is drawn in one piece with the word that the round goes on, so that rapid can
// leave any of them out.
func drawRound(t *rapid.T, most int) (ops []diffOp) {
	next := rapid.Custom(func(t *rapid.T) *diffOp {
		if oneIn(t, 60) {
			return nil
		}
		op := drawOperation(t)
		return &op
	})
	for len(ops) < most {
		op := next.Draw(t, "operation")
		if op == nil {
			break
		}
		ops = append(ops, *op)
	}
	return ops
}

// drawOperation gives one step; the first choices are those that a failure is
// made smaller towards.
func drawOperation(t *rapid.T) diffOp {
	// rapid prefers small numbers: they are spread over the kinds.
	switch n := rapid.IntRange(0, 99).Draw(t, "kind") * 37 % 100; {
	case n < 26:
		return diffOp{req: drawPut(t)}
	case n < 50:
		return diffOp{req: drawRead(t)}
	case n < 57:
		return diffOp{req: drawDelete(t)}
	case n < 75:
		return diffOp{req: drawTxn(t)}
	case n < 78:
		return diffOp{req: drawStreamed(t), stream: true}
	case n < 86:
		return diffOp{req: &pb.LeaseGrantRequest{ID: pick(t, differentialLeases...), TTL: pick[int64](t, 600, 3600, 9_000_000_000, 9_000_000_001)}}
	case n < 89:
		return diffOp{req: &pb.LeaseRevokeRequest{ID: drawLeaseID(t)}}
	case n < 90:
		return diffOp{req: &pb.LeaseKeepAliveRequest{ID: drawLeaseID(t)}}
	case n < 92:
		return diffOp{req: &pb.LeaseTimeToLiveRequest{ID: drawLeaseID(t), Keys: !oneIn(t, 4)}}
	case n < 94:
		return diffOp{req: &pb.LeaseLeasesRequest{}}
	case n < 97:
		return diffOp{watch: drawWatch(t)}
	}
	q := &pb.CompactionRequest{Revision: drawWhen(t), Physical: oneIn(t, 2)}
	if !oneIn(t, 4) {
		q.Revision = int64(rapid.IntRange(1, 20).Draw(t, "back"))
	}
	return diffOp{req: q}
}

// drawStreamed is a range that etcd answers in pieces. A target without an order
// is left out: etcd then orders each piece and goes on after the piece's last
// key in that order, so that keys are missing or come twice.
func drawStreamed(t *rapid.T) *pb.RangeRequest {
	q := drawRead(t)
	if q.SortOrder == pb.RangeRequest_NONE {
		q.SortTarget = pb.RangeRequest_KEY
	}
	if !oneIn(t, 4) {
		q.SortOrder, q.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
		q.MinModRevision, q.MaxModRevision, q.MinCreateRevision, q.MaxCreateRevision = 0, 0, 0, 0
	}
	return q
}
