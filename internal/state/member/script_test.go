package member

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// memTables keeps the tables in a map. It serves the rules without a store.
type memTables map[string]string

func tableKey(t store.Table, key []byte) string { return string(byte(t)) + string(key) }

func (m memTables) Get(t store.Table, key []byte) ([]byte, error) {
	v, ok := m[tableKey(t, key)]
	if !ok {
		return nil, nil
	}
	return []byte(v), nil
}

func (m memTables) Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error {
	var keys []string
	for k := range m {
		if strings.HasPrefix(k, tableKey(t, prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k[1:]), []byte(m[k])); err != nil {
			return err
		}
	}
	return nil
}

func (m memTables) Set(t store.Table, key, value []byte) error {
	m[tableKey(t, key)] = string(value)
	return nil
}

func (m memTables) Delete(t store.Table, key []byte) error {
	delete(m, tableKey(t, key))
	return nil
}

// machine applies entries one after the other, as internal/state does.
type machine struct {
	tables memTables
	conf   *entryv1.ConfState
	index  uint64
}

func newMachine() *machine { return &machine{tables: memTables{}, conf: &entryv1.ConfState{}} }

func (m *machine) apply(kind envelope.Kind, body proto.Message) (proto.Message, error) {
	m.index++
	raw, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	return Apply(m.tables, m.index, kind, raw)
}

func (m *machine) change(kind envelope.Kind, body proto.Message, op ConfOp) (proto.Message, error) {
	m.index++
	raw, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	next, rec, err := ApplyConf(m.tables, m.conf, m.index, kind, raw, op)
	if err != nil {
		return nil, err
	}
	m.conf = next
	return rec, nil
}

// script runs the commands of a testdata file. IDs get the alias of `as`.
type script struct {
	*machine
	t     *testing.T
	alias map[string]uint64
}

func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{machine: newMachine(), t: t, alias: map[string]uint64{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(d)
		})
	})
}

func (s *script) run(d *datadriven.TestData) string {
	if d.HasArg("index") {
		s.index = s.num(d, "index") - 1
	}
	var rec proto.Message
	var err error
	before := fmt.Sprint(s.tables)
	switch d.Cmd {
	case "print":
		return s.print()
	case "init":
		rec, err = s.apply(envelope.ClusterInit, &entryv1.ClusterInit{
			ClusterId: s.num(d, "cluster"), GenesisNonce: s.nonce(d), ClusterVersion: uint32(s.num(d, "version")),
		})
	case "set-version":
		rec, err = s.apply(envelope.SetClusterVersion, &entryv1.SetClusterVersion{ClusterVersion: uint32(s.num(d, "to"))})
	case "reserve":
		rec, err = s.apply(envelope.ReserveMember, &entryv1.ReserveMember{
			Name: s.str(d, "name"), PeerUrls: s.list(d, "peer"), StayLearner: d.HasArg("stay"), DirectoryNonce: s.nonce(d),
		})
	case "touch":
		rec, err = s.apply(envelope.TouchReservation, &entryv1.TouchReservation{Id: s.id(d)})
	case "cancel":
		rec, err = s.apply(envelope.CancelReservation, &entryv1.CancelReservation{
			Id: s.id(d), IfActivity: s.num(d, "if-activity"), Force: d.HasArg("force"),
		})
	case "bind":
		rec, err = s.apply(envelope.BindMember, &entryv1.BindMember{Id: s.id(d), DirectoryNonce: s.nonce(d)})
	case "publish":
		rec, err = s.apply(envelope.PublishMember, &entryv1.PublishMember{
			Id: s.id(d), Name: s.str(d, "name"), PeerUrls: s.list(d, "peer"), ClientUrls: s.list(d, "client"),
		})
	case "update":
		rec, err = s.apply(envelope.UpdateMember, &entryv1.UpdateMember{Id: s.id(d), PeerUrls: s.list(d, "peer")})
	default:
		rec, err = s.leaseOrConf(d)
	}
	return s.result(d, before, rec, err)
}

