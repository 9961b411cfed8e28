package state_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// source draws the entries of a log. index is that of the next entry, so that
// members and leases, which are named after indexes, can be met.
type source struct {
	index uint64
	users bool // it begins with a user and a role, so that grants meet them
}

func (s *source) id(t *rapid.T) uint64 { return rapid.Uint64Range(1, s.index+1).Draw(t, "id") }

func (s *source) next(t *rapid.T) state.Entry {
	s.index++
	if s.index == 1 {
		s.users = rapid.Bool().Draw(t, "users")
	}
	conf, kind, body := s.body(t)
	switch {
	case s.users && s.index == 1:
		conf, kind, body = nil, envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: "root", HashedPassword: "aGFzaA=="}
	case s.users && s.index == 2:
		conf, kind, body = nil, envelope.RoleAdd, &etcdserverpb.AuthRoleAddRequest{Name: "r"}
	}
	e := state.Entry{Index: s.index, Term: 1 + s.index/20}
	if body == nil {
		return e
	}
	b, err := proto.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	env := envelope.Envelope{Kind: kind, RequestID: s.index, Body: b}
	switch {
	case conf != nil:
		e.Type, e.Conf = state.ConfChangeEntry, conf
	case rapid.Bool().Draw(t, "client"):
		env.Client = &envelope.Client{Name: "root", Revision: rapid.SampledFrom([]uint64{1, 5, 1 << 40}).Draw(t, "known")}
	}
	e.Data = env.Append(nil)
	return e
}

func (s *source) body(t *rapid.T) (*state.ConfChange, envelope.Kind, proto.Message) {
	key := func() []byte {
		return []byte(rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"}).Draw(t, "key"))
	}
	put := func() *etcdserverpb.PutRequest {
		return &etcdserverpb.PutRequest{Key: key(), Value: []byte(fmt.Sprint(s.index)), IgnoreValue: rapid.IntRange(0, 9).Draw(t, "ignore") == 0}
	}
	url := func() []string {
		return []string{fmt.Sprintf("http://m%d:1", rapid.IntRange(1, 4).Draw(t, "url"))}
	}
	nonce := []byte("0123456789abcdef")
	lease := func() int64 { return rapid.Int64Range(-1, 3).Draw(t, "lease") }
	id := s.id(t)
	switch k := rapid.IntRange(0, 30).Draw(t, "kind"); k {
	case 0:
		return nil, 0, nil
	case 1:
		return nil, envelope.DeleteRange, &etcdserverpb.DeleteRangeRequest{Key: key(), RangeEnd: key()}
	case 2, 3:
		op := func(r *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
			return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: r}}
		}
		del := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: key(), RangeEnd: key()}}}
		return nil, envelope.Txn, &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{{Key: key(), Target: etcdserverpb.Compare_VERSION, TargetUnion: &etcdserverpb.Compare_Version{Version: 1}}},
			Success: []*etcdserverpb.RequestOp{op(put()), op(put())}, Failure: []*etcdserverpb.RequestOp{del, op(put())},
		}
	case 4:
		return nil, envelope.Compact, &etcdserverpb.CompactionRequest{Revision: rapid.Int64Range(0, int64(s.index)).Draw(t, "compact")}
	case 5:
		return nil, envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: id, GenesisNonce: nonce, ClusterVersion: 1}
	case 6, 7:
		return nil, envelope.ReserveMember, &entryv1.ReserveMember{Name: fmt.Sprintf("n%d", id), PeerUrls: url(), DirectoryNonce: nonce}
	case 8:
		return nil, envelope.CancelReservation, &entryv1.CancelReservation{Id: id, Force: true}
	case 9:
		if rapid.Bool().Draw(t, "plain") {
			id = 0 // for a pull without a reservation
		}
		return nil, envelope.OpenSeedLease, &entryv1.OpenSeedLease{TtlMs: 1000, CapBytes: 1 << 30, MemberId: id, SourceId: 1, Target: "x"}
	case 10:
		return nil, envelope.RenewSeedLease, &entryv1.RenewSeedLease{Id: id}
	case 11:
		return nil, envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: id}
	case 12, 13:
		return &state.ConfChange{Type: state.AddVoter, NodeID: id}, envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: id, Name: "b", PeerUrls: url()}
	case 14:
		return &state.ConfChange{Type: state.AddLearner, NodeID: id}, envelope.AddLearner, &entryv1.AddLearner{Id: id, LeaseId: s.id(t), Position: &entryv1.Position{Term: 1, Index: id}}
	case 15:
		return &state.ConfChange{Type: state.RemoveNode, NodeID: id}, envelope.RemoveMember, &entryv1.RemoveMember{Id: id}
	case 16:
		return &state.ConfChange{Type: state.Unsupported, NodeID: id}, envelope.RemoveMember, &entryv1.RemoveMember{Id: id}
	case 17, 18:
		return nil, envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: lease(), TTL: rapid.Int64Range(-1, 9_000_000_001).Draw(t, "ttl")}
	case 19:
		return nil, envelope.LeaseRevoke, &etcdserverpb.LeaseRevokeRequest{ID: lease()}
	case 20:
		return nil, envelope.LeaseCheckpoint, &etcdserverpb.LeaseCheckpointRequest{Checkpoints: []*etcdserverpb.LeaseCheckpoint{
			{ID: lease(), Remaining_TTL: rapid.Int64Range(-1, 100).Draw(t, "left")}, {ID: lease(), Remaining_TTL: 1}}}
	case 29:
		return nil, envelope.Alarm, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_AlarmAction(rapid.IntRange(0, 2).Draw(t, "action")),
			MemberID: rapid.Uint64Range(0, 1).Draw(t, "whose"), Alarm: etcdserverpb.AlarmType(rapid.IntRange(0, 3).Draw(t, "alarm"))}
	case 21, 22, 23:
		r := put()
		r.Lease = lease()
		return nil, envelope.Put, r
	case 24, 25, 26, 27:
		kind, body := s.auth(t)
		return nil, kind, body
	}
	return nil, envelope.Put, put()
}

