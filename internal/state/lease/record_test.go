package lease

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// TestRecordFormat pins the bytes: a change of them is another format.
func TestRecordFormat(t *testing.T) {
	for _, c := range []struct {
		l          Lease
		key, value string
	}{
		{Lease{ID: 0x0102030405060708, TTL: 60}, "0102030405060708", "000000000000003c" + "0000000000000000"},
		{Lease{ID: -2, TTL: MaxTTL, Remaining: 0x1234}, "fffffffffffffffe", "0000000218711a00" + "0000000000001234"},
	} {
		if key, value := hex.EncodeToString(idKey(c.l.ID)), hex.EncodeToString(c.l.encode()); key != c.key || value != c.value {
			t.Errorf("%+v: %s = %s, want %s = %s", c.l, key, value, c.key, c.value)
		}
		if back, err := decodeLease(idKey(c.l.ID), c.l.encode()); err != nil || back != c.l {
			t.Errorf("%+v is read as %+v, %v", c.l, back, err)
		}
	}
	if got := hex.EncodeToString(attachment(7, []byte("k\x00"))); got != "0000000000000007"+"6b00" {
		t.Errorf("attachment: %s", got)
	}
}

func TestDecodersRefuse(t *testing.T) {
	good := Lease{ID: 1, TTL: 60, Remaining: 10}
	for name, l := range map[string]Lease{
		"lease 0": {TTL: 60}, "no time to live": {ID: 1}, "a negative one": {ID: 1, TTL: -1}, "one too long": {ID: 1, TTL: MaxTTL + 1},
		"more left than granted": {ID: 1, TTL: 60, Remaining: 61}, "less than nothing left": {ID: 1, TTL: 60, Remaining: -1},
	} {
		if got, err := decodeLease(idKey(l.ID), l.encode()); err == nil {
			t.Errorf("%s was read as %+v", name, got)
		}
	}
	for _, b := range [][]byte{nil, good.encode()[:valueLen-1], append(good.encode(), 0)} {
		if got, err := decodeLease(idKey(1), b); err == nil {
			t.Errorf("%x was read as %+v", b, got)
		}
	}
	if _, err := decodeLease(idKey(1)[1:], good.encode()); err == nil {
		t.Error("a short key was read")
	}
	for name, row := range map[string][2][]byte{
		"no user key": {idKey(1), nil}, "a short ID": {idKey(1)[1:], nil}, "lease 0": {attachment(0, []byte("k")), nil},
		"a value": {attachment(1, []byte("k")), []byte("v")},
	} {
		if id, key, err := decodeAttachment(row[0], row[1]); err == nil {
			t.Errorf("%s was read as %d, %q", name, id, key)
		}
	}
}

func FuzzDecodeLease(f *testing.F) {
	f.Add(idKey(1), Lease{ID: 1, TTL: 60, Remaining: 10}.encode())
	f.Add(idKey(-1), []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		l, err := decodeLease(key, value)
		if err != nil {
			return
		}
		if !bytes.Equal(idKey(l.ID), key) || !bytes.Equal(l.encode(), value) || l.Left() < 1 || l.Left() > MaxTTL {
			t.Errorf("%x = %x is read as %+v", key, value, l)
		}
	})
}

func FuzzDecodeAttachment(f *testing.F) {
	f.Add(attachment(1, []byte("key")), []byte{})
	f.Add(idKey(1), []byte("v"))
	f.Fuzz(func(t *testing.T, row, value []byte) {
		id, key, err := decodeAttachment(row, value)
		if err != nil {
			return
		}
		if id == 0 || len(key) == 0 || !bytes.Equal(attachment(id, key), row) {
			t.Errorf("%x is read as %d, %q", row, id, key)
		}
	})
}
