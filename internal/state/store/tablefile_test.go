package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// tablesOf names the tables in a directory.
func tablesOf(t testing.TB, fs vfs.FS, dir string) []string {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	var out []string
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			out = append(out, fs.PathJoin(dir, name))
		}
	}
	return out
}

// remake writes a table again from its records.
func remake(fs vfs.FS, path string, o Options) (made []byte, s TableShape, err error) {
	f, err := OpenTable(context.Background(), fs, path)
	if err != nil {
		return nil, s, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if s, err = f.Shape(); err != nil {
		return nil, s, err
	}
	w, err := o.withDefaults().newTableWriter(func(p []byte) error { made = append(made, p...); return nil }, s)
	if err != nil {
		return nil, s, err
	}
	it, err := f.Records()
	if err != nil {
		w.Abort()
		return nil, s, err
	}
	var n uint64
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.Value(); err == nil {
			err = w.Add(it.Kind(), it.Seq(), it.Key(), v)
		}
		n++
	}
	if err = errors.Join(err, it.Err(), it.Close()); err != nil {
		w.Abort()
		return nil, s, err
	}
	if n != s.Records {
		return nil, s, fmt.Errorf("%d records, the table says %d", n, s.Records)
	}
	return made, s, w.Close()
}

// history writes random batches as the tables of a store are written, with
// flushes, compactions, iterators and snapshots in between.
type history struct {
	t         testing.TB
	s         *Store
	rng       *rand.Rand
	snapshots bool
	merges    bool
	deletes   bool
	size      int
	text      []byte
	rev       int64
	iters     []*pebble.Iterator
	snaps     []*pebble.Snapshot
}

// value cuts a value out of text, half of which is noise.
func (h *history) value() []byte {
	if h.text == nil {
		h.text = make([]byte, 1<<20)
		for i := range h.text {
			h.text[i] = byte('a' + h.rng.IntN(1+i%40))
		}
	}
	at := h.rng.IntN(len(h.text) - 2*h.size)
	return h.text[at : at+h.rng.IntN(2*h.size)]
}

func (h *history) batch() {
	b := h.s.db.NewBatch()
	for range 1 + h.rng.IntN(max(50*300/max(h.size, 300), 4)) {
		h.rev++
		key := fmt.Appendf(nil, "key/%04d", h.rng.IntN(300))
		switch n := h.rng.IntN(10); {
		case n < 6: // a version, which is pruned at times
			must(h.t, b.Set(appendSuffix(appendPrefix(nil, MVCC, key), h.rev), h.value(), nil))
			must(h.t, b.Set(appendPrefix(nil, Revisions, fmt.Appendf(nil, "%020d", h.rev)), key, nil))
			if h.deletes && h.rng.IntN(3) == 0 {
				must(h.t, b.Delete(appendSuffix(appendPrefix(nil, MVCC, key), h.rev-int64(h.rng.IntN(40))), nil))
			}
		case n < 8:
			must(h.t, b.Set(appendPrefix(nil, Lease, key), h.value(), nil))
		case n < 9 && h.deletes:
			must(h.t, b.Delete(appendPrefix(nil, Lease, key), nil))
		case h.merges:
			must(h.t, b.Merge(appendPrefix(nil, Alarms, key), h.value(), nil))
		}
		must(h.t, b.Set(appendPrefix(nil, Meta, []byte("head")), fmt.Appendf(nil, "%d", h.rev), nil))
	}
	must(h.t, b.Commit(pebble.NoSync), b.Close())
}

func (h *history) step() {
	switch n := h.rng.IntN(40); {
	case n < 2:
		must(h.t, h.s.db.Flush())
	case n == 2:
		must(h.t, h.s.db.Compact(h.t.Context(), []byte{0}, []byte{0xff}, false))
	case n == 3:
		it, err := h.s.db.NewIter(nil)
		must(h.t, err)
		it.First()
		h.iters = append(h.iters, it)
	case n == 4 && h.snapshots:
		h.snaps = append(h.snaps, h.s.db.NewSnapshot())
	case n == 5 && len(h.snaps) > 0:
		must(h.t, h.snaps[0].Close())
		h.snaps = h.snaps[1:]
	default:
		h.batch()
	}
}

