package member

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// entry is one drawn log entry.
type entry struct {
	kind envelope.Kind
	body proto.Message
	op   ConfOp
}

func (m *machine) run(e entry) (proto.Message, error) {
	if e.kind.IsConfChange() {
		return m.change(e.kind, e.body, e.op)
	}
	return m.apply(e.kind, e.body)
}

// drawEntry draws from a small world, so that entries meet.
func drawEntry(t *rapid.T, m *machine) entry {
	id := rapid.SampledFrom(knownIDs(m)).Draw(t, "id")
	lease := rapid.SampledFrom(append(knownLeases(m), 0, 1)).Draw(t, "lease")
	nonce := slices.Repeat([]byte{rapid.ByteRange(1, 4).Draw(t, "nonce")}, 16)
	if rapid.IntRange(0, 3).Draw(t, "no nonce") == 0 {
		nonce = nil
	}
	name := rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "name")
	urls := []string{fmt.Sprintf("http://h%d", rapid.IntRange(1, 5).Draw(t, "url"))}
	n := uint64(rapid.IntRange(0, 3).Draw(t, "n"))
	reserveURLs := urls[:min(1, rapid.IntRange(0, 3).Draw(t, "reserve urls"))]
	flag := rapid.Bool().Draw(t, "flag")
	all := []entry{
		{kind: envelope.ClusterInit, body: &entryv1.ClusterInit{ClusterId: 7, GenesisNonce: slices.Repeat([]byte{1 + byte(n/3)}, 16), ClusterVersion: 1}},
		{kind: envelope.ReserveMember, body: &entryv1.ReserveMember{Name: name, PeerUrls: reserveURLs, DirectoryNonce: nonce, StayLearner: flag}},
		{kind: envelope.TouchReservation, body: &entryv1.TouchReservation{Id: id}},
		{kind: envelope.CancelReservation, body: &entryv1.CancelReservation{Id: id, IfActivity: n, Force: flag}},
		{kind: envelope.BindMember, body: &entryv1.BindMember{Id: id, DirectoryNonce: nonce}},
		{kind: envelope.PublishMember, body: &entryv1.PublishMember{Id: id, Name: name, PeerUrls: urls[:n%2], ClientUrls: urls}},
		{kind: envelope.UpdateMember, body: &entryv1.UpdateMember{Id: id, PeerUrls: urls}},
		{kind: envelope.OpenSeedLease, body: &entryv1.OpenSeedLease{TtlMs: 1, CapBytes: n, MemberId: id * (n % 2), CloneOf: lease}},
		{kind: envelope.RenewSeedLease, body: &entryv1.RenewSeedLease{Id: lease, TtlMs: n}},
		{kind: envelope.ExpireSeedLease, body: &entryv1.ExpireSeedLease{Id: lease, IfRenewal: n}},
		{kind: envelope.CloseSeedLease, body: &entryv1.CloseSeedLease{Id: lease}},
		{kind: envelope.BootstrapVoter, body: &entryv1.BootstrapVoter{Id: n + 1, Name: name, PeerUrls: urls}, op: ConfOp{AddVoter, n + 1}},
		{kind: envelope.AddLearner, body: &entryv1.AddLearner{Id: id, LeaseId: lease, Position: &entryv1.Position{Index: lease + n}}, op: ConfOp{AddLearner, id}},
		{kind: envelope.AddLearner, body: &entryv1.AddLearner{Id: id}, op: ConfOp{AddLearner, id}},
		{kind: envelope.PromoteMember, body: &entryv1.PromoteMember{Id: id}, op: ConfOp{AddVoter, id}},
		{kind: envelope.RemoveMember, body: &entryv1.RemoveMember{Id: id}, op: ConfOp{Remove, id}},
		{kind: envelope.RemoveMember, body: &entryv1.RemoveMember{Id: id}, op: ConfOp{AddVoter, id}},
	}
	return rapid.SampledFrom(all).Draw(t, "entry")
}

func knownIDs(m *machine) []uint64 {
	ids := []uint64{9}
	recs, _ := Members(m.tables)
	for _, r := range recs {
		ids = append(ids, r.GetId())
		if live(r) {
			ids = append(ids, r.GetId(), r.GetId())
		}
	}
	return ids
}

func knownLeases(m *machine) []uint64 {
	var ids []uint64
	recs, _ := SeedLeases(m.tables)
	for _, r := range recs {
		ids = append(ids, r.GetId())
	}
	return ids
}

