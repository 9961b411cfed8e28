package state

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
)

// stands reports whether any member has raised the alarm. It belongs to the
// goroutine that calls Apply, which alone replaces the copy.
func (m *Machine) stands(t pb.AlarmType) bool {
	return slices.ContainsFunc(m.table.alarms, func(a *pb.AlarmMember) bool { return a.GetAlarm() == t })
}

// forbids gives the refusal of an entry of the kind by an alarm that stands:
// etcd's rules. Under CORRUPT no key, revision or lease changes. Under NOSPACE
// nothing is added; what makes room goes on. A transaction is looked at when it
// is read.
func (m *Machine) forbids(k envelope.Kind) error {
	if len(m.table.alarms) == 0 {
		return nil
	}
	switch k {
	case envelope.Put, envelope.LeaseGrant, envelope.DeleteRange, envelope.Txn, envelope.Compact, envelope.LeaseRevoke:
	default:
		return nil
	}
	if m.stands(pb.AlarmType_CORRUPT) {
		return rpctypes.ErrGRPCCorrupt
	}
	if (k == envelope.Put || k == envelope.LeaseGrant) && m.stands(pb.AlarmType_NOSPACE) {
		return rpctypes.ErrGRPCNoSpace
	}
	return nil
}

// capped refuses a transaction that may put when an alarm forbids that.
func (m *Machine) capped(next func(mvcc.Batch, *pb.TxnRequest) (*pb.TxnResponse, error)) func(mvcc.Batch, *pb.TxnRequest) (*pb.TxnResponse, error) {
	return func(b mvcc.Batch, req *pb.TxnRequest) (*pb.TxnResponse, error) {
		if m.stands(pb.AlarmType_NOSPACE) && mvcc.TxnCost(req) > 0 {
			return nil, rpctypes.ErrGRPCNoSpace
		}
		return next(b, req)
	}
}
