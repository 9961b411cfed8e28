package state_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
)

// leaseModel is a second, dumb implementation: whose each key is, and nothing
// the other way round.
type leaseModel struct {
	granted, left map[int64]int64
	owner         map[string]int64 // of every key there is; 0: nobody
}

func newLeaseModel() *leaseModel {
	return &leaseModel{granted: map[int64]int64{}, left: map[int64]int64{}, owner: map[string]int64{}}
}

func (m *leaseModel) refusePut(r *pb.PutRequest) error {
	if _, known := m.granted[r.Lease]; r.Lease != 0 && !known {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	if _, there := m.owner[string(r.Key)]; r.IgnoreLease && !there {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func (m *leaseModel) put(r *pb.PutRequest) {
	if !r.IgnoreLease {
		m.owner[string(r.Key)] = r.Lease
	}
}

func (m *leaseModel) revoke(id int64) error {
	if _, known := m.granted[id]; !known {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	delete(m.granted, id)
	delete(m.left, id)
	maps.DeleteFunc(m.owner, func(_ string, owner int64) bool { return owner == id })
	return nil
}

func (m *leaseModel) attached() (n int) {
	for _, owner := range m.owner {
		if owner != 0 {
			n++
		}
	}
	return n
}

func (m *leaseModel) text() string {
	var out string
	for _, id := range slices.Sorted(maps.Keys(m.granted)) {
		var keys []string
		for k, owner := range m.owner {
			if owner == id {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		out += fmt.Sprintf("%d: %d %d %q\n", id, m.granted[id], m.left[id], keys)
	}
	return out + fmt.Sprintf("keys %q\n", slices.Sorted(maps.Keys(m.owner)))
}

// leaseTables is what a machine says of the same.
func (f *fixture) leaseTables() string {
	f.Helper()
	leases, err := f.m.Leases()
	if err != nil {
		f.Fatal(err)
	}
	var out string
	for _, l := range leases {
		keys, err := f.m.LeaseKeys(l.ID)
		if err != nil {
			f.Fatal(err)
		}
		out += fmt.Sprintf("%d: %d %d %q\n", l.ID, l.TTL, l.Remaining, keys)
	}
	resp, err := f.m.Range(f.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		f.Fatal(err)
	}
	var keys []string
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return out + fmt.Sprintf("keys %q\n", keys)
}

// leaseGame is a machine beside the model.
type leaseGame struct {
	*fixture
	m *leaseModel
}

func (g *leaseGame) lease(t *rapid.T) int64 { return rapid.Int64Range(1, 4).Draw(t, "lease") }

func (g *leaseGame) putRequest(t *rapid.T, key string) *pb.PutRequest {
	r := put(key, "v")
	switch rapid.IntRange(0, 3).Draw(t, "with") {
	case 0:
		r.IgnoreLease = true
	case 1:
	default:
		r.Lease = g.lease(t)
	}
	return r
}

func (g *leaseGame) key(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c\x00", "d"}).Draw(t, "key")
}

// same wants the machine to have refused for the model's reason, if for any.
func (g *leaseGame) same(t *rapid.T, got, want error) {
	t.Helper()
	if rpctypes.ErrorDesc(got) != rpctypes.ErrorDesc(want) {
		t.Fatalf("refused with %v, the model with %v", got, want)
	}
	if have, want := g.leaseTables(), g.m.text(); have != want {
		t.Fatalf("the tables say\n%sthe model\n%s", have, want)
	}
}

func (g *leaseGame) grant(t *rapid.T) {
	id, ttl := g.lease(t), rapid.Int64Range(-1, 100).Draw(t, "ttl")
	var want error
	if _, known := g.m.granted[id]; known {
		want = rpctypes.ErrGRPCLeaseExist
	} else {
		g.m.granted[id] = max(ttl, 1)
	}
	g.same(t, g.apply(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: ttl}).Err, want)
}

func (g *leaseGame) revoke(t *rapid.T) {
	id := g.lease(t)
	want := g.m.revoke(id)
	g.same(t, g.apply(envelope.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id}).Err, want)
}

func (g *leaseGame) checkpoint(t *rapid.T) {
	id, left := g.lease(t), rapid.Int64Range(-1, 200).Draw(t, "left")
	if ttl, known := g.m.granted[id]; known {
		g.m.left[id] = min(max(left, 0), ttl)
	}
	g.same(t, g.apply(envelope.LeaseCheckpoint, &pb.LeaseCheckpointRequest{
		Checkpoints: []*pb.LeaseCheckpoint{{ID: id, Remaining_TTL: left}}}).Err, nil)
}

func (g *leaseGame) put(t *rapid.T) {
	r := g.putRequest(t, g.key(t))
	want := g.m.refusePut(r)
	if want == nil {
		g.m.put(r)
	}
	g.same(t, g.apply(envelope.Put, r).Err, want)
}

func (g *leaseGame) delete(t *rapid.T) {
	from, to := g.key(t), g.key(t)
	maps.DeleteFunc(g.m.owner, func(k string, _ int64) bool { return k >= from && k < to })
	g.same(t, g.apply(envelope.DeleteRange, &pb.DeleteRangeRequest{Key: []byte(from), RangeEnd: []byte(to)}).Err, nil)
}

// txn puts two keys and deletes a third.
func (g *leaseGame) txn(t *rapid.T) {
	one, two := g.putRequest(t, "a"), g.putRequest(t, "b")
	want := g.m.refusePut(one)
	if want == nil {
		want = g.m.refusePut(two)
	}
	if want == nil {
		g.m.put(one)
		g.m.put(two)
		delete(g.m.owner, "d")
	}
	req := &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestPut{RequestPut: one}},
		{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: two}}}}}},
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("d")}}},
	}}
	g.same(t, g.apply(envelope.Txn, req).Err, want)
}