// auth draws an entry of package auth.
func (s *source) auth(t *rapid.T) (envelope.Kind, proto.Message) {
	user := rapid.SampledFrom([]string{"root", "ada"}).Draw(t, "user")
	role := rapid.SampledFrom([]string{"root", "r"}).Draw(t, "role")
	switch rapid.IntRange(0, 13).Draw(t, "auth") {
	case 0:
		return envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: user, HashedPassword: "aGFzaA=="}
	case 10:
		return envelope.UserDelete, &etcdserverpb.AuthUserDeleteRequest{Name: user}
	case 3:
		return envelope.UserChangePassword, &etcdserverpb.AuthUserChangePasswordRequest{Name: user, HashedPassword: fmt.Sprintf("%04d", s.index)}
	case 4, 5:
		return envelope.UserGrantRole, &etcdserverpb.AuthUserGrantRoleRequest{User: user, Role: role}
	case 6:
		return envelope.UserRevokeRole, &etcdserverpb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	case 1, 7:
		return envelope.RoleAdd, &etcdserverpb.AuthRoleAddRequest{Name: role}
	case 8:
		return envelope.RoleDelete, &etcdserverpb.AuthRoleDeleteRequest{Role: role}
	case 2, 9:
		return envelope.RoleGrantPermission, &etcdserverpb.AuthRoleGrantPermissionRequest{Name: role,
			Perm: &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("a"), RangeEnd: []byte("c")}}
	case 11:
		return envelope.RoleRevokePermission, &etcdserverpb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte("a"), RangeEnd: []byte("c")}
	case 12:
		return envelope.AuthDisable, &etcdserverpb.AuthDisableRequest{}
	}
	return envelope.AuthEnable, &etcdserverpb.AuthEnableRequest{}
}

func sameResult(a, b state.Result) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return a.Index == b.Index && a.Kind == b.Kind && a.RequestID == b.RequestID && a.ConfChanged == b.ConfChanged &&
		text(a.Err) == text(b.Err) && slices.Equal(a.Leases, b.Leases) && reflect.DeepEqual(a.Tokens, b.Tokens) && proto.Equal(a.Response, b.Response) && proto.Equal(a.ConfState, b.ConfState)
}

func (f *fixture) scanDigest() [16]byte {
	f.Helper()
	v := f.s.View()
	d, err := v.ScanDigest(context.Background())
	if cerr := v.Close(); err != nil || cerr != nil {
		f.Fatal(err, cerr)
	}
	return d
}

