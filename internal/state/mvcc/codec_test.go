package mvcc

import (
	"bytes"
	"testing"
)

func TestRecordBytes(t *testing.T) {
	got := record{create: 2, version: 300, lease: 1, value: []byte("v")}.encode()
	if want := []byte{2, 0xac, 0x02, 1, 'v'}; !bytes.Equal(got, want) {
		t.Fatalf("format changed: %x", got)
	}
	if got := revisionKey(5, 7); !bytes.Equal(got, []byte{0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7}) {
		t.Fatalf("format changed: %x", got)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(record{create: 2, version: 1}.encode())
	f.Add(record{create: 1 << 60, version: 1 << 40, lease: 1 << 62, value: []byte("value")}.encode())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 30))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if r.create <= 0 || r.version <= 0 {
			t.Fatalf("%x gives %+v", b, r)
		}
		again, err := decodeRecord(r.encode())
		if err != nil || again.create != r.create || again.version != r.version || again.lease != r.lease || !bytes.Equal(again.value, r.value) {
			t.Fatalf("%x: %+v is not %+v, %v", b, again, r, err)
		}
	})
}

func FuzzDecodeRevisionKey(f *testing.F) {
	f.Add(revisionKey(1, 2))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		main, sub, err := decodeRevisionKey(b)
		if err == nil && !bytes.Equal(revisionKey(main, sub), b) {
			t.Fatalf("%x gives %d, %d", b, main, sub)
		}
	})
}
