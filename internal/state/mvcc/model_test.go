package mvcc_test

import (
	"bytes"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// model is a second, dumb implementation: a whole copy of the keys for every
// revision, loops instead of indexes. It uses nothing of package mvcc.
type model struct {
	states  []map[string]*mvccpb.KeyValue // by revision
	events  []*mvccpb.Event
	compact int64
}

func newModel() *model {
	empty := map[string]*mvccpb.KeyValue{}
	return &model{states: []map[string]*mvccpb.KeyValue{empty, empty}, compact: -1}
}

func (m *model) rev() int64 { return int64(len(m.states) - 1) }

// modelErr is the description of the error that etcd gives.
type modelErr string

func (e modelErr) Error() string { return string(e) }

const (
	errKey     modelErr = "etcdserver: key is not provided"
	errMissing modelErr = "etcdserver: key not found"
	errValue   modelErr = "etcdserver: value is provided"
	errLease   modelErr = "etcdserver: lease is provided"
	errNoLease modelErr = "etcdserver: requested lease not found"
	errOld     modelErr = "etcdserver: mvcc: required revision has been compacted"
	errFuture  modelErr = "etcdserver: mvcc: required revision is a future revision"
	errTwice   modelErr = "etcdserver: duplicate key given in txn request"
)

// inRange is etcd's rule for key and range_end.
func inRange(k string, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return k == string(key)
	case string(end) == "\x00":
		return k >= string(key)
	}
	return k >= string(key) && k < string(end)
}

// attempt is one entry being tried: the keys as they become.
type attempt struct {
	m      *model
	keys   map[string]*mvccpb.KeyValue
	events []*mvccpb.Event
}

func (m *model) try() *attempt {
	a := &attempt{m: m, keys: map[string]*mvccpb.KeyValue{}}
	for k, v := range m.states[m.rev()] {
		a.keys[k] = v
	}
	return a
}

func (a *attempt) commit() {
	if len(a.events) > 0 {
		a.m.states = append(a.m.states, a.keys)
		a.m.events = append(a.m.events, a.events...)
	}
}

func (a *attempt) rev() int64 {
	if len(a.events) > 0 {
		return a.m.rev() + 1
	}
	return a.m.rev()
}

func (a *attempt) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: a.rev()} }

func (a *attempt) rangeKeys(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, errKey
	}
	keys := a.keys
	switch {
	case r.Revision > a.rev():
		return nil, errFuture
	case r.Revision > 0 && r.Revision < a.m.compact:
		return nil, errOld
	case r.Revision > 0 && r.Revision <= a.m.rev():
		keys = a.m.states[r.Revision]
	}
	resp := &pb.RangeResponse{Header: a.header()}
	var all []*mvccpb.KeyValue
	for k, kv := range keys {
		if inRange(k, r.Key, r.RangeEnd) {
			all = append(all, proto.CloneOf(kv))
		}
	}
	resp.Count = int64(len(all))
	if r.CountOnly {
		return resp, nil
	}
	sort.Slice(all, func(i, j int) bool { return bytes.Compare(all[i].Key, all[j].Key) < 0 })
	cut := func() {
		if r.Limit > 0 && int64(len(all)) > r.Limit {
			all, resp.More = all[:r.Limit], true
		}
	}
	var kept []*mvccpb.KeyValue
	for _, kv := range all {
		if (r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) && (r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
			(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision) && (r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) {
			kept = append(kept, kv)
		}
	}
	all = kept
	unfiltered := r.MinModRevision == 0 && r.MaxModRevision == 0 && r.MinCreateRevision == 0 && r.MaxCreateRevision == 0
	if r.SortOrder == pb.RangeRequest_NONE && unfiltered && r.Limit > 0 && int64(len(all)) > r.Limit+1 {
		all = all[:r.Limit+1] // etcd fetches one more than the limit, then sorts
	}
	a.sort(all, r)
	cut()
	if r.KeysOnly {
		for _, kv := range all {
			kv.Value = nil
		}
	}
	resp.Kvs = all
	return resp, nil
}

func (a *attempt) sort(all []*mvccpb.KeyValue, r *pb.RangeRequest) {
	less := func(x, y *mvccpb.KeyValue) bool {
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return x.Version < y.Version
		case pb.RangeRequest_CREATE:
			return x.CreateRevision < y.CreateRevision
		case pb.RangeRequest_MOD:
			return x.ModRevision < y.ModRevision
		case pb.RangeRequest_VALUE:
			return bytes.Compare(x.Value, y.Value) < 0
		}
		return bytes.Compare(x.Key, y.Key) < 0
	}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		sort.SliceStable(all, func(i, j int) bool { return less(all[j], all[i]) })
		return
	}
	sort.SliceStable(all, func(i, j int) bool { return less(all[i], all[j]) })
}

func (m *model) checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return errKey
	case r.IgnoreValue && len(r.Value) > 0:
		return errValue
	case r.IgnoreLease && r.Lease != 0:
		return errLease
	}
	return nil
}

// checkPutState knows no lease: those are in the model of package state.
func (m *model) checkPutState(r *pb.PutRequest) error {
	if r.Lease != 0 {
		return errNoLease
	}
	if (r.IgnoreValue || r.IgnoreLease) && m.states[m.rev()][string(r.Key)] == nil {
		return errMissing
	}
	return nil
}