// TestMembersAgree applies one random log to two machines, of which one is
// flushed, purged and reopened all the time: results and digests are equal at
// every index, and the running digest is that of a scan.
func TestMembersAgree(t *testing.T) {
	kinds := map[envelope.Kind]int{}
	rapid.Check(t, func(rt *rapid.T) {
		quiet, busy := open(t, vfs.NewMem()), open(t, vfs.NewMem())
		src := &source{}
		var digests [][16]byte
		for range rapid.IntRange(10, 60).Draw(rt, "entries") {
			e := src.next(rt)
			a, err := quiet.m.Apply(e)
			if err != nil {
				rt.Fatal(err)
			}
			if a.Err == nil {
				kinds[a.Kind]++
			}
			switch rapid.IntRange(0, 9).Draw(rt, "disturb") {
			case 0:
				if err := busy.s.Flush(); err != nil {
					rt.Fatal(err)
				}
			case 1:
				if _, err := busy.m.Purge(rapid.IntRange(1, 9).Draw(rt, "rows")); err != nil {
					rt.Fatal(err)
				}
			case 2:
				busy.close()
				busy.load()
			}
			b, err := busy.m.Apply(e)
			if err != nil {
				rt.Fatal(err)
			}
			if !sameResult(a, b) {
				rt.Fatalf("entry %d:\n%+v\n%+v", e.Index, a, b)
			}
			if quiet.rulesText() != busy.rulesText() {
				rt.Fatalf("rules differ at %d:\n%s\n%s", e.Index, quiet.rulesText(), busy.rulesText())
			}
			if quiet.m.Digest() != busy.m.Digest() || !proto.Equal(quiet.m.ConfState(), busy.m.ConfState()) {
				rt.Fatalf("members differ at %d after %+v", e.Index, a)
			}
			digests = append(digests, quiet.m.Digest())
			if d := busy.scanDigest(); d != busy.m.Digest() {
				rt.Fatalf("entry %d: digest %x, scan %x", e.Index, busy.m.Digest(), d)
			}
		}
		for i, want := range digests {
			if d, ok := quiet.m.DigestAt(uint64(i + 1)); !ok || d != want {
				rt.Fatalf("digest at %d: %x, %v", i+1, d, ok)
			}
		}
		busy.close()
		quiet.close()
	})
	if testing.Short() {
		return // a fifth of the runs need not meet every kind
	}
	// The log must not be all refusals.
	t.Log(kinds)
	for _, k := range []envelope.Kind{envelope.Put, envelope.DeleteRange, envelope.Txn, envelope.Compact, envelope.ClusterInit,
		envelope.ReserveMember, envelope.OpenSeedLease, envelope.BootstrapVoter, envelope.LeaseGrant, envelope.LeaseRevoke, envelope.LeaseCheckpoint,
		envelope.UserAdd, envelope.RoleAdd, envelope.RoleGrantPermission, envelope.UserGrantRole, envelope.Alarm} {
		if kinds[k] == 0 {
			t.Errorf("no %s was carried out", k)
		}
	}
}

// TestMembersThatDifferSaySo is the oracle's own test.
func TestMembersThatDifferSaySo(t *testing.T) {
	a, b := open(t, vfs.NewMem()), open(t, vfs.NewMem())
	a.apply(envelope.Put, put("k", "1"))
	b.apply(envelope.Put, put("k", "2"))
	if a.m.Digest() == b.m.Digest() {
		t.Fatal("other values, one digest")
	}
	a.apply(envelope.Put, put("k", "same"))
	b.apply(envelope.Put, put("k", "same"))
	if a.m.Digest() != b.m.Digest() {
		t.Fatal("equal again, but for the past: two digests")
	}
}

func TestDigestRing(t *testing.T) {
	f := open(t, vfs.NewMem())
	if _, ok := f.m.DigestAt(1); ok {
		t.Fatal("digest of an entry to come")
	}
	const n = 1<<16 + 10
	for i := range uint64(n) {
		if _, err := f.m.Apply(state.Entry{Index: i + 1, Term: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for index, want := range map[uint64]bool{10: false, 11: true, n: true, n + 1: false, 0: false} {
		if _, ok := f.m.DigestAt(index); ok != want {
			t.Errorf("DigestAt(%d): %v, want %v", index, ok, want)
		}
	}
}

func TestReadersWhileApplying(t *testing.T) {
	f := open(t, vfs.NewMem())
	f.apply(envelope.Put, put("a", "0"))
	f.apply(envelope.Put, put("b", "0"))
	done := make(chan error)
	for range 2 {
		go func() { done <- readUntil(f.m, 500) }()
	}
	op := func(k, v string) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put(k, v)}}
	}
	for i := range 500 {
		v := fmt.Sprint(i)
		f.apply(envelope.Txn, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{op("a", v), op("b", v)}})
		if i%50 == 0 {
			f.apply(envelope.Compact, &etcdserverpb.CompactionRequest{Revision: f.m.Revision()})
			if _, err := f.m.Purge(100); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// readUntil reads a pair of keys, which are always written together, until
// the revision is reached.
func readUntil(m *state.Machine, rev int64) error {
	for {
		resp, err := m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c")})
		if err != nil {
			return err
		}
		kvs := resp.GetKvs()
		if len(kvs) != 2 || string(kvs[0].GetValue()) != string(kvs[1].GetValue()) || kvs[1].GetModRevision() > resp.GetHeader().GetRevision() {
			return fmt.Errorf("torn read: %v", resp)
		}
		_, _ = m.Members(), m.ConfState()
		if m.Revision() >= rev {
			return nil
		}
	}
}
