package state_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// TestLeases reads testdata/leases: what entries do to leases and their keys.
//
//	grant id=<n> ttl=<seconds>
//	revoke id=<n>
//	checkpoint id=<n> left=<seconds> ...
//	put <key> [<value>] [lease=<n>] [ignore-lease] [ignore-value]
//	delete <key> [<end>]
//	txn                     with lines of put and delete
//	leases                  every lease with its keys
//	changes from=<revision>
//	restart
//
// Each entry answers with its revision or its refusal, and with what it tells
// the leader's timers.
func TestLeases(t *testing.T) {
	datadriven.Walk(t, "testdata/leases", func(t *testing.T, path string) {
		f := open(t, vfs.NewMem())
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			f.TB = t
			return f.leaseCommand(d)
		})
	})
}

func (f *fixture) leaseCommand(d *datadriven.TestData) string {
	f.Helper()
	var out strings.Builder
	switch d.Cmd {
	case "leases":
		leases, err := f.m.Leases()
		if err != nil {
			f.Fatal(err)
		}
		for _, l := range leases {
			keys, err := f.m.LeaseKeys(l.ID)
			if err != nil {
				f.Fatal(err)
			}
			fmt.Fprintf(&out, "%d: granted %d, left %d, keys %q\n", l.ID, l.TTL, l.Remaining, keys)
		}
		return out.String()
	case "changes":
		var from int64
		d.ScanArgs(f, "from", &from)
		if err := f.m.Changes(context.Background(), from, false, func(e *mvccpb.Event) error {
			fmt.Fprintf(&out, "%s %s at %d lease %d\n", e.GetType(), e.GetKv().GetKey(), e.GetKv().GetModRevision(), e.GetKv().GetLease())
			return nil
		}); err != nil {
			f.Fatal(err)
		}
		return out.String()
	case "restart":
		f.close()
		f.load()
		return ""
	}
	return entryText(f.leaseEntry(d), f.m.Revision())
}

func entryText(res state.Result, revision int64) string {
	if res.Err != nil {
		return "refused: " + rpctypes.ErrorDesc(res.Err) + "\n"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "revision %d", revision)
	if g, ok := res.Response.(*pb.LeaseGrantResponse); ok {
		fmt.Fprintf(&out, ", lease %d of %d seconds", g.GetID(), g.GetTTL())
	}
	for _, c := range res.Leases {
		if c.Gone {
			fmt.Fprintf(&out, "; lease %d is gone", c.ID)
		} else {
			fmt.Fprintf(&out, "; lease %d has %d left", c.ID, c.Left())
		}
	}
	return out.String() + "\n"
}

func (f *fixture) leaseEntry(d *datadriven.TestData) state.Result {
	f.Helper()
	var id, ttl int64
	d.MaybeScanArgs(f, "id", &id)
	d.MaybeScanArgs(f, "ttl", &ttl)
	switch d.Cmd {
	case "grant":
		return f.apply(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
	case "revoke":
		return f.apply(envelope.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
	case "checkpoint":
		req := &pb.LeaseCheckpointRequest{}
		for i := 0; i+1 < len(d.CmdArgs); i += 2 {
			var c pb.LeaseCheckpoint
			if _, err := fmt.Sscanf(d.CmdArgs[i].String()+" "+d.CmdArgs[i+1].String(), "id=%d left=%d", &c.ID, &c.Remaining_TTL); err != nil {
				d.Fatalf(f, "%v", err)
			}
			req.Checkpoints = append(req.Checkpoints, &c)
		}
		return f.apply(envelope.LeaseCheckpoint, req)
	case "txn":
		req := &pb.TxnRequest{}
		for line := range strings.Lines(d.Input) {
			op := f.leaseOp(strings.Fields(line))
			req.Success = append(req.Success, op)
		}
		return f.apply(envelope.Txn, req)
	}
	words := []string{d.Cmd}
	for _, a := range d.CmdArgs {
		words = append(words, a.String())
	}
	switch op := f.leaseOp(words).GetRequest().(type) {
	case *pb.RequestOp_RequestPut:
		return f.apply(envelope.Put, op.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return f.apply(envelope.DeleteRange, op.RequestDeleteRange)
	}
	d.Fatalf(f, "unknown command %s", d.Cmd)
	return state.Result{}
}

// leaseOp reads a put or a delete; nil of anything else.
func (f *fixture) leaseOp(words []string) *pb.RequestOp {
	f.Helper()
	switch words[0] {
	case "put":
		r := &pb.PutRequest{Key: []byte(words[1])}
		for _, w := range words[2:] {
			switch id, isLease := strings.CutPrefix(w, "lease="); {
			case isLease:
				if _, err := fmt.Sscan(id, &r.Lease); err != nil {
					f.Fatal(err)
				}
			case w == "ignore-lease":
				r.IgnoreLease = true
			case w == "ignore-value":
				r.IgnoreValue = true
			default:
				r.Value = []byte(w)
			}
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	case "delete":
		r := &pb.DeleteRangeRequest{Key: []byte(words[1])}
		if len(words) > 2 {
			r.RangeEnd = []byte(words[2])
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	}
	return nil
}
