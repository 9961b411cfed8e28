package snapshot

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// TestMatch: files are found by their bytes in whichever state has them; tables
// are divided into those that are shared, lacking, and left to take records from.
func TestMatch(t *testing.T) {
	fresh := newTestSeed(t)
	fs := vfs.NewMem()
	old := datadir.At(fs, "base")
	if err := old.Begin(); err != nil {
		t.Fatal(err)
	}
	_, shared := relative(t, fresh, fs, old.State(3))
	write(t, fs, old.State(3)+"/junk", []byte("not ours"))
	write(t, fs, old.State(3)+"/900009.sst", []byte("no table"))
	write(t, fs, old.State(3)+"/800000.sst", tableOf(t, []row{{key: rowKey(1, 1), kind: record.Set, value: "v"}}))
	if err := errors.Join(fs.MkdirAll(old.State(4), 0o755), old.CommitIdentity(anIdentity())); err != nil {
		t.Fatal(err)
	}
	st, m := openMatch(t, fs, fresh)
	lacking := 0
	for i, f := range fresh.m.Files {
		has := slices.ContainsFunc(m.same, func(s sameFile) bool { return s.file == i })
		if want := f.Kind == manifest.KindTable && !has; slices.Contains(m.Missing(), i) != want {
			t.Errorf("%s is missing: %t", f.Name, !want)
		} else if want {
			lacking++
		}
	}
	if m.Shared() != shared || shared == 0 || lacking == 0 || len(m.tables) != 1 {
		t.Errorf("%d bytes shared, want %d; %d tables lack, %d to take records from", m.Shared(), shared, lacking, len(m.tables))
	}
	for _, b := range m.tables {
		if strings.HasSuffix(b.path, "900009.sst") || slices.ContainsFunc(m.same, func(s sameFile) bool { return s.path == b.path }) {
			t.Errorf("records are taken from %s", b.path)
		}
	}
	if n, err := m.Adopt(t.Context()); err != nil || n != shared || st.BytesReused() != shared {
		t.Errorf("adopted %d of %d, %v", n, shared, err)
	}
	if n, err := m.Adopt(t.Context()); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	again, err := st.Match(t.Context(), m.base) // what is staged is shared all the same
	if err != nil || again.Shared() != shared || len(again.tables) != len(m.tables) {
		t.Errorf("again: %d shared, %d tables, %v", again.Shared(), len(again.tables), err)
	}
	checkStaged(t, st, fresh)
	if missing := m.Missing(); len(missing) > 0 {
		t.Errorf("%v are missing of what is staged", missing)
	}
}