func (a *attempt) put(r *pb.PutRequest) *pb.PutResponse {
	rev := a.m.rev() + 1
	old := a.keys[string(r.Key)]
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: rev, ModRevision: rev, Version: 1}
	if len(kv.Value) == 0 {
		kv.Value = nil
	}
	resp := &pb.PutResponse{}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if r.IgnoreValue {
			kv.Value = old.Value
		}
		if r.PrevKv {
			resp.PrevKv = old
		}
	}
	a.keys[string(r.Key)] = kv
	a.events = append(a.events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: old})
	resp.Header = a.header()
	return resp
}

func (a *attempt) delete(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	var hit []string
	for k := range a.keys {
		if inRange(k, r.Key, r.RangeEnd) {
			hit = append(hit, k)
		}
	}
	sort.Strings(hit)
	for _, k := range hit {
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, a.keys[k])
		}
		a.events = append(a.events, &mvccpb.Event{
			Type: mvccpb.Event_DELETE, PrevKv: a.keys[k],
			Kv: &mvccpb.KeyValue{Key: []byte(k), ModRevision: a.m.rev() + 1},
		})
		delete(a.keys, k)
		resp.Deleted++
	}
	resp.Header = a.header()
	return resp
}

func (m *model) holds(c *pb.Compare) bool {
	any := false
	for k, kv := range m.states[m.rev()] {
		if inRange(k, c.Key, c.RangeEnd) {
			any = true
			if !compare(c, kv) {
				return false
			}
		}
	}
	return any || c.Target != pb.Compare_VALUE && compare(c, &mvccpb.KeyValue{})
}

func compare(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	d := map[pb.Compare_CompareTarget]int64{
		pb.Compare_VERSION: kv.Version - c.GetVersion(), pb.Compare_CREATE: kv.CreateRevision - c.GetCreateRevision(),
		pb.Compare_MOD: kv.ModRevision - c.GetModRevision(), pb.Compare_LEASE: -c.GetLease(),
		pb.Compare_VALUE: int64(bytes.Compare(kv.Value, c.GetValue())),
	}[c.Target]
	return map[pb.Compare_CompareResult]bool{pb.Compare_EQUAL: d == 0, pb.Compare_NOT_EQUAL: d != 0, pb.Compare_GREATER: d > 0, pb.Compare_LESS: d < 0}[c.Result]
}

// touched are the keys of the universe that an operation may put and delete.
func touched(o *pb.RequestOp) (puts, dels map[string]bool) {
	puts, dels = map[string]bool{}, map[string]bool{}
	switch o := o.Request.(type) {
	case *pb.RequestOp_RequestPut:
		puts[string(o.RequestPut.Key)] = true
	case *pb.RequestOp_RequestDeleteRange:
		for _, k := range universe {
			dels[k] = inRange(k, o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
		}
	case *pb.RequestOp_RequestTxn:
		for _, n := range append(append([]*pb.RequestOp(nil), o.RequestTxn.Success...), o.RequestTxn.Failure...) {
			p, d := touched(n)
			for _, k := range universe {
				puts[k], dels[k] = puts[k] || p[k], dels[k] || d[k]
			}
		}
	}
	return puts, dels
}

// checkTxn looks at every pair of operations of every branch.
func (m *model) checkTxn(r *pb.TxnRequest, twice *bool) error {
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return errKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for i, o := range branch {
			var err error
			switch o := o.Request.(type) {
			case *pb.RequestOp_RequestRange:
				if len(o.RequestRange.Key) == 0 {
					err = errKey
				}
			case *pb.RequestOp_RequestPut:
				err = m.checkPut(o.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				if len(o.RequestDeleteRange.Key) == 0 {
					err = errKey
				}
			case *pb.RequestOp_RequestTxn:
				err = m.checkTxn(o.RequestTxn, twice)
			}
			if err != nil {
				return err
			}
			p, d := touched(o)
			for _, earlier := range branch[:i] {
				ep, ed := touched(earlier)
				for _, k := range universe {
					*twice = *twice || p[k] && (ep[k] || ed[k]) || d[k] && ep[k]
				}
			}
		}
	}
	return nil
}

// path refuses the taken branches as etcd does before it writes.
func (m *model) path(r *pb.TxnRequest) error {
	for _, o := range m.branch(r) {
		var err error
		switch o := o.Request.(type) {
		case *pb.RequestOp_RequestRange:
			if rev := o.RequestRange.Revision; rev > m.rev() {
				err = errFuture
			} else if rev != 0 && rev < m.compact {
				err = errOld
			}
		case *pb.RequestOp_RequestPut:
			err = m.checkPutState(o.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = m.path(o.RequestTxn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *model) branch(r *pb.TxnRequest) []*pb.RequestOp {
	for _, c := range r.Compare {
		if !m.holds(c) {
			return r.Failure
		}
	}
	return r.Success
}

func (a *attempt) txn(r *pb.TxnRequest) *pb.TxnResponse {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: true}
	for _, c := range r.Compare {
		resp.Succeeded = resp.Succeeded && a.m.holds(c)
	}
	for _, o := range a.m.branch(r) {
		out := &pb.ResponseOp{}
		switch o := o.Request.(type) {
		case *pb.RequestOp_RequestRange:
			got, err := a.rangeKeys(o.RequestRange)
			if err != nil {
				panic(err) // path has looked
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: got}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: a.put(o.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: a.delete(o.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: a.txn(o.RequestTxn)}
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp
}
