package mvcc

import (
	"bytes"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// MaxTxnOps is the largest number of comparisons, or of operations of one
// branch, in a transaction: etcd's default.
const MaxTxnOps = 128

// CheckRange says what etcd's API would refuse.
func CheckRange(r *etcdserverpb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := etcdserverpb.RangeRequest_SortOrder_name[int32(r.GetSortOrder())]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := etcdserverpb.RangeRequest_SortTarget_name[int32(r.GetSortTarget())]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

// CheckPut says what etcd's API would refuse.
func CheckPut(r *etcdserverpb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.GetIgnoreValue() && len(r.GetValue()) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.GetIgnoreLease() && r.GetLease() != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

// CheckDeleteRange says what etcd's API would refuse.
func CheckDeleteRange(r *etcdserverpb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// CheckTxn says what etcd's API would refuse, and every way in which one
// branch could write a key twice. maxOps is MaxTxnOps, or fewer where a member
// takes fewer from its clients.
func CheckTxn(r *etcdserverpb.TxnRequest, maxOps int) error {
	if err := checkOps(r, maxOps); err != nil {
		return err
	}
	for _, branch := range [][]*etcdserverpb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		if _, err := writesOf(branch); err != nil {
			return err
		}
	}
	return nil
}

// IsReadOnly reports whether no branch of the transaction writes.
func IsReadOnly(r *etcdserverpb.TxnRequest) bool {
	for _, branch := range [][]*etcdserverpb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			switch o := op.GetRequest().(type) {
			case *etcdserverpb.RequestOp_RequestRange:
			case *etcdserverpb.RequestOp_RequestTxn:
				if !IsReadOnly(o.RequestTxn) {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// checkOps bounds the operations; each level of nesting has what the level
// above left, which bounds the depth as well.
func checkOps(r *etcdserverpb.TxnRequest, budget int) error {
	n := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if n > budget {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*etcdserverpb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, budget-n); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *etcdserverpb.RequestOp, budget int) error {
	switch o := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		return CheckRange(o.RequestRange)
	case *etcdserverpb.RequestOp_RequestPut:
		return CheckPut(o.RequestPut)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		return CheckDeleteRange(o.RequestDeleteRange)
	case *etcdserverpb.RequestOp_RequestTxn:
		return checkOps(o.RequestTxn, budget)
	}
	return rpctypes.ErrGRPCKeyNotFound // etcd's answer to an empty operation
}

// span is the keys of a DeleteRange: [lo, hi), hi nil = no end.
type span struct{ lo, hi []byte }

func (s span) has(key string) bool {
	return string(s.lo) <= key && (s.hi == nil || key < string(s.hi))
}

// spanOf reads etcd's form of a range: no end is the one key, "\0" is from
// key on.
func spanOf(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{lo: key, hi: append(bytes.Clone(key), 0)}
	case isOpenEnd(end):
		return span{lo: key}
	}
	return span{lo: key, hi: end}
}

func isOpenEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// writes are the keys that a branch may put and the ranges it may delete.
type writes struct {
	puts   map[string]bool
	dels   []span
	sorted bool // dels are disjoint and in order
}

// meets reports whether w and o write a key in common. Deleting twice is no
// harm: the second finds nothing.
func (w *writes) meets(o *writes) bool {
	for k := range o.puts {
		if w.puts[k] {
			return true
		}
	}
	return w.deletesAny(o.puts) || o.deletesAny(w.puts)
}

func (w *writes) deletesAny(puts map[string]bool) bool {
	if len(w.dels) == 0 || len(puts) == 0 {
		return false
	}
	w.sort()
	for k := range puts {
		i, exact := slices.BinarySearchFunc(w.dels, k, func(s span, k string) int { return strings.Compare(string(s.lo), k) })
		if exact || i > 0 && w.dels[i-1].has(k) {
			return true
		}
	}
	return false
}

// sort makes one span of those that touch, so that a key can be looked up: a
// request may hold a hundred thousand of them.
func (w *writes) sort() {
	if w.sorted {
		return
	}
	w.sorted = true
	slices.SortFunc(w.dels, func(a, b span) int { return bytes.Compare(a.lo, b.lo) })
	out := w.dels[:0]
	for _, s := range w.dels {
		if s.hi != nil && bytes.Compare(s.lo, s.hi) >= 0 {
			continue // empty
		}
		if n := len(out); n > 0 && (out[n-1].hi == nil || bytes.Compare(s.lo, out[n-1].hi) <= 0) {
			if last := &out[n-1]; s.hi == nil || last.hi != nil && bytes.Compare(s.hi, last.hi) > 0 {
				last.hi = s.hi
			}
			continue
		}
		out = append(out, s)
	}
	w.dels = out
}

func (w *writes) join(o *writes) {
	for k := range o.puts {
		w.puts[k] = true
	}
	if len(o.dels) > 0 {
		w.dels, w.sorted = append(w.dels, o.dels...), false
	}
}

// writesOf collects the writes of a branch and refuses a key written twice.
// The branches of a nested transaction exclude each other.
func writesOf(branch []*etcdserverpb.RequestOp) (*writes, error) {
	all := &writes{puts: make(map[string]bool)}
	for _, op := range branch {
		own := &writes{puts: make(map[string]bool)}
		switch o := op.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			own.puts[string(o.RequestPut.GetKey())] = true
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			own.dels = []span{spanOf(o.RequestDeleteRange.GetKey(), o.RequestDeleteRange.GetRangeEnd())}
		case *etcdserverpb.RequestOp_RequestTxn:
			for _, nested := range [][]*etcdserverpb.RequestOp{o.RequestTxn.GetSuccess(), o.RequestTxn.GetFailure()} {
				w, err := writesOf(nested)
				if err != nil {
					return nil, err
				}
				own.join(w)
			}
		default:
			continue
		}
		if all.meets(own) {
			return nil, rpctypes.ErrGRPCDuplicateKey
		}
		all.join(own)
	}
	return all, nil
}
