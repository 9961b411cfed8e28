package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func openMem(t tb, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open("state-1", Options{FS: fs, MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t tb, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func scanDigest(t tb, s *Store) [16]byte {
	t.Helper()
	v := s.View()
	d, err := v.ScanDigest(context.Background())
	must(t, err, v.Close())
	return d
}

func TestEmptyStore(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	rev, compacted := s.Revisions()
	if s.Position() != (ident.Position{}) || rev != 1 || compacted != -1 || len(s.ConfState().Voters) != 0 {
		t.Fatal(s.Position(), rev, compacted)
	}
	if s.Digest() != scanDigest(t, s) {
		t.Fatal("digest of an empty store is not that of a scan")
	}
	must(t, s.Close())
	info, err := Inspect("state-1", Options{FS: fs})
	must(t, err)
	if info.Revision != 1 || info.CompactRevision != 0 || info.SchemaVersion != SchemaVersion || info.FormatMajorVersion != uint64(FormatMajorVersion) {
		t.Fatalf("%+v", info)
	}
}

func TestBatchReadsItsOwnWrites(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	b := s.NewBatch()
	must(t, b.Set(Members, []byte("a"), []byte("1")), b.Set(Members, []byte("c"), nil), b.Commit(ident.Position{Term: 1, Index: 1}))
	must(t, b.Set(Members, []byte("b"), []byte("2")), b.Delete(Members, []byte("a")), b.Set(Members, []byte("c"), []byte("3")))
	var got []string
	must(t, b.Scan(Members, nil, func(k, v []byte) error {
		got = append(got, fmt.Sprintf("%s=%s", k, v))
		return nil
	}))
	if want := []string{"b=2", "c=3"}; !slices.Equal(got, want) {
		t.Fatal(got)
	}
	if v, err := b.Get(Members, []byte("a")); v != nil || err != nil {
		t.Fatal(v, err)
	}
	must(t, b.Rollback())
	if v, err := b.Get(Members, []byte("a")); string(v) != "1" || err != nil {
		t.Fatal(v, err)
	}
	if v, err := b.Get(Members, []byte("c")); v == nil || err != nil {
		t.Fatal("a present, empty record reads as absent", err)
	}
	if s.Digest() != b.Digest() || s.Digest() != scanDigest(t, s) {
		t.Fatal("digest after rollback")
	}
	must(t, b.Close(), s.Close())
}

func TestScanPassesTheCallersErrorOn(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	b := s.NewBatch()
	must(t, b.Set(Members, []byte("a"), nil), b.Set(Members, []byte("b"), nil))
	own := errors.New("own")
	if err := b.Scan(Members, nil, func(_, _ []byte) error { return own }); err != own || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	n := 0
	must(t, b.Scan(Members, nil, func(_, _ []byte) error { n++; return ErrStop }))
	if n != 1 {
		t.Fatal(n)
	}
	must(t, b.Close(), s.Close())
}

func TestBatchRefuses(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	b := s.NewBatch()
	for _, table := range []Table{0, Meta, MVCC, lastTable + 1} {
		if err := b.Set(table, []byte("k"), nil); err == nil {
			t.Errorf("Set in table %s", table)
		}
	}
	must(t, b.Commit(ident.Position{Term: 2, Index: 5}))
	for _, pos := range []ident.Position{{Term: 2, Index: 5}, {Term: 2, Index: 4}, {Term: 1, Index: 6}} {
		if err := b.Commit(pos); err == nil {
			t.Errorf("committed %s after 2/5", pos)
		}
	}
	must(t, b.Close(), s.Close())
}

// model is the plain form of a store: what Get and Scan must show.
type model struct {
	rows map[string]string            // table byte and key
	vers map[string]map[int64]Version // key to versions
	conf *entryv1.ConfState
	rev  int64
}

func (m *model) clone() *model {
	c := &model{rows: maps.Clone(m.rows), vers: map[string]map[int64]Version{}, conf: m.conf, rev: m.rev}
	for k, v := range m.vers {
		c.vers[k] = maps.Clone(v)
	}
	return c
}

func (m *model) at(key string, rev int64) (best Version) {
	for r, v := range m.vers[key] {
		if r <= rev && r > best.Revision {
			best = v
		}
	}
	return best
}

func (m *model) check(t tb, r VersionReader, rev int64) {
	t.Helper()
	for _, table := range []Table{Members, Revisions} {
		var want, got []string
		for _, k := range slices.Sorted(maps.Keys(m.rows)) {
			if Table(k[0]) == table && strings.HasPrefix(k[1:], "a") {
				want = append(want, k[1:]+"="+m.rows[k])
			}
		}
		must(t, r.Scan(table, []byte("a"), func(k, v []byte) error {
			got = append(got, string(k)+"="+string(v))
			return nil
		}))
		if !slices.Equal(got, want) {
			t.Fatalf("%s: scan gives %q, model %q", table, got, want)
		}
	}
	var want, got []string
	for _, k := range slices.Sorted(maps.Keys(m.vers)) {
		v := m.at(k, rev)
		one, err := r.Version(MVCC, []byte(k), rev)
		must(t, err)
		if one.Revision != v.Revision || one.Live != v.Live || !bytes.Equal(one.Value, v.Value) {
			t.Fatalf("%q at %d: %+v, model %+v", k, rev, one, v)
		}
		if k >= "a" && k < "b" && v.Live {
			want = append(want, fmt.Sprintf("%q@%d=%q", k, v.Revision, v.Value))
		}
	}
	must(t, r.ScanVersions(MVCC, []byte("a"), []byte("b"), rev, func(k []byte, v Version) error {
		got = append(got, fmt.Sprintf("%q@%d=%q", k, v.Revision, v.Value))
		return nil
	}))
	if !slices.Equal(got, want) {
		t.Fatalf("at %d: scan gives %v, model %v", rev, got, want)
	}
}

func drawKey(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "a\x00", "a\x00\x09", "ab", "a\xff", "b", "\x00", "\xff"}).Draw(t, "key")
}

// TestStoreAgainstModel drives batches with commits and rollbacks, flushes and
// reopenings, and compares every read and the digest with a plain model.
func TestStoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		s := openMem(t, fs)
		b := s.NewBatch()
		base := &model{rows: map[string]string{}, vers: map[string]map[int64]Version{}, rev: 1}
		next := base.clone()
		index := uint64(0)
		write := func(t *rapid.T) {
			key, table := drawKey(t), rapid.SampledFrom([]Table{Members, Revisions}).Draw(t, "table")
			row := string(byte(table)) + key
			if rapid.Bool().Draw(t, "delete") {
				must(t, b.Delete(table, []byte(key)))
				delete(next.rows, row)
				return
			}
			value := rapid.StringN(0, 3, -1).Draw(t, "value")
			must(t, b.Set(table, []byte(key), []byte(value)))
			next.rows[row] = value
		}
		t.Repeat(map[string]func(*rapid.T){
			"row": write,
			"version": func(t *rapid.T) {
				key := drawKey(t)
				old, err := b.Version(MVCC, []byte(key), 1<<62)
				must(t, err)
				v := Version{Revision: base.rev + 1, Live: rapid.Bool().Draw(t, "live")}
				if v.Live {
					v.Value = rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "value")
				}
				must(t, b.SetVersion([]byte(key), v, old))
				b.SetRevision(v.Revision)
				next.rev = v.Revision
				if next.vers[key] == nil {
					next.vers[key] = map[int64]Version{}
				}
				next.vers[key][v.Revision] = v
			},
			"conf": func(t *rapid.T) {
				ids := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 9), 0, 3, rapid.ID[uint64]).Draw(t, "voters")
				b.SetConfState(&entryv1.ConfState{Voters: ids})
			},
			"commit": func(t *rapid.T) {
				index++
				must(t, b.Commit(ident.Position{Term: 1, Index: index}))
				base, next = next, next.clone()
			},
			"rollback": func(t *rapid.T) {
				must(t, b.Rollback())
				next = base.clone()
			},
			"flush": func(t *rapid.T) { must(t, s.Flush()) },
			"reopen": func(t *rapid.T) {
				digest := s.Digest()
				must(t, b.Close(), s.Close())
				s = openMem(t, fs)
				b = s.NewBatch()
				next = base.clone()
				if s.Digest() != digest || s.Position().Index != index {
					t.Fatal("a reopened store differs")
				}
			},
			"": func(t *rapid.T) {
				rev := rapid.Int64Range(1, base.rev+2).Draw(t, "read revision")
				next.check(t, b, rev)
				v := s.View()
				base.check(t, v, rev)
				must(t, v.Close())
				if s.Digest() != scanDigest(t, s) {
					t.Fatal("running digest is not that of a scan")
				}
			},
		})
		must(t, b.Close(), s.Close())
	})
}

