package state_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// archived is a state with something in every table.
func archived(t *testing.T) *fixture {
	t.Helper()
	f := open(t, vfs.NewMem())
	if _, err := f.m.Apply(confEntry(1, 7)); err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		kind envelope.Kind
		body proto.Message
	}{
		{envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: 5, GenesisNonce: []byte("0123456789abcdef"), ClusterVersion: 1}},
		{envelope.ReserveMember, &entryv1.ReserveMember{Name: "n", PeerUrls: []string{"http://n:1"}}},
		{envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: 1000, CapBytes: 1 << 30, SourceId: 7, Target: "t"}},
		{envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: 77, TTL: 60}},
		{envelope.Put, &etcdserverpb.PutRequest{Key: []byte("leased"), Value: []byte("v"), Lease: 77}},
		{envelope.Put, put("a", "1")},
		{envelope.Put, put("a", "2")},
		{envelope.Put, put("b", "1")},
		{envelope.DeleteRange, &etcdserverpb.DeleteRangeRequest{Key: []byte("b")}},
		{envelope.Compact, &etcdserverpb.CompactionRequest{Revision: 3}},
		{envelope.RoleAdd, &etcdserverpb.AuthRoleAddRequest{Name: "root"}},
		{envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: "root", HashedPassword: "aGFzaA=="}},
		{envelope.UserGrantRole, &etcdserverpb.AuthUserGrantRoleRequest{User: "root", Role: "root"}},
		{envelope.Alarm, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE, MemberID: 7}},
		{envelope.AuthEnable, &etcdserverpb.AuthEnableRequest{}},
	} {
		if res := f.apply(e.kind, e.body); res.Err != nil {
			t.Fatalf("%s: %v", e.kind, res.Err)
		}
	}
	return f
}

// copyOf is another store with the same state.
func (f *fixture) copyOf(dir string) *store.Store {
	f.Helper()
	if err := f.s.Checkpoint(dir); err != nil {
		f.Fatal(err)
	}
	s, err := store.Open(dir, store.Options{FS: f.fs})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	return s
}

func (f *fixture) founded(dir string, by state.Founding) *fixture {
	f.Helper()
	s := f.copyOf(dir)
	pos, err := state.Found(s, by)
	if err != nil {
		f.Fatal(err)
	}
	last := f.m.Applied()
	if want := (ident.Position{Term: last.Term + 1, Index: last.Index + 1}); pos != want || s.Position() != want {
		f.Errorf("founded at %s, the store says %s, want %s", pos, s.Position(), want)
	}
	if durable, err := s.DurablePosition(); err != nil || durable != pos {
		f.Errorf("durable is %s, %v", durable, err)
	}
	m, err := state.Open(s)
	if err != nil {
		f.Fatal(err)
	}
	return &fixture{TB: f.TB, fs: f.fs, s: s, m: m}
}

func threeVoters() state.Founding {
	return state.Founding{Voters: []*entryv1.BootstrapVoter{
		{Id: 21, Name: "x", PeerUrls: []string{"http://x:1"}}, {Id: 22, Name: "y", PeerUrls: []string{"http://y:1"}}, {Id: 23, Name: "z", PeerUrls: []string{"http://z:1"}},
	}}
}

// TestFound: another cluster has the same data, alike at each of its members.
func TestFound(t *testing.T) {
	f := archived(t)
	a, b := f.founded("a", threeVoters()), f.founded("b", threeVoters())
	if a.m.Digest() != b.m.Digest() || a.m.Digest() == f.m.Digest() || a.scanDigest() != a.m.Digest() {
		t.Error("members of one founding differ, or from their records, or are the old cluster")
	}
	if ids := a.m.ConfState(); !slices.Equal(ids.GetVoters(), []uint64{21, 22, 23}) || len(ids.GetLearners()) > 0 {
		t.Errorf("configuration %v", ids)
	}
	if a.m.Cluster() != nil || len(a.m.Members()) != 3 || len(a.m.SeedLeases()) != 0 || a.m.Member(7) != nil {
		t.Errorf("%v %v %v", a.m.Cluster(), a.m.Members(), a.m.SeedLeases())
	}
	v := a.s.View()
	found, err := member.Differences(v, a.m.ConfState())
	if err := errors.Join(err, v.Close()); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
	same(t, f, a)
	if res, err := a.m.Apply(state.Entry{Index: a.m.Applied().Index + 1, Term: 9}); err != nil || res.Err != nil {
		t.Errorf("the first entry: %v, %v", res, err)
	}
}

// same compares what belongs to clients.
func same(t *testing.T, old, now *fixture) {
	t.Helper()
	was, werr := old.m.HashAt(context.Background(), 0)
	is, err := now.m.HashAt(context.Background(), 0)
	if werr != nil || err != nil || was != is {
		t.Errorf("keys hash to %+v, %+v before: %v, %v", is, was, err, werr)
	}
	if now.m.CompactRevision() != old.m.CompactRevision() || now.rulesText() != old.rulesText() || len(now.m.Alarms()) != 1 {
		t.Errorf("compacted to %d, alarms %v, users\n%s", now.m.CompactRevision(), now.m.Alarms(), now.rulesText())
	}
	leases, err := now.m.Leases()
	if err != nil || len(leases) != 1 || leases[0].ID != 77 {
		t.Errorf("leases %v, %v", leases, err)
	}
	if keys, err := now.m.LeaseKeys(77); err != nil || len(keys) != 1 || string(keys[0]) != "leased" {
		t.Errorf("keys of the lease %q, %v", keys, err)
	}
	for _, m := range []*fixture{old, now} { // history as well
		if r, err := m.m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte("b"), Revision: 5}); err != nil || len(r.GetKvs()) != 1 {
			t.Errorf("b at revision 5: %v, %v", r, err)
		}
	}
}

func TestFoundBumps(t *testing.T) {
	f := archived(t)
	by := threeVoters()
	by.Bump = 1000
	n := f.founded("a", by)
	if want := f.m.Revision() + 1000; n.m.Revision() != want || n.m.CompactRevision() != want || n.scanDigest() != n.m.Digest() {
		t.Errorf("revision %d, compacted to %d, want %d", n.m.Revision(), n.m.CompactRevision(), want)
	}
	if plain := f.founded("b", threeVoters()); plain.m.Digest() == n.m.Digest() {
		t.Error("the digest does not tell")
	}
	r, err := n.m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte("a")})
	if err != nil || string(r.GetKvs()[0].GetValue()) != "2" || r.GetKvs()[0].GetModRevision() != 4 {
		t.Errorf("%v, %v", r, err)
	}
}

// TestFoundRefuses: what is refused leaves the state as it was.
func TestFoundRefuses(t *testing.T) {
	f := archived(t)
	s := f.copyOf("a")
	huge := threeVoters()
	huge.Bump = 1 << 62
	used := threeVoters()
	used.Voters[2].Id = 7
	for name, c := range map[string]struct {
		by   state.Founding
		code fault.Code
	}{
		"nobody":                     {state.Founding{}, fault.Usage},
		"a member's ID":              {used, fault.Refused},
		"no room for more revisions": {huge, fault.Usage},
	} {
		pos, err := state.Found(s, c.by)
		if !fault.Is(err, c.code) || pos != (ident.Position{}) || s.Position() != f.m.Applied() || s.Digest() != f.m.Digest() {
			t.Errorf("%s: %s, %v", name, pos, err)
		}
	}
}