// What of a base can not be read is fetched.
func TestMatchOfUnreadableBase(t *testing.T) {
	mem := vfs.NewMem()
	seed := diverged(t, mem)
	bad := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && strings.HasPrefix(op.Path, "base/state-1/") {
			return syscall.EIO
		}
		return nil
	}))
	st, m := openMatch(t, bad, seed)
	if n, err := m.Adopt(t.Context()); err != nil || n != 0 || m.Shared() != 0 || len(m.tables) != 0 {
		t.Errorf("adopted %d of %d bytes, %d tables: %v", n, m.Shared(), len(m.tables), err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := st.Match(ended, m.base); !fault.Is(err, fault.Interrupted) {
		t.Errorf("ended: %v", err)
	}
	checkStaged(t, st, seed)
}

func TestOpenBaseRefusals(t *testing.T) {
	fs := vfs.NewMem()
	d := datadir.At(fs, "base")
	if err := errors.Join(d.Begin(), fs.MkdirAll(d.State(1), 0o755), d.CommitIdentity(anIdentity())); err != nil {
		t.Fatal(err)
	}
	other := aCluster()
	other.ID++
	if _, err := OpenBase(t.Context(), fs, "base", other); !fault.Is(err, fault.Refused) || fault.HintOf(err) == "" {
		t.Errorf("of another cluster: %v", err)
	}
	if _, err := OpenBase(t.Context(), fs, "nothing", aCluster()); !fault.Is(err, fault.Refused) || fault.HintOf(err) == "" {
		t.Errorf("of no member: %v", err)
	}
	base, err := OpenBase(t.Context(), fs, "base", aCluster())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBase(t.Context(), fs, "base", aCluster()); !fault.Is(err, fault.InUse) {
		t.Errorf("of one that is open: %v", err)
	}
	if err := errors.Join(base.Close(), base.Close()); err != nil {
		t.Error(err)
	}
	if there, _ := exists(fs, "base/"+lockName); there {
		t.Error("a lock is left")
	}
}

// TestListOfSeed: what can be listed, and what a source says of the rest.
func TestListOfSeed(t *testing.T) {
	ctx := t.Context()
	mem := vfs.NewMem()
	seed := diverged(t, mem)
	var all []int
	for i := range seed.m.Files {
		all = append(all, i)
	}
	tables, err := seed.DescribeTables(ctx, all)
	if err != nil || len(tables) != len(all) {
		t.Fatal(tables, err)
	}
	none := func([]byte, int) error { return nil }
	for i, table := range tables {
		f := seed.m.Files[i]
		if table.File != i || table.Listable != (f.Kind == manifest.KindTable) {
			t.Errorf("%s: %+v", f.Name, table)
		}
		if !table.Listable {
			if err := seed.ListRecords(ctx, i, none); !fault.Is(err, fault.Usage) {
				t.Errorf("%s: %v", f.Name, err)
			}
			continue
		}
		var in record.ListReader
		var records uint64
		read := 0
		if err := seed.ListRecords(ctx, i, func(b []byte, n int) error {
			read += n
			return in.Feed(b, func(record.Listed) error { records++; return nil })
		}); err != nil || records != table.Records || !in.Whole() || read < int(f.Size)/2 {
			t.Errorf("%s: %d of %d records, %d of %d bytes: %v", f.Name, records, table.Records, read, f.Size, err)
		}
		own := errors.New("own")
		if err := seed.ListRecords(ctx, i, func([]byte, int) error { return own }); !errors.Is(err, own) {
			t.Errorf("the caller's error: %v", err)
		}
		if err := seed.PickRecords(ctx, i, record.NewWanted(table.Records+1), none); !fault.Is(err, fault.Usage) {
			t.Errorf("wanted of another table: %v", err)
		}
		if err := seed.PickRecords(ctx, i, record.NewWanted(table.Records), func(b []byte, _ int) error {
			if len(b) > 0 {
				t.Errorf("%x for nothing", b)
			}
			return nil
		}); err != nil {
			t.Errorf("nothing: %v", err)
		}
		flip(t, mem, mem.PathJoin(seed.Dir(), f.Name), f.Size*4)
		if err := seed.ListRecords(ctx, i, none); !fault.Is(err, fault.Corrupt) {
			t.Errorf("damaged: %v", err)
		}
		flip(t, mem, mem.PathJoin(seed.Dir(), f.Name), f.Size*4)
	}
	for _, file := range []int{-1, len(all)} {
		if _, err := seed.DescribeTables(ctx, []int{file}); !fault.Is(err, fault.Usage) {
			t.Errorf("file %d: %v", file, err)
		}
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := seed.DescribeTables(ended, all); !fault.Is(err, fault.Interrupted) {
		t.Errorf("ended: %v", err)
	}
	if err := seed.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := seed.DescribeTables(ctx, all); !fault.Is(err, fault.LeaseLost) {
		t.Errorf("removed: %v", err)
	}
}

// TestMatcher: records are found in the order of both sides; a hash that leads
// too far ahead costs the one record that it belongs to at most.
func TestMatcher(t *testing.T) {
	for name, c := range map[string]struct {
		listed, walked []uint64
		found, used    []int
	}{
		"alike":       {[]uint64{1, 2, 3}, []uint64{1, 2, 3}, []int{0, 1, 2}, []int{0, 1, 2}},
		"more walked": {[]uint64{1, 2, 3}, []uint64{9, 1, 8, 3, 7}, []int{0, 2}, []int{1, 3}},
		"more listed": {[]uint64{1, 9, 8, 2}, []uint64{1, 2}, []int{0, 3}, []int{0, 1}},
		"nothing":     {[]uint64{1, 2}, nil, nil, nil},
		"repeated":    {[]uint64{1, 5, 2, 5, 3}, []uint64{1, 5, 5, 3}, []int{0, 1, 3, 4}, []int{0, 1, 2, 3}},
		"once":        {[]uint64{5, 1}, []uint64{5, 5, 1}, []int{0, 1}, []int{0, 2}},
		"far ahead":   {[]uint64{1, 2, 3, 4, 9}, []uint64{1, 9, 2, 3, 4}, []int{0, 1, 2, 3}, []int{0, 2, 3, 4}},
		"at first":    {[]uint64{1, 2, 3, 9}, []uint64{9, 1, 2, 3, 9}, []int{0, 1, 2, 3}, []int{1, 2, 3, 4}},
		"behind":      {[]uint64{1, 2, 3, 4}, []uint64{2, 3, 1, 4}, []int{1, 2, 3}, []int{0, 1, 3}},
	} {
		l := newListing(uint64(len(c.listed)))
		for _, h := range c.listed {
			l.add(record.Listed{Hash: h})
		}
		m := newMatcher(l)
		for _, h := range c.walked {
			m.see(h)
		}
		var found, used []int
		for i := range len(c.listed) + len(c.walked) {
			if l.found.has(i) {
				found = append(found, i)
			}
			if m.used.has(i) {
				used = append(used, i)
			}
		}
		if !slices.Equal(found, c.found) || !slices.Equal(used, c.used) {
			t.Errorf("%s: found %v, want %v; used %v, want %v", name, found, c.found, used, c.used)
		}
	}
}

// TestMatchChunks: a table that begins as one of the base does has its first
// chunks from there, and only as long as they are there; one that does not has
// none.
func TestMatchChunks(t *testing.T) {
	rows := someRows(rand.New(rand.NewPCG(7, 8)), 3000)
	for _, c := range []struct {
		name   string
		base   []row
		makes  bool // less than half of it is shared
		damage bool
	}{
		{name: "appended to", base: rows[:2500]},
		{name: "much appended to", base: rows[:1000], makes: true},
		{name: "begins later", base: rows[1:2500], makes: true},
		{name: "another by now", base: rows[:2500], damage: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			seed, table := handmade(t, fs, rows, c.base)
			st, m := openMatch(t, fs, seed)
			entry := &seed.m.Files[table.File]
			had, want := readTable(t, fs, "base/state-1/800000.sst"), readTable(t, fs, seed.fs.PathJoin(seed.Dir(), entry.Name))
			same := uint64(0) // bytes of whole chunks
			for offset := 0; offset < len(want); offset += int(seed.m.ChunkSize) {
				if end := offset + int(seed.m.ChunkSize); end <= len(had) && end <= len(want) && bytes.Equal(had[offset:end], want[offset:end]) {
					same += uint64(seed.m.ChunkSize)
				}
			}
			if got := slices.Contains(m.Missing(), table.File); got != c.makes {
				t.Errorf("to be made: %t", got)
			}
			if (same == 0) != strings.HasPrefix(c.name, "begins") {
				t.Fatalf("%d bytes are the same", same)
			}
			before := m.Shared() - same
			if c.damage {
				write(t, fs, "base/state-1/800000.sst", want[1:])
				same = 0
			}
			n, err := m.Adopt(t.Context())
			if err != nil || n != before+same {
				t.Errorf("adopted %d, want %d and %d of the table: %v", n, before, same, err)
			}
			if again, err := m.Adopt(t.Context()); err != nil || again != 0 {
				t.Errorf("again: %d, %v", again, err)
			}
			checkStaged(t, st, seed)
		})
	}
}

func readTable(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	b, err := readFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
