package envelope

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
)

// TestGolden pins bytes that are part of the format: a change of them is a new
// version.
func TestGolden(t *testing.T) {
	for golden, e := range map[string]Envelope{
		"01" + "0100" + "8877665544332211" + "626f6479": {Kind: Put, RequestID: 0x1122334455667788, Body: []byte("body")},
		"01" + "2f00" + "8877665544332211" + "0807060504030201" + "0100" + "0300" + "616461" + "626f6479": {Kind: Put,
			RequestID: 0x1122334455667788, Client: &Client{Name: "ada", Revision: 0x0102030405060708}, Body: []byte("body")},
		"01" + "2f00" + "0000000000000000" + "0000000000000000" + "1100" + "0000": {Kind: LeaseRevoke, Client: &Client{}, Body: []byte{}},
	} {
		raw, err := hex.DecodeString(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(e.Append(nil)); got != golden || e.Size() != len(raw) {
			t.Errorf("encoded %s, want %s; size %d", got, golden, e.Size())
		}
		if back, err := Decode(raw); err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("decoded %+v, %v", back, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := Envelope{Kind: Txn, RequestID: 7}.Append(nil)
	ada := Envelope{Kind: Txn, Client: &Client{Name: "ada"}}
	conf := Envelope{Kind: AddLearner, Client: &Client{Name: "ada"}}
	twice := Envelope{Kind: ofClient, Client: &Client{Name: "ada"}, Body: ada.Append(nil)[HeaderSize:]}
	for name, b := range map[string][]byte{
		"nothing":                         nil,
		"a short header":                  good[:HeaderSize-1],
		"a later version":                 append([]byte{Version + 1}, good[1:]...),
		"no version":                      append([]byte{0}, good[1:]...),
		"kind 0":                          append([]byte{Version, 0, 0}, good[3:]...),
		"an unknown kind":                 append([]byte{Version, 0xff, 0xff}, good[3:]...),
		"a short client":                  ada.Append(nil)[:HeaderSize+clientSize-1],
		"a short name":                    ada.Append(nil)[:HeaderSize+clientSize+2],
		"a client's configuration change": conf.Append(nil),
		"a client's client":               twice.Append(nil),
	} {
		if e, err := Decode(b); err == nil {
			t.Errorf("%s was decoded as %+v", name, e)
		}
	}
	if _, err := Decode(good); err != nil {
		t.Errorf("the original: %v", err)
	}
}

// TestKinds holds the numbers: they are in every log.
func TestKinds(t *testing.T) {
	for kind, want := range map[Kind]struct {
		name string
		conf bool
	}{
		1: {"put", false}, 2: {"delete_range", false}, 3: {"txn", false}, 4: {"compact", false},
		16: {"lease_grant", false}, 17: {"lease_revoke", false}, 18: {"lease_checkpoint", false},
		32: {"auth_enable", false}, 33: {"auth_disable", false}, 34: {"user_add", false}, 35: {"user_delete", false},
		36: {"user_change_password", false}, 37: {"user_grant_role", false}, 38: {"user_revoke_role", false},
		39: {"role_add", false}, 40: {"role_delete", false}, 41: {"role_grant_permission", false},
		42: {"role_revoke_permission", false}, 43: {"authenticate", false},
		64: {"cluster_init", false}, 65: {"set_cluster_version", false}, 66: {"reserve_member", false},
		67: {"touch_reservation", false}, 68: {"cancel_reservation", false}, 69: {"bind_member", false},
		70: {"publish_member", false}, 71: {"update_member", false}, 80: {"open_seed_lease", false},
		81: {"renew_seed_lease", false}, 82: {"expire_seed_lease", false}, 83: {"close_seed_lease", false},
		128: {"add_learner", true}, 129: {"promote_member", true}, 130: {"remove_member", true}, 131: {"bootstrap_voter", true},
	} {
		if !kind.Known() || kind.String() != want.name || kind.IsConfChange() != want.conf {
			t.Errorf("kind %d: %s, known %v, configuration change %v", uint16(kind), kind, kind.Known(), kind.IsConfChange())
		}
	}
	if Kind(19).Known() || Kind(19).String() != "kind(19)" {
		t.Errorf("kind 19 is kept for leases, not known: %s", Kind(19))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Envelope{Kind: Put, RequestID: 1, Body: []byte("x")}.Append(nil))
	f.Add(Envelope{Kind: Put, RequestID: 1, Client: &Client{Name: "ada", Revision: 7}, Body: []byte("x")}.Append(nil))
	f.Add([]byte{Version, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		if again := e.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x decodes and encodes to %x", b, again)
		}
	})
}
