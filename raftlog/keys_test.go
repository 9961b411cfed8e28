package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/ident"
)

// TestGolden pins the bytes of the format: a diff of testdata/format is a
// change of the format.
func TestGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		l := openTest(t, memOptions())
		defer func() { _ = l.Close() }()
		switch d.Cmd {
		case "new":
		case "seeded":
			mustAppend(t, l, Batch{
				Reset:   &Reset{Position: ident.Position{Term: 5, Index: 258}, State: 3},
				Entries: run(5, 259, 260), HardState: hard(6, 0xabc, 259),
			})
		default:
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		return dump(t, l.db)
	})
}

func dump(t *testing.T, db *pebble.DB) string {
	var b strings.Builder
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		fmt.Fprintf(&b, "%x = %x\n", it.Key(), it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// FuzzDecode gives bytes to every decoder: an error or a value, which encodes
// to the same bytes where the encoding is ours.
func FuzzDecode(f *testing.F) {
	f.Add(encodeFormat())
	f.Add(encodeHard(hardState{1, 2, 3}))
	f.Add(encodeTrunc(ident.Position{Term: 1, Index: 2}))
	f.Add(encodeState(7))
	f.Add(append(appendEntryKey(nil, 9), mustMarshal(f, 9)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := decodeFormat(b); err == nil && !bytes.Equal(b, encodeFormat()) {
			t.Errorf("format %x accepted", b)
		}
		if h, err := decodeHard(b); err == nil && !bytes.Equal(encodeHard(h), b) {
			t.Errorf("HardState %x", b)
		}
		if p, err := decodeTrunc(b); err == nil && !bytes.Equal(encodeTrunc(p), b) {
			t.Errorf("truncation point %x", b)
		}
		if n, err := decodeState(b); err == nil && !bytes.Equal(encodeState(n), b) {
			t.Errorf("state pointer %x", b)
		}
		if len(b) < entryKeySize {
			return
		}
		key, value := b[:entryKeySize], b[entryKeySize:]
		e, err := decodeEntry(key, value)
		if err != nil {
			return
		}
		if !bytes.Equal(appendEntryKey(nil, e.GetIndex()), key) || e.GetTerm() == 0 {
			t.Errorf("entry %v under key %x", e, key)
		}
	})
}

func mustMarshal(t testing.TB, index uint64) []byte {
	b, err := proto.Marshal(entry(1, index, "data"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
