package state_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// TestGolden pins the bytes of the rows that entries write, and so what the
// tables' own packages put into them: a diff of testdata/format is a change of
// the format. Every kind of entry has a part in it.
func TestGolden(t *testing.T) {
	seen := map[envelope.Kind]bool{}
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		f := sampleLog(t, d)
		f.close()
		maps.Copy(seen, f.carried)
		var out strings.Builder
		f.raw(func(db *pebble.DB) error {
			it, err := db.NewIter(nil)
			if err != nil {
				return err
			}
			for ok := it.First(); ok; ok = it.Next() {
				row := fmt.Sprintf("  %x = %x", it.Key(), it.Value())
				fmt.Fprintf(&out, "%s\n%s\n", store.Comparer().FormatKey(it.Key()), strings.TrimRight(row, " "))
			}
			return errors.Join(it.Error(), it.Close())
		})
		return out.String()
	})
	for k := range envelope.Kind(1 << 15) {
		if k.Known() && !seen[k] {
			t.Errorf("no %s in testdata/format", k)
		}
	}
}

// TestGoldenIsRead puts the rows of testdata/format into a database as they
// stand there: a machine takes them for what the entries wrote.
func TestGoldenIsRead(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		want := sampleLog(t, d)
		f := &fixture{TB: t, fs: vfs.NewMem()}
		f.raw(func(db *pebble.DB) error {
			var errs []error
			for line := range strings.Lines(d.Expected) {
				if line, ok := strings.CutPrefix(line, "  "); ok {
					k, v, _ := strings.Cut(strings.TrimSpace(line), " =")
					key, kerr := hex.DecodeString(k)
					value, verr := hex.DecodeString(strings.TrimSpace(v))
					errs = append(errs, kerr, verr, db.Set(key, value, nil))
				}
			}
			return errors.Join(append(errs, db.Flush())...)
		})
		f.load()
		if got, want := f.readings(), want.readings(); got != want {
			t.Errorf("%s: read\n%s\nwant\n%s", d.Pos, got, want)
		}
		if f.scanDigest() != f.m.Digest() {
			t.Errorf("%s: the digest is not that of the rows", d.Pos)
		}
		for _, rec := range f.m.Members() {
			if f.m.IsLearner(rec.GetId()) != rec.GetLearner() || f.m.IsLearner(rec.GetId()+1<<40) {
				t.Errorf("%s: member %x is a learner: %t", d.Pos, rec.GetId(), rec.GetLearner())
			}
		}
		f.close()
		want.close()
		return d.Expected
	})
}

// raw opens the database of a store that is closed, or makes one.
func (f *fixture) raw(use func(*pebble.DB) error) {
	f.Helper()
	db, err := pebble.Open("state-1", &pebble.Options{
		FS: f.fs, Comparer: store.Comparer(), FormatMajorVersion: store.FormatMajorVersion, Logger: silent{f},
	})
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(use(db), db.Close()); err != nil {
		f.Fatal(err)
	}
}

// silent is a logger of Pebble's that says only what is wrong.
type silent struct{ f *fixture }

func (silent) Infof(string, ...any) {}

func (s silent) Errorf(format string, args ...any) { s.f.Errorf(format, args...) }
func (s silent) Fatalf(format string, args ...any) { s.f.Fatalf(format, args...) }