func (s *script) leaseOrConf(d *datadriven.TestData) (proto.Message, error) {
	switch d.Cmd {
	case "open":
		return s.apply(envelope.OpenSeedLease, &entryv1.OpenSeedLease{
			TtlMs: s.num(d, "ttl"), CapBytes: s.num(d, "cap"), MemberId: s.id(d), CloneOf: s.num(d, "clone"),
			Target: s.str(d, "target"),
		})
	case "renew":
		return s.apply(envelope.RenewSeedLease, &entryv1.RenewSeedLease{
			Id: s.num(d, "lease"), TtlMs: s.num(d, "ttl"), CapBytes: s.num(d, "cap"),
		})
	case "expire":
		return s.apply(envelope.ExpireSeedLease, &entryv1.ExpireSeedLease{
			Id: s.num(d, "lease"), IfRenewal: s.num(d, "if-renewal"),
		})
	case "close":
		return s.apply(envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: s.num(d, "lease")})
	case "bootstrap":
		id := s.num(d, "as-id")
		s.alias[s.str(d, "name")] = id
		return s.change(envelope.BootstrapVoter, &entryv1.BootstrapVoter{
			Id: id, Name: s.str(d, "name"), PeerUrls: s.list(d, "peer"),
		}, ConfOp{AddVoter, id})
	case "found":
		return nil, s.found(d)
	case "add-learner":
		op := ConfOp{AddLearner, s.id(d)}
		if d.HasArg("as-voter") {
			op.Type = AddVoter
		}
		return s.change(envelope.AddLearner, &entryv1.AddLearner{
			Id: s.id(d), LeaseId: s.num(d, "lease"), Position: &entryv1.Position{Term: 1, Index: s.num(d, "position")},
		}, op)
	case "promote":
		return s.change(envelope.PromoteMember, &entryv1.PromoteMember{Id: s.id(d)}, ConfOp{AddVoter, s.id(d)})
	case "remove":
		return s.change(envelope.RemoveMember, &entryv1.RemoveMember{Id: s.id(d)}, ConfOp{Remove, s.id(d)})
	}
	s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return nil, nil
}

// result prints a record or an error, and checks what holds after every entry.
func (s *script) result(d *datadriven.TestData, before string, rec proto.Message, err error) string {
	diff, derr := Differences(s.tables, s.conf)
	if derr != nil || len(diff) > 0 {
		s.t.Fatalf("%s: after %s: %v %v", d.Pos, d.Cmd, diff, derr)
	}
	if err != nil {
		if fmt.Sprint(s.tables) != before {
			s.t.Fatalf("%s: %s failed and wrote", d.Pos, d.Cmd)
		}
		kind := "fatal"
		if IsRefusal(err) {
			kind = string(fault.CodeOf(err))
		}
		out := fmt.Sprintf("[%s] %s\n", kind, s.name(err.Error()))
		if h := fault.HintOf(err); h != "" {
			out += "hint: " + s.name(h) + "\n"
		}
		return out
	}
	if m, ok := rec.(*entryv1.MemberRecord); ok && d.HasArg("as") {
		s.alias[s.str(d, "as")] = m.GetId()
	}
	return s.format(rec)
}

func (s *script) format(rec proto.Message) string {
	switch r := rec.(type) {
	case nil:
		return s.print()
	case *entryv1.ClusterRecord:
		return fmt.Sprintf("cluster %d nonce %x version %d\n", r.GetClusterId(), shorten(r.GetGenesisNonce()), r.GetClusterVersion())
	case *entryv1.SeedLease:
		out := fmt.Sprintf("lease %d hold %d renewal %d ttl %d cap %d", r.GetId(), r.GetHold(), r.GetRenewal(), r.GetTtlMs(), r.GetCapBytes())
		if r.GetMemberId() != 0 {
			out += " for " + s.name(ident.FormatID(r.GetMemberId()))
		}
		return out + "\n"
	case *entryv1.MemberRecord:
		return s.formatMember(r)
	}
	return fmt.Sprintf("%T\n", rec)
}

