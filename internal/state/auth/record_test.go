package auth

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

func perm(typ authpb.Permission_Type, key, end string) *authpb.Permission {
	p := &authpb.Permission{PermType: typ, Key: []byte(key)}
	if end != "" {
		p.RangeEnd = []byte(end)
	}
	return p
}

// TestRecordFormat pins the bytes: a change of them is another format.
func TestRecordFormat(t *testing.T) {
	for want, m := range map[string]proto.Message{
		"0a0361" + "6461" + "1202" + "6868" + "1a0161" + "1a0162": &authpb.User{Name: []byte("ada"), Password: []byte("hh"), Roles: []string{"a", "b"}},
		"0a026e70" + "22020801":                                   &authpb.User{Name: []byte("np"), Options: &authpb.UserAddOptions{NoPassword: true}},
		"0a0172" + "1203120161" + "120808011201611a0162" + "120808021201621a0100": &authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
			perm(authpb.Permission_READ, "a", ""), perm(authpb.Permission_WRITE, "a", "b"), perm(authpb.Permission_READWRITE, "b", "\x00")}},
	} {
		got, err := encode(m)
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%v: %x, %v; want %s", m, got, err, want)
		}
		var back proto.Message
		switch m := m.(type) {
		case *authpb.User:
			back, err = decodeUser(m.GetName(), got)
		case *authpb.Role:
			back, err = decodeRole(m.GetName(), got)
		}
		if err != nil || !proto.Equal(back, m) {
			t.Errorf("%v is read as %v, %v", m, back, err)
		}
	}
	if got := hex.EncodeToString(encodeRevision(0x0102030405060708)); got != "0102030405060708" {
		t.Errorf("revision: %s", got)
	}
	var s settings
	if err := decodeMeta([]byte("revision"), encodeRevision(2), &s); err != nil || s.revision != 2 {
		t.Error(s, err)
	}
	if err := decodeMeta([]byte("enabled"), []byte{1}, &s); err != nil || !s.enabled {
		t.Error(s, err)
	}
}

func TestDecodersRefuse(t *testing.T) {
	long := strings.Repeat("n", envelope.MaxName+1)
	for name, c := range map[string]struct {
		key string
		u   *authpb.User
	}{
		"no name":             {"", &authpb.User{}},
		"a name too long":     {long, &authpb.User{Name: []byte(long)}},
		"another name":        {"ada", &authpb.User{Name: []byte("bob")}},
		"roles out of order":  {"ada", &authpb.User{Name: []byte("ada"), Roles: []string{"b", "a"}}},
		"a role twice":        {"ada", &authpb.User{Name: []byte("ada"), Roles: []string{"a", "a"}}},
		"options for nothing": {"ada", &authpb.User{Name: []byte("ada"), Options: &authpb.UserAddOptions{}}},
	} {
		value, err := encode(c.u)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := decodeUser([]byte(c.key), value); err == nil {
			t.Errorf("%s was read as %v", name, u)
		}
	}
	role := func(ps ...*authpb.Permission) *authpb.Role { return &authpb.Role{Name: []byte("r"), KeyPermission: ps} }
	for name, c := range map[string]struct {
		key string
		r   *authpb.Role
	}{
		"no name":      {"", &authpb.Role{}},
		"another name": {"s", role()},
		"no key":       {"r", role(perm(0, "", "b"))},
		"empty range":  {"r", role(perm(0, "b", "b"))},
		"out of order": {"r", role(perm(0, "b", ""), perm(0, "a", ""))},
		"twice":        {"r", role(perm(0, "a", "b"), perm(1, "a", "b"))},
	} {
		value, err := encode(c.r)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := decodeRole([]byte(c.key), value); err == nil {
			t.Errorf("%s was read as %v", name, r)
		}
	}
	for _, row := range [][2]string{{"enabled", ""}, {"enabled", "\x00"}, {"enabled", "\x01\x01"}, {"revision", ""},
		{"revision", "\x00\x00\x00\x00\x00\x00\x00\x01"}, {"other", "\x01"}} {
		if err := decodeMeta([]byte(row[0]), []byte(row[1]), &settings{}); err == nil {
			t.Errorf("%q = %q was read", row[0], row[1])
		}
	}
	if _, err := decodeUser([]byte("a"), []byte{0xff}); err == nil {
		t.Error("nonsense is a user")
	}
	if _, err := decodeRole([]byte("a"), []byte{0xff}); err == nil {
		t.Error("nonsense is a role")
	}
}

func FuzzDecodeUser(f *testing.F) {
	f.Add([]byte("ada"), []byte("\x0a\x03ada\x12\x02hh\x1a\x01a"))
	f.Add([]byte("np"), []byte("\x0a\x02np\x22\x02\x08\x01"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		u, err := decodeUser(key, value)
		if err != nil {
			return
		}
		again, err := encode(u)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeUser(key, again); err != nil || !proto.Equal(back, u) || !bytes.Equal(u.GetName(), key) {
			t.Errorf("%x = %x is read as %v, then %v, %v", key, value, u, back, err)
		}
	})
}

func FuzzDecodeRole(f *testing.F) {
	f.Add([]byte("r"), []byte("\x0a\x01r\x12\x03\x12\x01a\x12\x08\x08\x01\x12\x01a\x1a\x01b"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeRole(key, value)
		if err != nil {
			return
		}
		for _, p := range r.GetKeyPermission() {
			if w := spanOf(p.GetKey(), p.GetRangeEnd()); w.hi != nil && bytes.Compare(w.lo, w.hi) >= 0 {
				t.Errorf("%x = %x has an empty range", key, value)
			}
		}
		again, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRole(key, again); err != nil || !proto.Equal(back, r) {
			t.Errorf("%x = %x is read as %v, then %v, %v", key, value, r, back, err)
		}
	})
}
