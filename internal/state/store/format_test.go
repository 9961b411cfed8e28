package store

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// TestGolden pins the bytes of the format: a diff of testdata/format is a
// change of the format.
func TestGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		s := sampleStore(t, d)
		defer func() { must(t, s.Close()) }()
		return dump(t, s.db)
	})
}

// TestGoldenIsRead puts the records of testdata/format into a database as they
// stand there: they are read as what was once written.
func TestGoldenIsRead(t *testing.T) {
	datadriven.RunTest(t, "testdata/format", func(t *testing.T, d *datadriven.TestData) string {
		want, fs := sampleStore(t, d), vfs.NewMem()
		s := openMem(t, fs)
		must(t, s.db.DeleteRange([]byte{0}, []byte{0xff}, nil))
		for key, value := range goldenRecords(t, d.Expected) {
			must(t, s.db.Set([]byte(key), value, nil))
		}
		must(t, s.Close())
		s = openMem(t, fs)
		if got, want := readings(t, s), readings(t, want); got != want {
			t.Errorf("%s: read\n%swant\n%s", d.Pos, got, want)
		}
		if s.Digest() != scanDigest(t, s) {
			t.Errorf("%s: the digest is not that of the records", d.Pos)
		}
		must(t, s.Close(), want.Close())
		return d.Expected
	})
}

// sampleStore is the store of a command of testdata/format.
func sampleStore(t *testing.T, d *datadriven.TestData) *Store {
	s := openMem(t, vfs.NewMem())
	switch d.Cmd {
	case "new":
	case "rows":
		writeRows(t, s)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return s
}

// writeRows writes a row to every table, and versions that meet the cases of
// their order: a key that is a prefix of another, zero bytes, a tombstone.
func writeRows(t *testing.T, s *Store) {
	b := s.NewBatch()
	for table := Meta + 1; table <= lastTable; table++ {
		if table.plain() {
			must(t, b.Set(table, []byte{'k', byte(table)}, fmt.Appendf(nil, "value of %s", table)))
		}
	}
	must(t, b.Set(Members, []byte("k\x00\x09"), nil))
	old := Version{Revision: 2, Live: true, Value: []byte("old")}
	must(t, b.SetVersion([]byte("a"), old, Version{}), b.SetVersion([]byte("ab"), old, Version{}), b.SetVersion([]byte("a\x00"), old, Version{}))
	b.SetRevision(2)
	b.SetConfState(&entryv1.ConfState{Voters: []uint64{0x0102030405060708, 1}, Learners: []uint64{1 << 63, 5}})
	must(t, b.Commit(ident.Position{Term: 3, Index: 0x1ff}))
	must(t, b.SetVersion([]byte("a"), Version{Revision: 0x102, Live: true, Value: []byte("new")}, old), b.SetVersion([]byte("ab"), Version{Revision: 0x102}, old))
	b.SetRevision(0x102)
	b.SetCompactRevision(2)
	must(t, b.Commit(ident.Position{Term: 3, Index: 0x200}), b.Close())
}

// dump prints every record of a database: what it is, key and value.
func dump(t *testing.T, db *pebble.DB) string {
	t.Helper()
	it, err := db.NewIter(nil)
	must(t, err)
	var out strings.Builder
	for ok := it.First(); ok; ok = it.Next() {
		record := fmt.Sprintf("  %x = %x", it.Key(), it.Value())
		fmt.Fprintf(&out, "%s\n%s\n", Comparer().FormatKey(it.Key()), strings.TrimRight(record, " "))
	}
	must(t, it.Error(), it.Close())
	return out.String()
}

// goldenRecords reads the keys and values of a dump.
func goldenRecords(t *testing.T, text string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for line := range strings.Lines(text) {
		if line, ok := strings.CutPrefix(line, "  "); ok {
			k, v, _ := strings.Cut(line, " =")
			key, kerr := hex.DecodeString(k)
			value, verr := hex.DecodeString(strings.TrimSpace(v))
			must(t, kerr, verr)
			out[string(key)] = value
		}
	}
	return out
}

// readings is all that can be read of a store, as text.
func readings(t *testing.T, s *Store) string {
	t.Helper()
	v := s.View()
	current, compacted, rerr := v.Revisions()
	pos, perr := v.Position()
	conf, cerr := v.ConfState()
	must(t, rerr, perr, cerr)
	var out strings.Builder
	fmt.Fprintf(&out, "schema %d, %s, revision %d, compacted %d, %v, digest %x\n", s.schema, pos, current, compacted, conf, s.Digest())
	for table := Meta + 1; table <= lastTable; table++ {
		if table.plain() {
			must(t, v.Scan(table, nil, func(key, value []byte) error {
				fmt.Fprintf(&out, "%s %q = %q\n", table, key, value)
				return nil
			}))
		}
	}
	for _, rev := range []int64{1, 2, current} {
		must(t, v.ScanVersions(MVCC, nil, nil, rev, func(key []byte, ver Version) error {
			fmt.Fprintf(&out, "at %d: %q@%d = %q\n", rev, key, ver.Revision, ver.Value)
			return nil
		}))
	}
	must(t, v.Close())
	return out.String()
}