func TestViewStaysAsItWas(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	b := s.NewBatch()
	must(t, b.Set(Members, []byte("k"), []byte("old")), b.Commit(ident.Position{Term: 1, Index: 1}))
	v := s.View()
	must(t, b.Set(Members, []byte("k"), []byte("new")), b.Commit(ident.Position{Term: 1, Index: 2}))
	pos, err := v.Position()
	must(t, err)
	got, err := v.Get(Members, []byte("k"))
	must(t, err)
	if pos.Index != 1 || string(got) != "old" {
		t.Fatalf("%s %q", pos, got)
	}
	must(t, v.Close(), b.Close(), s.Close())
}

// TestTamperedRecordsChangeTheDigest is the digest's own test: any change of a
// record behind its back must show.
func TestTamperedRecordsChangeTheDigest(t *testing.T) {
	version := func(key string, rev int64) []byte { return appendSuffix(appendPrefix(nil, MVCC, []byte(key)), rev) }
	row := func(key string) []byte { return appendPrefix(nil, Members, []byte(key)) }
	for name, tamper := range map[string]func(*pebble.DB) error{
		"value":   func(db *pebble.DB) error { return db.Set(row("m"), []byte("w"), nil) },
		"missing": func(db *pebble.DB) error { return db.Delete(row("m"), nil) },
		"extra":   func(db *pebble.DB) error { return db.Set(row("n"), nil, nil) },
		"swapped": func(db *pebble.DB) error {
			return errors.Join(db.Set(row("m"), []byte("x"), nil), db.Set(row("o"), []byte("v"), nil))
		},
		"version value":  func(db *pebble.DB) error { return db.Set(version("k", 3), []byte("\x01X"), nil) },
		"lost version":   func(db *pebble.DB) error { return db.Delete(version("k", 3), nil) },
		"newer version":  func(db *pebble.DB) error { return db.Set(version("k", 4), []byte("\x01new"), nil) },
		"tombstone":      func(db *pebble.DB) error { return db.Set(version("k", 4), []byte{0}, nil) },
		"revived":        func(db *pebble.DB) error { return db.Delete(version("dead", 3), nil) },
		"configuration":  func(db *pebble.DB) error { return tamperHead(db, func(h *head) { h.conf.Voters[0]++ }) },
		"revision":       func(db *pebble.DB) error { return tamperHead(db, func(h *head) { h.revision++ }) },
		"compaction":     func(db *pebble.DB) error { return tamperHead(db, func(h *head) { h.compact++ }) },
		"digest":         func(db *pebble.DB) error { return tamperHead(db, func(h *head) { h.digest.lo++ }) },
		"history (none)": func(db *pebble.DB) error { return db.Delete(version("k", 2), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openMem(t, vfs.NewMem())
			b := s.NewBatch()
			old := Version{Revision: 2, Live: true, Value: []byte("2")}
			must(t, b.Set(Members, []byte("m"), []byte("v")), b.Set(Members, []byte("o"), []byte("x")),
				b.SetVersion([]byte("k"), old, Version{}), b.SetVersion([]byte("dead"), old, Version{}))
			b.SetConfState(&entryv1.ConfState{Voters: []uint64{1}})
			must(t, b.Commit(ident.Position{Term: 1, Index: 1}))
			must(t, b.SetVersion([]byte("k"), Version{Revision: 3, Live: true, Value: []byte("3")}, old), b.SetVersion([]byte("dead"), Version{Revision: 3}, old))
			b.SetRevision(3)
			must(t, b.Commit(ident.Position{Term: 1, Index: 2}), b.Close())
			must(t, tamper(s.db))
			v := s.View()
			recorded, err := v.Digest()
			must(t, err)
			same := scanDigest(t, s) == recorded
			if want := strings.HasSuffix(name, "(none)"); same != want {
				t.Fatalf("digests equal: %v, want %v", same, want)
			}
			must(t, v.Close(), s.Close())
		})
	}
}