// readings is all that a machine reads from its tables, as text.
func (f *fixture) readings() string {
	f.Helper()
	var out strings.Builder
	say := func(what string, v any) { fmt.Fprintf(&out, "%s: %v\n", what, v) }
	say("position", f.m.Applied())
	say("configuration", f.m.ConfState())
	say("revisions", [...]int64{f.m.CompactRevision(), f.m.Revision()})
	say("digest", f.m.Digest())
	say("cluster", f.m.Cluster())
	for _, m := range f.m.Members() {
		say("member", m)
	}
	for _, l := range f.m.SeedLeases() {
		say("seed lease", l)
	}
	for _, a := range f.m.Alarms() {
		say("alarm", a)
	}
	leases, err := f.m.Leases()
	say("leases", fmt.Sprint(leases, err))
	for _, l := range leases {
		keys, err := f.m.LeaseKeys(l.ID)
		say(fmt.Sprintf("keys of %d", l.ID), fmt.Sprintf("%q %v", keys, err))
	}
	say("rules", f.rulesText())
	for rev := max(f.m.CompactRevision(), 1); rev <= f.m.Revision(); rev++ {
		resp, err := f.m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev})
		say(fmt.Sprintf("keys at %d", rev), fmt.Sprint(resp, err))
	}
	err = f.m.Changes(context.Background(), max(f.m.CompactRevision(), 1), true, func(e *mvccpb.Event) error {
		say("change", e)
		return nil
	})
	say("end", err)
	return out.String()
}

// Fixed names of the sample.
const (
	idA, idB = uint64(0x0a0a0a0a0a0a0a0a), uint64(0xbb)
	genesis  = "genesis nonce 16"
)

// sample is a machine and the kinds of entries that it carried out.
type sample struct {
	*fixture
	carried map[envelope.Kind]bool
}

// sampleLog is the machine of a command of testdata/format.
func sampleLog(t *testing.T, d *datadriven.TestData) *sample {
	f := &sample{open(t, vfs.NewMem()), map[envelope.Kind]bool{}}
	switch d.Cmd {
	case "keys":
		f.sampleKeys()
	case "leases":
		f.sampleLeases()
	case "auth":
		f.sampleAuth()
	case "members":
		f.sampleMembers()
	case "alarms":
		f.sampleAlarms()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return f
}

// carry applies an entry that must not be refused.
func (f *sample) carry(kind envelope.Kind, body proto.Message) state.Result {
	f.Helper()
	return f.do(entry(f.m.Applied().Index+1, kind, body))
}

// change is carry for a configuration change.
func (f *sample) change(typ state.ConfChangeType, id uint64, kind envelope.Kind, body proto.Message) {
	f.Helper()
	e := entry(f.m.Applied().Index+1, kind, body)
	e.Type, e.Conf = state.ConfChangeEntry, &state.ConfChange{Type: typ, NodeID: id}
	f.do(e)
}

func (f *sample) do(e state.Entry) state.Result {
	f.Helper()
	res, err := f.m.Apply(e)
	if err = errors.Join(err, res.Err); err != nil {
		f.Fatalf("entry %d: %v", e.Index, err)
	}
	f.carried[res.Kind] = true
	return res
}

// sampleKeys writes versions, tombstones and a transaction with sub revisions,
// and leaves history before and after a compaction.
func (f *sample) sampleKeys() {
	f.carry(envelope.Put, put("a", "1"))
	f.carry(envelope.Put, put("a", "2"))
	f.carry(envelope.Put, put("\x00\xff", ""))
	f.carry(envelope.DeleteRange, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")})
	f.carry(envelope.Put, put("a", "again"))
	op := func(key string) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put(key, "in one")}}
	}
	f.carry(envelope.Txn, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{op("t2"), op("t1"), op("a")}})
	f.carry(envelope.Compact, &etcdserverpb.CompactionRequest{Revision: 3})
}

