package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// row is a record of a table made by hand.
type row struct {
	key   string
	seq   uint64
	kind  uint8
	value string
}

// rowKey is a key as the store has them, with a version or without.
func rowKey(i, version int) string {
	key := fmt.Sprintf("\x03key/%06d\x00", i)
	if version > 0 {
		key += string(binary.BigEndian.AppendUint64(nil, ^uint64(version))) + "\x09"
	}
	return key
}

var tableFormat = uint32(store.FormatMajorVersion.MaxTableFormat())

// sortRows orders rows as a table has them.
func sortRows(rows []row) {
	slices.SortFunc(rows, func(a, b row) int {
		if c := store.Comparer().Compare([]byte(a.key), []byte(b.key)); c != 0 {
			return c
		}
		if a.seq > b.seq {
			return -1
		}
		return 1
	})
}

// tableOf writes rows as a table of the store.
func tableOf(t testing.TB, rows []row) (content []byte) {
	t.Helper()
	w, err := store.NewTableWriter(func(p []byte) error { content = append(content, p...); return nil }, store.TableShape{Format: tableFormat}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := w.Add(r.kind, r.seq, []byte(r.key), []byte(r.value)); err != nil {
			w.Abort()
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return content
}

// withTable adds a table to a seed, which then is no state.
func withTable(t testing.TB, seed *Seed, content []byte) (_ *Seed, file int) {
	t.Helper()
	const name = "900001.sst"
	write(t, seed.fs, seed.fs.PathJoin(seed.Dir(), name), content)
	m := *seed.m
	entry := manifest.File{Kind: manifest.KindTable, Name: name, Size: uint64(len(content))}
	for _, c := range chunk.Split(content, m.ChunkSize) {
		entry.Chunks = append(entry.Chunks, chunk.Sum(c))
	}
	entry.Digest = manifest.FileDigest(entry.Size, entry.Chunks)
	m.Files = append(slices.Clone(m.Files), entry)
	slices.SortFunc(m.Files, func(a, b manifest.File) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	out, err := newSeed(seed.fs, seed.dir, &m)
	if err != nil {
		t.Fatal(err)
	}
	return out, slices.IndexFunc(m.Files, func(f manifest.File) bool { return f.Name == name })
}

// handmade is a seed with a table of some rows, and a base with tables of others.
func handmade(t testing.TB, fs vfs.FS, rows []row, base ...[]row) (seed *Seed, table record.Table) {
	t.Helper()
	seed, file := withTable(t, diverged(t, fs), tableOf(t, rows))
	for i, rows := range base {
		write(t, fs, fmt.Sprintf("base/state-1/%06d.sst", 800000+i), tableOf(t, rows))
	}
	tables, err := seed.DescribeTables(t.Context(), []int{file})
	if err != nil || !tables[0].Listable {
		t.Fatal(tables, err)
	}
	return seed, tables[0]
}

// someRows are n records with distinct keys, in order.
func someRows(rng *rand.Rand, n int) []row {
	var rows []row
	for i := range n {
		r := row{key: rowKey(i, rng.IntN(3)), kind: record.Set}
		switch rng.IntN(8) {
		case 0:
			r.kind = record.Delete
		case 1:
			r.kind, r.seq = record.SetDeleted, rng.Uint64N(1e6)
		}
		if r.kind != record.Delete {
			b := make([]byte, rng.IntN(400))
			for i := range b {
				b[i] = byte('a' + rng.IntN(1+i%30))
			}
			r.value = string(b)
		}
		rows = append(rows, r)
	}
	sortRows(rows)
	return rows
}

// TestMakeFromManyTables: whatever tables of the base the records are in, those
// that it does not have are asked for, and no others.
func TestMakeFromManyTables(t *testing.T) {
	for n := range uint64(12) {
		rng := rand.New(rand.NewPCG(n, 3))
		rows := someRows(rng, 1+rng.IntN(3000))
		base := make([][]row, rng.IntN(9))
		lacks := uint64(len(rows))
		apart := rng.IntN(2) == 0 // tables side by side
		for i, r := range rows {
			kept := false
			for at := range base {
				if apart && at != i*len(base)/len(rows) {
					continue
				}
				switch r.seq = rng.Uint64N(1000)*10 + uint64(at); rng.IntN(5) {
				case 0:
				case 1:
					old := r
					old.value += "old"
					base[at] = append(base[at], old)
				default:
					kept = true
					base[at] = append(base[at], r)
				}
			}
			if kept {
				lacks--
			}
		}
		base = slices.DeleteFunc(base, func(rows []row) bool { return len(rows) == 0 })
		fs := vfs.NewMem()
		seed, table := handmade(t, fs, rows, base...)
		st, m := openMatch(t, fs, seed)
		src := &seedRecords{seed: seed, piece: 1 + rng.IntN(500)}
		made, err := m.Make(t.Context(), table, src, nil)
		if err != nil || made != seed.m.Files[table.File].Size || src.picked != lacks {
			t.Errorf("history %d: made %d of %d bytes, asked for %d of %d records, %d tables: %v",
				n, made, seed.m.Files[table.File].Size, src.picked, lacks, len(base), err)
		}
		if cost := m.Cost(table); cost < seed.m.Files[table.File].Size {
			t.Errorf("it costs %d bytes", cost)
		}
		checkStaged(t, st, seed)
	}
}

// TestMakeOfHostileSource: whatever a source answers, what is staged is the
// seed's, and the error says whose fault it is.
func TestMakeOfHostileSource(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	rows := someRows(rng, 2000)
	half := slices.Clone(rows)
	for i := range half {
		if i%5 == 0 {
			half[i].value += "older"
		}
	}
	swap := func(i, j int) func([]record.Listed) []record.Listed {
		return func(l []record.Listed) []record.Listed { l[i], l[j] = l[j], l[i]; return l }
	}
	gone := errors.New("the line is cut")
	for name, c := range map[string]struct {
		src  seedRecords
		desc func(*record.Table)
		code fault.Code
		is   error
	}{
		"honest":                          {},
		"list too long":                   {src: seedRecords{list: func(l []record.Listed) []record.Listed { return append(l, l[0]) }}, code: fault.Corrupt},
		"list too short":                  {src: seedRecords{list: func(l []record.Listed) []record.Listed { return l[1:] }}, code: fault.Corrupt},
		"list empty":                      {src: seedRecords{list: func(l []record.Listed) []record.Listed { return nil }}, code: fault.Corrupt},
		"list cut":                        {src: seedRecords{tail: []byte{5, 1}}, code: fault.Corrupt},
		"list order":                      {src: seedRecords{list: swap(3, 1500)}, code: fault.Corrupt},
		"list order of what the base has": {src: seedRecords{list: swap(501, 1501)}, code: fault.Corrupt},
		"list of one hash": {src: seedRecords{list: func(l []record.Listed) []record.Listed {
			for i := range l {
				l[i].Hash = l[7].Hash
			}
			return l
		}}, code: fault.Corrupt},
		"other kinds": {src: seedRecords{list: func(l []record.Listed) []record.Listed {
			for i := range l {
				l[i].Kind = record.Merge
			}
			return l
		}}, code: fault.Corrupt},
		"other numbers": {src: seedRecords{list: func(l []record.Listed) []record.Listed {
			for i := range l {
				l[i].Seq = uint64(i)
			}
			return l
		}}, code: fault.Different, is: ErrNotAlike},
		"too many records": {src: seedRecords{pick: func(p []pickedRecord) []pickedRecord { return append(p, p[0]) }}, code: fault.Corrupt},
		"too few records":  {src: seedRecords{pick: func(p []pickedRecord) []pickedRecord { return p[:len(p)-1] }}, code: fault.Corrupt},
		"no records":       {src: seedRecords{pick: func(p []pickedRecord) []pickedRecord { return nil }}, code: fault.Corrupt},
		"another record": {src: seedRecords{pick: func(p []pickedRecord) []pickedRecord {
			p[9].value = append(p[9].value, '!')
			return p
		}}, code: fault.Corrupt},
		"order of records": {src: seedRecords{pick: func(p []pickedRecord) []pickedRecord { p[3], p[9] = p[9], p[3]; return p }}, code: fault.Corrupt},
		"line cut":         {src: seedRecords{fail: gone}, code: fault.Internal, is: gone},
		"other format":     {desc: func(t *record.Table) { t.Format-- }, code: fault.Different, is: ErrNotAlike},
		"no format":        {desc: func(t *record.Table) { t.Format = 99 }, code: fault.Refused},
		"pinned":           {desc: func(t *record.Table) { t.Pinned = [3]uint64{1, 2, 3} }, code: fault.Different, is: ErrNotAlike},
		"narrow":           {desc: func(t *record.Table) { t.Largest = t.Smallest }},
		"no keys":          {desc: func(t *record.Table) { t.Largest, t.Smallest = nil, nil }},
		"keys in reverse":  {desc: func(t *record.Table) { t.Largest, t.Smallest = t.Smallest, t.Largest }, code: fault.Corrupt},
		"more records":     {desc: func(t *record.Table) { t.Records++ }, code: fault.Corrupt},
		"endless":          {desc: func(t *record.Table) { t.Records = 1 << 40 }, code: fault.Corrupt},
		"none":             {desc: func(t *record.Table) { t.Records = 0 }, code: fault.Corrupt},
		"not listable":     {desc: func(t *record.Table) { t.Listable = false }, code: fault.Refused},
		"no file":          {desc: func(t *record.Table) { t.File = 1000 }, code: fault.Corrupt},
		"negative":         {desc: func(t *record.Table) { t.File = -1 }, code: fault.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			seed, table := handmade(t, fs, rows, half)
			st, m := openMatch(t, fs, seed)
			c.src.seed = seed
			if c.desc != nil {
				c.desc(&table)
			}
			made, err := m.Make(t.Context(), table, &c.src, nil)
			if fault.CodeOf(err) != c.code || c.is != nil && !errors.Is(err, c.is) || c.is == nil && errors.Is(err, ErrNotAlike) {
				t.Errorf("made %d: %v", made, err)
			}
			if errors.Is(err, ErrBase) {
				t.Errorf("the base is blamed: %v", err)
			}
			if made != st.BytesReused() || (err == nil) != (made == seed.m.Files[seedTable(seed)].Size) {
				t.Errorf("made %d, reused %d: %v", made, st.BytesReused(), err)
			}
			checkStaged(t, st, seed)
		})
	}
}

// seedTable is the table that withTable added.
func seedTable(seed *Seed) int {
	return slices.IndexFunc(seed.m.Files, func(f manifest.File) bool { return f.Name == "900001.sst" })
}

// TestMakeOfAnotherWriter: a table that another version has written in another way
// is found out at its first chunk that differs, which stays missing.
func TestMakeOfAnotherWriter(t *testing.T) {
	rows := someRows(rand.New(rand.NewPCG(5, 6)), 2000)
	fs := vfs.NewMem()
	f, err := fs.Create("other.sst", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	o := &pebble.Options{Comparer: store.Comparer(), FormatMajorVersion: store.FormatMajorVersion}
	o.EnsureDefaults()
	o.Levels[0].BlockSize = 8 << 10
	w := sstable.NewRawWriter(objstorageprovider.NewFileWritable(f), o.MakeWriterOptions(0, sstable.TableFormat(tableFormat)))
	for _, r := range rows {
		if err := w.Add(pebble.MakeInternalKey([]byte(r.key), pebble.SeqNum(r.seq), pebble.InternalKeyKind(r.kind)), []byte(r.value), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := readFile(fs, "other.sst")
	if err != nil {
		t.Fatal(err)
	}
	seed, file := withTable(t, diverged(t, fs), content)
	write(t, fs, "base/state-1/800000.sst", tableOf(t, rows[:1999]))
	tables, err := seed.DescribeTables(t.Context(), []int{file})
	if err != nil {
		t.Fatal(err)
	}
	st, m := openMatch(t, fs, seed)
	made, err := m.Make(t.Context(), tables[0], &seedRecords{seed: seed}, nil)
	if !errors.Is(err, ErrNotAlike) || made != 0 || !slices.Contains(m.Missing(), file) {
		t.Errorf("made %d: %v", made, err)
	}
	checkStaged(t, st, seed)
}

// TestMakeFromDamagedBase: what can not be read of the base is not used, and the
// error names the base.
func TestMakeFromDamagedBase(t *testing.T) {
	rows := someRows(rand.New(rand.NewPCG(5, 6)), 2000)
	for bit := range uint64(20) {
		fs := vfs.NewMem()
		seed, table := handmade(t, fs, rows, rows[:999], rows[1000:])
		st, m := openMatch(t, fs, seed)
		if bit == 0 {
			if err := fs.Remove("base/state-1/800000.sst"); err != nil {
				t.Fatal(err)
			}
		} else {
			flip(t, fs, "base/state-1/800000.sst", bit*bit*4099)
		}
		src := &seedRecords{seed: seed}
		made, err := m.Make(t.Context(), table, src, nil)
		var e *fault.Error
		if err != nil && (!errors.Is(err, ErrBase) || !errors.As(err, &e) || e.Path != "base" || bit > 0 && e.Code != fault.Corrupt || e.Hint == "") {
			t.Errorf("bit %d: made %d: %v", bit, made, err)
		}
		if bit == 0 && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a table that is gone: %v", err)
		}
		if err != nil { // that table is known now
			if made, err = m.Make(t.Context(), table, src, nil); err != nil || made == 0 || src.picked < 999 {
				t.Errorf("bit %d, again: made %d: %v", bit, made, err)
			}
		}
		checkStaged(t, st, seed)
	}
}

// TestMakeGoesOn: what was staged before the program ended is not made again into
// the stage, and the rest is.
func TestMakeGoesOn(t *testing.T) {
	rows := someRows(rand.New(rand.NewPCG(5, 6)), 3000)
	fs := vfs.NewMem()
	seed, table := handmade(t, fs, rows, rows[1:2000])
	st, m := openMatch(t, fs, seed)
	gone := errors.New("the line is cut")
	half := &seedRecords{seed: seed, fail: gone, pick: func(p []pickedRecord) []pickedRecord { return p[:500] }}
	first, err := m.Make(t.Context(), table, half, nil)
	if !errors.Is(err, gone) || first == 0 {
		t.Fatalf("made %d: %v", first, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := m.Make(ended, table, &seedRecords{seed: seed}, nil); !fault.Is(err, fault.Interrupted) {
		t.Errorf("ended: %v", err)
	}
	if err := errors.Join(st.Close(), m.base.Close()); err != nil {
		t.Fatal(err)
	}
	st, m = openMatch(t, fs, seed)
	if st.BytesReused() != first || !slices.Contains(m.Missing(), table.File) {
		t.Errorf("%d bytes are there of %d, missing %v", st.BytesReused(), first, m.Missing())
	}
	rest, err := m.Make(t.Context(), table, &seedRecords{seed: seed}, nil)
	if err != nil || first+rest != seed.m.Files[table.File].Size || slices.Contains(m.Missing(), table.File) {
		t.Errorf("made %d and %d of %d: %v", first, rest, seed.m.Files[table.File].Size, err)
	}
	checkStaged(t, st, seed)
}