func (s *script) formatMember(r *entryv1.MemberRecord) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.name(ident.FormatID(r.GetId())), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "MEMBER_STATE_")))
	if r.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
		b.WriteString(map[bool]string{true: " learner", false: " voter"}[r.GetLearner()])
	}
	if r.GetStayLearner() {
		b.WriteString(" stay")
	}
	fmt.Fprintf(&b, " name=%q peer=%v", r.GetName(), r.GetPeerUrls())
	if len(r.GetClientUrls()) > 0 {
		fmt.Fprintf(&b, " client=%v", r.GetClientUrls())
	}
	if len(r.GetDirectoryNonce()) > 0 {
		fmt.Fprintf(&b, " dir=%x", shorten(r.GetDirectoryNonce()))
	}
	if r.GetLeaseId() != 0 {
		fmt.Fprintf(&b, " lease=%d", r.GetLeaseId())
	}
	fmt.Fprintf(&b, " activity=%d urls_version=%d\n", r.GetActivity(), r.GetUrlsVersion())
	return b.String()
}

func (s *script) print() string {
	var b strings.Builder
	members, err := Members(s.tables)
	if err != nil {
		s.t.Fatal(err)
	}
	slices.SortFunc(members, func(x, y *entryv1.MemberRecord) int {
		return strings.Compare(s.name(ident.FormatID(x.GetId())), s.name(ident.FormatID(y.GetId())))
	})
	for _, m := range members {
		b.WriteString(s.formatMember(m))
	}
	leases, err := SeedLeases(s.tables)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range leases {
		b.WriteString(s.format(l))
	}
	for _, set := range []struct {
		name string
		ids  []uint64
	}{{"voters", s.conf.GetVoters()}, {"learners", s.conf.GetLearners()}} {
		var names []string
		for _, id := range set.ids {
			names = append(names, s.name(ident.FormatID(id)))
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "%s: %s\n", set.name, strings.Join(names, " "))
	}
	return b.String()
}

// name puts aliases in the place of IDs.
func (s *script) name(text string) string {
	var names []string
	for a := range s.alias {
		names = append(names, a)
	}
	slices.Sort(names)
	for _, a := range names {
		text = strings.ReplaceAll(text, ident.FormatID(s.alias[a]), "<"+a+">")
	}
	return text
}

func (s *script) str(d *datadriven.TestData, key string) string {
	if vals := s.list(d, key); len(vals) > 0 {
		return vals[0]
	}
	return ""
}

func (s *script) list(d *datadriven.TestData, key string) []string {
	arg, ok := d.Arg(key)
	if !ok {
		return nil
	}
	return arg.Vals
}

func (s *script) num(d *datadriven.TestData, key string) uint64 {
	v := s.str(d, key)
	if v == "" {
		return 0
	}
	return s.numOf(d, v)
}

func (s *script) numOf(d *datadriven.TestData, v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return n
}

// id gives the ID that `id=` names: an alias or hex digits.
func (s *script) id(d *datadriven.TestData) uint64 {
	v := s.str(d, "id")
	if v == "" {
		return 0
	}
	if id, ok := s.alias[v]; ok {
		return id
	}
	id, err := ident.ParseID(v)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return id
}

// nonce makes 16 bytes of the number `dir=` or `nonce=` gives.
func (s *script) nonce(d *datadriven.TestData) []byte {
	for _, key := range []string{"dir", "nonce"} {
		if d.HasArg(key) {
			return bytes.Repeat([]byte{byte(s.num(d, key))}, 16)
		}
	}
	return nil
}

func shorten(nonce []byte) []byte { return nonce[:1] }