// sampleLeases leaves leases with and without keys and a checkpoint, and traces
// of one that was revoked.
func (f *sample) sampleLeases() {
	f.carry(envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: 0x0102030405060708, TTL: 60})
	f.carry(envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: 7, TTL: 9_000_000_000})
	f.carry(envelope.LeaseGrant, &etcdserverpb.LeaseGrantRequest{ID: -2, TTL: 1})
	with := func(key string, id int64) *etcdserverpb.PutRequest {
		r := put(key, "v")
		r.Lease = id
		return r
	}
	f.carry(envelope.Put, with("b", 7))
	f.carry(envelope.Put, with("a\x00", 7))
	f.carry(envelope.Put, with("moved", 7))
	f.carry(envelope.Put, with("moved", 0x0102030405060708))
	f.carry(envelope.Put, with("goes", -2))
	f.carry(envelope.LeaseCheckpoint, &etcdserverpb.LeaseCheckpointRequest{Checkpoints: []*etcdserverpb.LeaseCheckpoint{
		{ID: 7, Remaining_TTL: 0x1234}, {ID: 1, Remaining_TTL: 5}}})
	f.carry(envelope.LeaseRevoke, &etcdserverpb.LeaseRevokeRequest{ID: -2})
}

// sampleAuth leaves users with and without passwords and roles, roles with and
// without permissions, and permissions being asked for.
func (f *sample) sampleAuth() {
	client := func(kind envelope.Kind, body proto.Message) {
		e := entry(f.m.Applied().Index+1, kind, body)
		env, err := envelope.Decode(e.Data)
		if err != nil {
			f.Fatal(err)
		}
		env.Client = &envelope.Client{Name: "root", Revision: f.m.Auth().Revision}
		e.Data = env.Append(nil)
		f.do(e)
	}
	hash := base64.StdEncoding.EncodeToString([]byte("hash"))
	f.carry(envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: "root", HashedPassword: hash})
	f.carry(envelope.UserGrantRole, &etcdserverpb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	f.carry(envelope.AuthEnable, &etcdserverpb.AuthEnableRequest{})
	client(envelope.AuthDisable, &etcdserverpb.AuthDisableRequest{})
	f.carry(envelope.AuthEnable, &etcdserverpb.AuthEnableRequest{})
	client(envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: "plain", Options: &authpb.UserAddOptions{NoPassword: true}})
	for _, role := range []string{"b", "a", "gone"} {
		client(envelope.RoleAdd, &etcdserverpb.AuthRoleAddRequest{Name: role})
		client(envelope.UserGrantRole, &etcdserverpb.AuthUserGrantRoleRequest{User: "root", Role: role})
	}
	client(envelope.RoleDelete, &etcdserverpb.AuthRoleDeleteRequest{Role: "gone"})
	client(envelope.UserRevokeRole, &etcdserverpb.AuthUserRevokeRoleRequest{Name: "root", Role: "b"})
	for i, end := range []string{"z", "", "\x00"} {
		client(envelope.RoleGrantPermission, &etcdserverpb.AuthRoleGrantPermissionRequest{Name: "a",
			Perm: &authpb.Permission{PermType: authpb.Permission_Type(i), Key: []byte("k"), RangeEnd: []byte(end)}})
	}
	client(envelope.RoleGrantPermission, &etcdserverpb.AuthRoleGrantPermissionRequest{Name: "a", Perm: &authpb.Permission{Key: []byte("g")}})
	client(envelope.RoleRevokePermission, &etcdserverpb.AuthRoleRevokePermissionRequest{Role: "a", Key: []byte("g")})
	client(envelope.UserChangePassword, &etcdserverpb.AuthUserChangePasswordRequest{Name: "root", HashedPassword: hash})
	client(envelope.UserAdd, &etcdserverpb.AuthUserAddRequest{Name: "gone", HashedPassword: hash})
	client(envelope.UserDelete, &etcdserverpb.AuthUserDeleteRequest{Name: "gone"})
	client(envelope.Authenticate, &etcdserverpb.InternalAuthenticateRequest{Name: "root", SimpleToken: strings.Repeat("5a", 32)})
}

