package state_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// TestTablesFollowTheLog: the copies that nodes look at are those of the last
// entry, before and after a restart, and belong to the caller.
func TestTablesFollowTheLog(t *testing.T) {
	f := open(t, vfs.NewMem())
	if f.m.Cluster() != nil || len(f.m.Members()) != 0 || f.m.Member(7) != nil {
		t.Fatal("an empty store has a cluster")
	}
	res, err := f.m.Apply(confEntry(1, 7))
	if err != nil || res.Err != nil || !res.ConfChanged || !proto.Equal(res.ConfState, f.m.ConfState()) {
		t.Fatalf("%+v, %v", res, err)
	}
	f.apply(envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: 5, GenesisNonce: []byte("0123456789abcdef"), ClusterVersion: 1})
	id := f.apply(envelope.ReserveMember, &entryv1.ReserveMember{Name: "n", PeerUrls: []string{"http://n:1"}}).Response.(*entryv1.MemberRecord).GetId()
	lease := f.apply(envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: 1000, CapBytes: 1 << 30, SourceId: 7, Target: "t"})
	if lease.Err != nil {
		t.Fatal(lease.Err)
	}
	check := func() {
		t.Helper()
		if f.m.Cluster().GetClusterId() != 5 || len(f.m.Members()) != 2 || f.m.Member(7).GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER ||
			f.m.Member(id).GetName() != "n" || f.m.Member(1234) != nil || len(f.m.SeedLeases()) != 1 || f.m.ConfState().GetVoters()[0] != 7 {
			t.Fatal(f.m.Cluster(), f.m.Members(), f.m.SeedLeases(), f.m.ConfState())
		}
	}
	check()
	f.m.Member(7).Name = "changed"
	f.m.Members()[0].Name = "changed"
	f.m.ConfState().Voters[0] = 99
	if f.m.Member(7).GetName() == "changed" || f.m.Members()[0].GetName() == "changed" {
		t.Fatal("a caller changed the machine's record")
	}
	check()
	f.close()
	info, err := store.Inspect("state-1", store.Options{FS: f.fs})
	if err != nil || info.Cluster.GetClusterId() != 5 || info.Position != f.m.Applied() || info.Digest != f.m.Digest() || !proto.Equal(info.ConfState, f.m.ConfState()) {
		t.Fatalf("%+v, %v", info, err)
	}
	f.load()
	check()
	if res, err := f.m.Apply(confEntry(5, 7)); err != nil || res.Err == nil || res.ConfChanged {
		t.Fatalf("a second bootstrap: %+v, %v", res, err)
	}
	check()
}