// TestInvariants applies random logs to two members and checks after every
// entry: both agree; a refusal wrote nothing; the configuration is the member
// table's; a simple change touches at most one ID; removed IDs and used
// directory nonces never change; holds never move; something happens at all.
func TestInvariants(t *testing.T) {
	accepted := map[envelope.Kind]int{}
	rapid.Check(t, func(t *rapid.T) {
		one, two := newMachine(), newMachine()
		for _, e := range []entry{
			{envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: 1}, ConfOp{AddVoter, 1}},
			{envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: 2}, ConfOp{AddVoter, 2}},
			{kind: envelope.ClusterInit, body: &entryv1.ClusterInit{ClusterId: 7, GenesisNonce: make([]byte, 16), ClusterVersion: 1}},
		}[:rapid.SampledFrom([]int{2, 3, 3}).Draw(t, "born")] {
			mustRun(t, one, e)
			mustRun(t, two, e)
		}
		for range rapid.IntRange(1, 200).Draw(t, "entries") {
			e := drawEntry(t, one)
			before := snapshotOf(t, one)
			_, err1 := one.run(e)
			_, err2 := two.run(e)
			if fmt.Sprint(err1) != fmt.Sprint(err2) || !proto.Equal(one.conf, two.conf) || !equalTables(one.tables, two.tables) {
				t.Fatalf("%s: members differ: %v, %v", e.kind, err1, err2)
			}
			if err1 != nil && !IsRefusal(err1) {
				t.Fatalf("%s: %v", e.kind, err1)
			}
			before.check(t, one, err1 != nil)
			if err1 == nil {
				accepted[e.kind]++
			}
		}
	})
	for _, k := range []envelope.Kind{envelope.ReserveMember, envelope.BindMember, envelope.AddLearner, envelope.PromoteMember, envelope.RemoveMember, envelope.OpenSeedLease, envelope.ExpireSeedLease} {
		if accepted[k] == 0 {
			t.Errorf("no %s was ever accepted: the drawn world is too poor", k)
		}
	}
}

func mustRun(t *rapid.T, m *machine, e entry) {
	if _, err := m.run(e); err != nil {
		t.Fatal(err)
	}
}

func equalTables(a, b memTables) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// past is what the tables were before an entry.
type past struct {
	dump    string
	conf    *entryv1.ConfState
	members []*entryv1.MemberRecord
	leases  []*entryv1.SeedLease
}

func snapshotOf(t *rapid.T, m *machine) past {
	members, err := Members(m.tables)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := SeedLeases(m.tables)
	if err != nil {
		t.Fatal(err)
	}
	return past{fmt.Sprint(m.tables), m.conf, members, leases}
}

func (p past) check(t *rapid.T, m *machine, refused bool) {
	if refused && p.dump != fmt.Sprint(m.tables) {
		t.Fatal("a refused entry wrote")
	}
	diff, err := Differences(m.tables, m.conf)
	if err != nil || len(diff) > 0 {
		t.Fatal(diff, err)
	}
	if len(m.conf.GetVoters()) == 0 {
		t.Fatal("no voter left")
	}
	if d := len(m.conf.GetVoters()) - len(p.conf.GetVoters()); d > 1 || d < -1 {
		t.Fatal("more than one voter changed")
	}
	for _, old := range p.members {
		rec, err := Member(m.tables, old.GetId())
		if err != nil || rec == nil {
			t.Fatalf("record %016x vanished: %v", old.GetId(), err)
		}
		if !live(old) && !proto.Equal(old, rec) {
			t.Fatalf("removed %016x changed", old.GetId())
		}
		if rec.GetState() < old.GetState() {
			t.Fatalf("%016x went from %s to %s", old.GetId(), old.GetState(), rec.GetState())
		}
		if len(old.GetDirectoryNonce()) > 0 && string(old.GetDirectoryNonce()) != string(rec.GetDirectoryNonce()) {
			t.Fatalf("%016x got another directory", old.GetId())
		}
	}
	for _, old := range p.leases {
		l, err := SeedLease(m.tables, old.GetId())
		if err != nil {
			t.Fatal(err)
		}
		if l != nil && (l.GetHold() != old.GetHold() || l.GetRenewal() < old.GetRenewal()) {
			t.Fatalf("lease %d: hold %d became %d", old.GetId(), old.GetHold(), l.GetHold())
		}
	}
}