func tamperHead(db *pebble.DB, change func(*head)) error {
	key := appendPrefix(nil, Meta, []byte(metaHead))
	raw, c, err := db.Get(key)
	if err != nil {
		return err
	}
	h, err := decodeHead(raw)
	if err != nil {
		return err
	}
	change(&h)
	return errors.Join(c.Close(), db.Set(key, h.append(nil), nil))
}

func TestLargeRecordsHashAlike(t *testing.T) {
	var a, b hasher
	for _, n := range []int{0, 1, hashCopyLimit - 1, hashCopyLimit, hashCopyLimit + 1, 1 << 20} {
		key, value := []byte("key"), bytes.Repeat([]byte{7}, n)
		want := b.record(append(slices.Clone(key), 0), value)
		if a.record(key, value) == want {
			t.Errorf("%d bytes: another key has the same hash", n)
		}
		if got := b.record(key, value); got != a.record(key, value) {
			t.Errorf("%d bytes: %v is not stable", n, got)
		}
	}
}

func TestNewerStoreIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	must(t, s.db.Set(appendPrefix(nil, Meta, []byte(metaSchema)), []byte{0, 0, 0, 2}, nil), s.Close())
	if _, err := Open("state-1", Options{FS: fs}); !fault.Is(err, fault.Refused) {
		t.Fatalf("got %v", err)
	}
}

func TestDamagedMetaIsCorrupt(t *testing.T) {
	for name, tamper := range map[string]func(*pebble.DB) error{
		"no head":      func(db *pebble.DB) error { return db.Delete(appendPrefix(nil, Meta, []byte(metaHead)), nil) },
		"short head":   func(db *pebble.DB) error { return db.Set(appendPrefix(nil, Meta, []byte(metaHead)), []byte{1}, nil) },
		"no schema":    func(db *pebble.DB) error { return db.Delete(appendPrefix(nil, Meta, []byte(metaSchema)), nil) },
		"short schema": func(db *pebble.DB) error { return db.Set(appendPrefix(nil, Meta, []byte(metaSchema)), nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openMem(t, fs)
			must(t, tamper(s.db), s.Close())
			if _, err := Open("state-1", Options{FS: fs}); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