// sampleAlarms leaves an alarm of each type, and none of one that was disarmed.
func (f *sample) sampleAlarms() {
	alarm := func(action etcdserverpb.AlarmRequest_AlarmAction, id uint64, t etcdserverpb.AlarmType) {
		f.carry(envelope.Alarm, &etcdserverpb.AlarmRequest{Action: action, MemberID: id, Alarm: t})
	}
	alarm(etcdserverpb.AlarmRequest_ACTIVATE, idA, etcdserverpb.AlarmType_NOSPACE)
	alarm(etcdserverpb.AlarmRequest_ACTIVATE, idB, etcdserverpb.AlarmType_NOSPACE)
	alarm(etcdserverpb.AlarmRequest_ACTIVATE, 0, etcdserverpb.AlarmType_CORRUPT)
	alarm(etcdserverpb.AlarmRequest_DEACTIVATE, idB, etcdserverpb.AlarmType_NOSPACE)
}

// sampleMembers leaves a member in each state and leases with and without a
// member, with every field of their records in use.
func (f *sample) sampleMembers() {
	f.change(state.AddVoter, idA, envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: idA, Name: "a", PeerUrls: []string{"http://a:1"}})
	f.change(state.AddVoter, idB, envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: idB, Name: "b", PeerUrls: []string{"http://b:2", "http://b:1"}})
	f.carry(envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: 0xc1, GenesisNonce: []byte(genesis), ClusterVersion: 1})
	f.carry(envelope.SetClusterVersion, &entryv1.SetClusterVersion{ClusterVersion: 1})
	reserve := func(name string, stay bool) uint64 {
		r := &entryv1.ReserveMember{Name: name, PeerUrls: []string{"http://" + name + ":1"}, StayLearner: stay}
		return f.carry(envelope.ReserveMember, r).Response.(*entryv1.MemberRecord).GetId()
	}
	waiting, learner, voter, cancelled := reserve("waiting", false), reserve("learner", true), reserve("voter", false), reserve("cancelled", false)
	f.carry(envelope.TouchReservation, &entryv1.TouchReservation{Id: waiting})
	f.carry(envelope.CancelReservation, &entryv1.CancelReservation{Id: cancelled, IfActivity: 1})
	lease := func(m *entryv1.OpenSeedLease) uint64 {
		m.TtlMs, m.CapBytes, m.SourceId = 60_000, 1<<30, idA
		return f.carry(envelope.OpenSeedLease, m).Response.(*entryv1.SeedLease).GetId()
	}
	first := lease(&entryv1.OpenSeedLease{MemberId: learner, Target: "learner:1"})
	pull, ended, closed := lease(&entryv1.OpenSeedLease{CloneOf: first}), lease(&entryv1.OpenSeedLease{}), lease(&entryv1.OpenSeedLease{})
	f.carry(envelope.RenewSeedLease, &entryv1.RenewSeedLease{Id: first, TtlMs: 90_000})
	f.carry(envelope.RenewSeedLease, &entryv1.RenewSeedLease{Id: pull})
	f.carry(envelope.ExpireSeedLease, &entryv1.ExpireSeedLease{Id: ended})
	f.carry(envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: closed})
	f.carry(envelope.BindMember, &entryv1.BindMember{Id: learner, DirectoryNonce: []byte("directory nonce!")})
	at := &entryv1.Position{Term: 1, Index: f.m.Applied().Index}
	f.change(state.AddLearner, learner, envelope.AddLearner, &entryv1.AddLearner{Id: learner, LeaseId: first, Position: at})
	f.carry(envelope.PublishMember, &entryv1.PublishMember{Id: learner, Name: "learner", ClientUrls: []string{"http://learner:9"}})
	f.change(state.AddLearner, voter, envelope.AddLearner, &entryv1.AddLearner{Id: voter})
	f.change(state.AddVoter, voter, envelope.PromoteMember, &entryv1.PromoteMember{Id: voter})
	f.carry(envelope.UpdateMember, &entryv1.UpdateMember{Id: voter, PeerUrls: []string{"http://voter:2"}})
	f.change(state.RemoveNode, idB, envelope.RemoveMember, &entryv1.RemoveMember{Id: idB})
}
