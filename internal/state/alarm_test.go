package state_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// TestAlarms reads testdata/alarms: what raises and disarms alarms, and which
// entries each of them forbids.
//
//	alarm <activate|deactivate|get> id=<n> type=<NONE|NOSPACE|CORRUPT>
//	alarms                  those that stand
//	try                     one entry of each kind that touches keys or leases
//	restart
func TestAlarms(t *testing.T) {
	f := open(t, vfs.NewMem())
	datadriven.RunTest(t, "testdata/alarms", func(t *testing.T, d *datadriven.TestData) string {
		f.TB = t
		switch d.Cmd {
		case "alarm":
			req := &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(pb.AlarmRequest_AlarmAction_value[strings.ToUpper(d.CmdArgs[0].Key)])}
			var kind string
			d.ScanArgs(t, "id", &req.MemberID)
			d.ScanArgs(t, "type", &kind)
			req.Alarm = pb.AlarmType(pb.AlarmType_value[kind])
			if kind == "UNKNOWN" {
				req.Alarm = 7
			}
			res := f.apply(envelope.Alarm, req)
			if res.Err != nil {
				return "refused: " + res.Err.Error() + "\n"
			}
			return alarmText(res.Response.(*pb.AlarmResponse).GetAlarms())
		case "alarms":
			return alarmText(f.m.Alarms())
		case "try":
			return f.tryAll()
		case "restart":
			f.close()
			f.load()
			return ""
		}
		d.Fatalf(t, "unknown command")
		return ""
	})
}

func alarmText(alarms []*pb.AlarmMember) string {
	var out strings.Builder
	for _, a := range alarms {
		fmt.Fprintf(&out, "%s of %d\n", a.GetAlarm(), a.GetMemberID())
	}
	return out.String()
}

// tryAll applies an entry of each kind and says which are refused.
func (f *fixture) tryAll() string {
	f.Helper()
	putOp := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put("t", "1")}}
	delOp := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("t")}}}
	nested := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{putOp}}}}
	var out strings.Builder
	try := func(name string, refusal error) {
		text := "done"
		if refusal != nil {
			text = rpctypes.ErrorDesc(refusal)
		}
		fmt.Fprintf(&out, "%s: %s\n", name, text)
	}
	lease := int64(f.m.Applied().Index) + 1
	try("put", f.apply(envelope.Put, put("k", "v")).Err)
	try("txn with a put", f.apply(envelope.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{putOp}}).Err)
	try("txn with a put inside, where it is not chosen", f.apply(envelope.Txn, &pb.TxnRequest{Failure: []*pb.RequestOp{nested}}).Err)
	try("txn that deletes", f.apply(envelope.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{delOp}}).Err)
	try("delete", f.apply(envelope.DeleteRange, &pb.DeleteRangeRequest{Key: []byte("k")}).Err)
	try("grant", f.apply(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: lease, TTL: 60}).Err)
	try("revoke", f.apply(envelope.LeaseRevoke, &pb.LeaseRevokeRequest{ID: lease}).Err)
	try("checkpoint", f.apply(envelope.LeaseCheckpoint, &pb.LeaseCheckpointRequest{}).Err)
	if f.m.CompactRevision() < f.m.Revision() {
		try("compact", f.apply(envelope.Compact, &pb.CompactionRequest{Revision: f.m.CompactRevision() + 1}).Err)
	}
	_, err := f.m.Range(context.Background(), &pb.RangeRequest{Key: []byte("k")})
	try("range", err)
	return out.String()
}

// TestHashAt: the hash is of the live keys at a revision, whatever was written
// since, purged or begun anew; anything that a client could see changes it.
func TestHashAt(t *testing.T) {
	a, b := open(t, vfs.NewMem()), open(t, vfs.NewMem())
	both := func(kind envelope.Kind, body *pb.PutRequest) {
		a.apply(kind, body)
		b.apply(kind, body)
	}
	sum := func(f *fixture, rev int64) uint32 {
		t.Helper()
		h, err := f.m.HashAt(context.Background(), rev)
		if err != nil {
			t.Fatal(err)
		}
		return h.Sum
	}
	both(envelope.Put, put("a", "1"))
	both(envelope.Put, put("b", "1"))
	both(envelope.Put, put("a", "2"))
	h, err := a.m.HashAt(context.Background(), 0)
	// Members of different versions compare it: another sum is another format.
	if err != nil || h.Sum != 3484862691 || h.Revision != 4 || h.Current != 4 || h.Compacted != -1 {
		t.Errorf("%+v, %v", h, err)
	}
	if sum(a, 0) != sum(b, 0) || sum(a, 4) != sum(a, 0) || sum(a, 2) == sum(a, 3) || sum(a, 3) == sum(a, 4) {
		t.Error("equal where it differs, or different where it is equal")
	}
	before := sum(a, 4)
	a.apply(envelope.Put, put("c", "later"))
	if sum(a, 4) != before {
		t.Error("a later write changes the hash of an earlier revision")
	}
	b.apply(envelope.Put, put("c", "other"))
	if sum(a, 5) == sum(b, 5) || sum(a, 4) != sum(b, 4) {
		t.Error("another value, the same hash")
	}
	for _, f := range []*fixture{a, b} {
		f.apply(envelope.Compact, &pb.CompactionRequest{Revision: 4})
	}
	if _, err := a.m.Purge(100); err != nil {
		t.Fatal(err)
	}
	if sum(a, 4) != sum(b, 4) || sum(a, 4) == before {
		t.Error("what is purged shows, or the compact revision does not")
	}
	for rev, want := range map[int64]error{3: rpctypes.ErrGRPCCompacted, 6: rpctypes.ErrGRPCFutureRev} {
		if _, err := a.m.HashAt(context.Background(), rev); err != want {
			t.Errorf("at %d: %v", rev, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	for i := range 3000 {
		a.apply(envelope.Put, put(fmt.Sprint("many", i), ""))
	}
	cancel()
	if _, err := a.m.HashAt(ctx, 0); err != context.Canceled {
		t.Errorf("nobody waits any more: %v", err)
	}
}