func (h *history) end() {
	must(h.t, h.s.db.Flush())
	for _, it := range h.iters {
		must(h.t, it.Close())
	}
	for _, s := range h.snaps {
		must(h.t, s.Close())
	}
	must(h.t, h.s.db.Close())
}

// TestTablesAreReproducible holds what a delta by records rests on: every table
// that a store writes comes out again, byte for byte, of its records and of what
// it says of itself. A version of the engine that writes otherwise is found here.
func TestTablesAreReproducible(t *testing.T) {
	var tables, plain, deletes, pinned, large int
	for seed := range uint64(30) {
		fs := vfs.NewMem()
		h := &history{t: t, s: openMem(t, fs), rng: rand.New(rand.NewPCG(seed, 7)),
			snapshots: seed%3 == 1, merges: seed%2 == 1, deletes: seed%4 < 2, size: []int{1, 30, 300, 3000, 60000}[seed%5]}
		for range 150 {
			h.step()
		}
		h.end()
		for _, path := range tablesOf(t, fs, "state-1") {
			tables++
			want, err := fs.UnsafeGetFileDataBuffer(path)
			must(t, err)
			got, shape, err := remake(fs, path, Options{})
			if err != nil {
				t.Fatalf("history %d: %s: %v", seed, path, err)
			}
			if !shape.Plain {
				continue
			}
			if plain++; shape.Pinned[0] > 0 {
				pinned++
			}
			if len(want) > 1<<20 {
				large++
			}
			if n := deletions(t, fs, path); n > 0 {
				deletes++
			}
			if !bytes.Equal(got, want) {
				t.Errorf("history %d: %s comes out with %d bytes for %d, %+v", seed, path, len(got), len(want), shape)
			}
		}
	}
	t.Logf("%d tables, %d plain, %d with deletions, %d with pinned records, %d of more than 1 MiB", tables, plain, deletes, pinned, large)
	if plain < tables/2 || deletes == 0 || pinned == 0 || large == 0 {
		t.Error("the histories are too tame")
	}
}

// deletions counts records that delete.
func deletions(t testing.TB, fs vfs.FS, path string) (n int) {
	t.Helper()
	f, err := OpenTable(t.Context(), fs, path)
	must(t, err)
	it, err := f.Records()
	must(t, err)
	for ok := it.First(); ok; ok = it.Next() {
		if it.Kind() == uint8(pebble.InternalKeyKindDelete) {
			n++
		}
	}
	must(t, it.Err(), it.Close(), f.Close())
	return n
}

// What another store would write is other bytes: the test above can fail.
func TestTablesOfOtherOptionsDiffer(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	fill(t, s, 300)
	must(t, s.Close())
	for _, path := range tablesOf(t, fs, "state-1") {
		want, err := fs.UnsafeGetFileDataBuffer(path)
		must(t, err)
		if got, _, err := remake(fs, path, Options{}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the same options give other bytes (%v)", path, err)
		}
		if got, _, err := remake(fs, path, Options{compression: block.NoCompression}); err != nil || bytes.Equal(got, want) {
			t.Errorf("%s: without compression the bytes are the same (%v)", path, err)
		}
	}
}