// TestDifferencesSees plants one fault each: the oracle must not be blind.
func TestDifferencesSees(t *testing.T) {
	build := func() *machine {
		m := newMachine()
		for _, id := range []uint64{1, 2} {
			if _, err := m.run(entry{envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: id}, ConfOp{AddVoter, id}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.run(entry{kind: envelope.OpenSeedLease, body: &entryv1.OpenSeedLease{TtlMs: 1, CapBytes: 1, MemberId: 1}}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	member := func(m *machine, edit func(*entryv1.MemberRecord)) {
		rec, _ := Member(m.tables, 1)
		edit(rec)
		_ = putMember(m.tables, rec)
	}
	for name, plant := range map[string]func(*machine){
		"voter missing in the table": func(m *machine) { _ = m.tables.Delete(store.Members, idKey(2)) },
		"voter missing in the conf":  func(m *machine) { m.conf.Voters = []uint64{1} },
		"learner not in the table":   func(m *machine) { m.conf.Learners = []uint64{9} },
		"not ascending":              func(m *machine) { m.conf.Voters = []uint64{2, 1} },
		"role differs":               func(m *machine) { member(m, func(r *entryv1.MemberRecord) { r.Learner = true }) },
		"unknown state":              func(m *machine) { member(m, func(r *entryv1.MemberRecord) { r.State = 9 }) },
		"reservation with a role": func(m *machine) {
			member(m, func(r *entryv1.MemberRecord) { r.State, r.Learner = entryv1.MemberState_MEMBER_STATE_RESERVED, true })
		},
		"lease not there":  func(m *machine) { member(m, func(r *entryv1.MemberRecord) { r.LeaseId = 77 }) },
		"hold after lease": func(m *machine) { _ = putLease(m.tables, &entryv1.SeedLease{Id: 5, Hold: 6}) },
		"lease of nobody":  func(m *machine) { _ = putLease(m.tables, &entryv1.SeedLease{Id: 5, Hold: 5, MemberId: 99}) },
	} {
		m := build()
		if diff, err := Differences(m.tables, m.conf); err != nil || len(diff) != 0 {
			t.Fatalf("healthy state: %v %v", diff, err)
		}
		plant(m)
		if diff, err := Differences(m.tables, m.conf); err != nil || len(diff) == 0 {
			t.Errorf("%s: not seen (%v)", name, err)
		}
	}
}

// TestDamage: records and bodies that can not be read are this member's own
// trouble, never a verdict that other members would not give.
func TestDamage(t *testing.T) {
	for _, key := range [][]byte{idKey(1), idKey(2)} {
		for _, value := range []string{"\xff", "\x08\x09"} {
			m := newMachine()
			_ = m.tables.Set(store.Members, key, []byte(value))
			_ = m.tables.Set(store.SeedLeases, key, []byte(value))
			if _, err := Members(m.tables); err == nil {
				t.Errorf("Members accepted %q", value)
			}
			if _, err := SeedLeases(m.tables); err == nil {
				t.Errorf("SeedLeases accepted %q", value)
			}
			if _, err := m.apply(envelope.TouchReservation, &entryv1.TouchReservation{Id: uint64(key[7])}); err == nil || IsRefusal(err) {
				t.Errorf("touch of a damaged record: %v", err)
			}
			if _, err := m.apply(envelope.RenewSeedLease, &entryv1.RenewSeedLease{Id: uint64(key[7])}); err == nil || IsRefusal(err) {
				t.Errorf("renewal of a damaged lease: %v", err)
			}
		}
	}
	m := newMachine()
	if _, err := Apply(m.tables, 1, envelope.BindMember, []byte{0xff}); err == nil || IsRefusal(err) {
		t.Errorf("unreadable body: %v", err)
	}
	if _, err := Apply(m.tables, 1, envelope.Put, nil); err == nil || IsRefusal(err) {
		t.Errorf("foreign kind: %v", err)
	}
	if _, _, err := ApplyConf(m.tables, m.conf, 1, envelope.AddLearner, []byte{0xff}, ConfOp{}); err == nil || IsRefusal(err) {
		t.Errorf("unreadable context: %v", err)
	}
	if _, _, err := ApplyConf(m.tables, m.conf, 1, envelope.BindMember, nil, ConfOp{}); err == nil || IsRefusal(err) {
		t.Errorf("foreign kind: %v", err)
	}
}

// TestIDs: an ID depends on nonce and index, and steps aside for any used one.
func TestIDs(t *testing.T) {
	genesis := slices.Repeat([]byte{3}, 16)
	first := newID(genesis, 42, nil)
	if again := newID(genesis, 42, nil); again != first {
		t.Fatalf("%x, then %x", first, again)
	}
	if next := newID(genesis, 42, []*entryv1.MemberRecord{{Id: first, State: entryv1.MemberState_MEMBER_STATE_REMOVED}}); next == first {
		t.Fatal("a removed ID came back")
	}
	if other := newID(genesis, 43, nil); other == first {
		t.Fatal("index does not matter")
	}
	// Part of the format: members of different builds must derive the same one.
	if want := uint64(0x9ae4c162c0aade14); first != want {
		t.Errorf("ID %#x, want %#x", first, want)
	}
	for _, id := range []uint64{0, math.MaxUint64, math.MaxUint64 - 1} {
		if usable(id) {
			t.Errorf("%d is Raft's own", id)
		}
	}
}

// TestApplyConfKeepsItsInput: the configuration given is not changed.
func TestApplyConfKeepsItsInput(t *testing.T) {
	m := newMachine()
	for _, id := range []uint64{3, 1, 2} {
		old := proto.Clone(m.conf)
		given := m.conf
		if _, err := m.run(entry{envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: id}, ConfOp{AddVoter, id}}); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(old, given) {
			t.Fatal("input changed")
		}
	}
	if !slices.Equal(m.conf.GetVoters(), []uint64{1, 2, 3}) {
		t.Fatal(m.conf)
	}
}
