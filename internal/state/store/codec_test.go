package store

import (
	"bytes"
	"testing"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

func sampleHead() head {
	return head{
		pos: ident.Position{Term: 3, Index: 9}, digest: sum{hi: 1, lo: 2}, revision: 8, compact: 5,
		conf: &entryv1.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{9}},
	}
}

func TestHeadBytes(t *testing.T) {
	h := sampleHead()
	got := h.append(nil)
	want := []byte{
		0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, // term, index
		0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, // digest
		0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, // revisions
		0, 0, 0, 3, 0, 0, 0, 1, // voters, learners
		0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3,
		0, 0, 0, 0, 0, 0, 0, 9,
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("format changed:\n%x\n%x", got, want)
	}
}

func TestKeyBytes(t *testing.T) {
	if got := appendSuffix(appendPrefix(nil, MVCC, []byte("ab")), 5); string(got) != "\x03ab\x00\xff\xff\xff\xff\xff\xff\xff\xfa\x09" {
		t.Fatalf("format changed: %x", got)
	}
}

func FuzzDecodeHead(f *testing.F) {
	h := sampleHead()
	f.Add(h.append(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, headFixed))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHead(b)
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes but encodes as %x", b, again)
		}
	})
}

func FuzzSplitKey(f *testing.F) {
	for _, k := range sampleKeys() {
		f.Add(k)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, k []byte) {
		prefix, rev, versioned, err := splitKey(k)
		if err != nil {
			return
		}
		again := appendPrefix(nil, Table(prefix[0]), userKey(prefix))
		if versioned {
			again = appendSuffix(again, rev)
		}
		if !bytes.Equal(again, k) {
			t.Fatalf("%x decodes but encodes as %x", k, again)
		}
	})
}

func FuzzDecodeVersion(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVersion(b)
		if err == nil && (v.Live != (b[0] == flagLive) || !v.Live && len(v.Value) > 0) {
			t.Fatalf("%x gives %+v", b, v)
		}
	})
}