// A damaged table gives fault.Corrupt wherever it is read, never a panic.
func TestDamagedTableFile(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	fill(t, s, 300)
	must(t, s.Close())
	path := tablesOf(t, fs, "state-1")[0]
	b, err := fs.UnsafeGetFileDataBuffer(path)
	must(t, err)
	for at := 0; at < len(b); at += 1 + len(b)/300 {
		b[at] ^= 4
		_, _, err := remake(fs, path, Options{})
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Errorf("another bit in byte %d of %d: %v", at, len(b), err)
		}
		if f, err := OpenTable(t.Context(), fs, path); err == nil {
			if _, _, err := f.Bounds(); err != nil && !fault.Is(err, fault.Corrupt) {
				t.Errorf("another bit in byte %d of %d: %v", at, len(b), err)
			}
			must(t, f.Close())
		} else if !fault.Is(err, fault.Corrupt) {
			t.Errorf("another bit in byte %d of %d: %v", at, len(b), err)
		}
		b[at] ^= 4
	}
	if _, _, err := remake(fs, path, Options{}); err != nil {
		t.Error(err)
	}
	if _, err := OpenTable(t.Context(), fs, "state-1/absent.sst"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// TestTableWriterRefuses: whatever is added, in whatever order, the writer gives
// an error and stops what it has started.
func TestTableWriterRefuses(t *testing.T) {
	key := func(s string) []byte { return appendPrefix(nil, Lease, []byte(s)) }
	set, del := uint8(pebble.InternalKeyKindSet), uint8(pebble.InternalKeyKindDeleteSized)
	type rec struct {
		kind  uint8
		seq   uint64
		key   []byte
		value string
	}
	full := errors.New("full")
	for name, c := range map[string]struct {
		format  pebble.FormatMajorVersion
		records []rec
		out     error
		code    fault.Code
	}{
		"good":         {FormatMajorVersion, []rec{{set, 5, key("a"), "1"}, {set, 3, key("a"), "2"}, {set, 0, key("b"), ""}}, nil, ""},
		"order":        {FormatMajorVersion, []rec{{set, 0, key("b"), ""}, {set, 0, key("a"), ""}}, nil, fault.Refused},
		"same":         {FormatMajorVersion, []rec{{set, 1, key("b"), ""}, {set, 1, key("b"), ""}}, nil, fault.Refused},
		"oldest first": {FormatMajorVersion, []rec{{set, 1, key("b"), ""}, {set, 2, key("b"), ""}}, nil, fault.Refused},
		"range delete": {FormatMajorVersion, []rec{{set, 1, key("a"), ""}, {15, 1, key("b"), ""}}, nil, fault.Refused},
		"no kind":      {FormatMajorVersion, []rec{{set, 1, key("a"), ""}, {99, 1, key("b"), ""}}, nil, fault.Refused},
		"no size":      {FormatMajorVersion, []rec{{set, 1, key("a"), ""}, {del, 1, key("b"), "\xff"}}, nil, fault.Refused},
		"output":       {FormatMajorVersion, []rec{{set, 1, key("a"), strings.Repeat("x", 50000)}}, full, fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			var n int
			w, err := NewTableWriter(func(p []byte) error { n += len(p); return c.out }, TableShape{Format: uint32(c.format.MaxTableFormat())}, 0)
			must(t, err)
			for _, r := range c.records {
				if err = w.Add(r.kind, r.seq, r.key, []byte(r.value)); err != nil {
					w.Abort()
					break
				}
			}
			if err == nil {
				err = w.Close()
			}
			if fault.CodeOf(err) != c.code || (c.out != nil) != errors.Is(err, full) || n == 0 && err == nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	for _, format := range []uint32{0, uint32(FormatMajorVersion.MaxTableFormat()) + 1, 1 << 31} {
		if _, err := NewTableWriter(nil, TableShape{Format: format}, 0); !fault.Is(err, fault.Refused) {
			t.Errorf("format %d: %v", format, err)
		}
	}
}

// TestTableWriterLimit: versions of one key are kept in memory until the table
// ends, so that what is written does not bound them; the limit does.
func TestTableWriterLimit(t *testing.T) {
	const limit = 1 << 20
	value := make([]byte, 64<<10)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, bounded := range []bool{true, false} {
		written := 0
		var most uint64
		if bounded {
			most = limit
		}
		w, err := NewTableWriter(func(p []byte) error { written += len(p); return nil }, TableShape{Format: uint32(FormatMajorVersion.MaxTableFormat())}, most)
		must(t, err)
		added := 0
		for ; added < 100 && err == nil; added++ {
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
			err = w.Add(uint8(pebble.InternalKeyKindSet), 0, appendSuffix(appendPrefix(nil, MVCC, []byte("k")), int64(1000-added)), value)
		}
		if bounded != fault.Is(err, fault.Refused) || bounded && (written > limit || added > 2*limit/len(value)) {
			t.Errorf("bounded %t: %d added, %d bytes written: %v", bounded, added, written, err)
		}
		w.Abort()
	}
}