// TestLeasesAgainstModel: whatever is granted, put, moved, deleted, revoked and
// checkpointed, every lease has the keys that the model says, and the digest is
// that of a scan.
func TestLeasesAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := &leaseGame{open(t, vfs.NewMem()), newLeaseModel()}
		defer g.close()
		rt.Repeat(map[string]func(*rapid.T){
			"grant": g.grant, "grant again": g.grant, "revoke": g.revoke, "checkpoint": g.checkpoint, "put": g.put, "put again": g.put,
			"delete": g.delete, "txn": g.txn,
			"": func(t *rapid.T) {
				if d := g.scanDigest(); d != g.fixture.m.Digest() {
					t.Fatalf("digest %x, scan %x", g.fixture.m.Digest(), d)
				}
				v := g.s.View()
				diff, leases, keys, err := mvcc.LeaseDifferences(v)
				if cerr := v.Close(); err != nil || cerr != nil || len(diff) > 0 || leases != len(g.m.granted) || keys != g.m.attached() {
					t.Fatalf("%q, %d leases, %d keys attached: %v, %v", diff, leases, keys, err, cerr)
				}
			},
		})
	})
}

// TestLeaseModelSeesDifferences is the oracle's own test.
func TestLeaseModelSeesDifferences(t *testing.T) {
	g := &leaseGame{open(t, vfs.NewMem()), newLeaseModel()}
	g.apply(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: 1, TTL: 60})
	r := put("k", "v")
	r.Lease = 1
	g.apply(envelope.Put, r)
	g.m.granted[1], g.m.owner["k"] = 60, 1
	if have, want := g.leaseTables(), g.m.text(); have != want {
		t.Fatalf("the tables say\n%sthe model\n%s", have, want)
	}
	for what, change := range map[string]func(){
		"the owner": func() { g.m.owner["k"] = 0 }, "what is left": func() { g.m.left[1] = 5 }, "a lease": func() { g.m.granted[2] = 60 },
	} {
		was := g.m.text()
		change()
		if g.m.text() == was || g.leaseTables() == g.m.text() {
			t.Errorf("another model of %s and no difference", what)
		}
	}
}
