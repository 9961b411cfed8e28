package snapshot

import (
	"bytes"
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/record"
)

// seedRecords is a source that is here.
type seedRecords struct {
	seed   *Seed
	piece  int    // bytes of a piece; 0: as they come
	picked uint64 // records asked for
	moved  int    // bytes

	list func([]record.Listed) []record.Listed // changes a list; may be nil
	pick func([]pickedRecord) []pickedRecord   // changes an answer; may be nil
	tail []byte                                // after a list or an answer
	fail error                                 // instead of the end of an answer
}

type pickedRecord struct{ key, value []byte }

func (s *seedRecords) Describe(ctx context.Context, files []int) ([]record.Table, error) {
	return s.seed.DescribeTables(ctx, files)
}

// hand gives b to fn in pieces.
func (s *seedRecords) hand(b []byte, fn func([]byte) error) error {
	s.moved += len(b)
	for piece := range slices.Chunk(b, max(s.piece, 1<<10)) {
		if err := fn(piece); err != nil {
			return err
		}
	}
	return nil
}

func (s *seedRecords) List(ctx context.Context, file int, fn func([]byte) error) error {
	var in record.ListReader
	var records []record.Listed
	err := s.seed.ListRecords(ctx, file, func(b []byte, _ int) error {
		return in.Feed(b, func(r record.Listed) error { records = append(records, r); return nil })
	})
	if err != nil {
		return err
	}
	if s.list != nil {
		records = s.list(records)
	}
	var w record.ListWriter
	var out []byte
	for _, r := range records {
		out = w.Add(out, r)
	}
	return s.hand(append(w.Flush(out), s.tail...), fn)
}

func (s *seedRecords) Pick(ctx context.Context, file int, wanted record.Wanted, fn func([]byte) error) error {
	s.picked += wanted.Count()
	asked, err := record.ReadWanted(wanted.Encode())
	if err != nil {
		return err
	}
	var in record.AnswerReader
	var records []pickedRecord
	err = s.seed.PickRecords(ctx, file, asked, func(b []byte, _ int) error {
		return in.Feed(b, func(key, value []byte) error {
			records = append(records, pickedRecord{bytes.Clone(key), bytes.Clone(value)})
			return nil
		})
	})
	if err != nil {
		return err
	}
	if s.pick != nil {
		records = s.pick(records)
	}
	var w record.AnswerWriter
	var out []byte
	for _, r := range records {
		out = w.Append(out, r.key, r.value)
	}
	if err := s.hand(append(out, s.tail...), fn); err != nil {
		return err
	}
	return s.fail
}

// openMatch opens a stage for the seed in new/ and matches it with base/.
func openMatch(t testing.TB, fs vfs.FS, seed *Seed) (*Stage, *Match) {
	t.Helper()
	st, err := OpenStage(t.Context(), datadir.At(fs, "new"), seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	base, err := OpenBase(t.Context(), fs, "base", seed.m.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := base.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := st.Match(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	return st, m
}

// TestMake makes all tables that a base does not have from its records.
func TestMake(t *testing.T) {
	fs := vfs.NewMem()
	seed := diverged(t, fs)
	before := tree(t, fs, "base")
	st, m := openMatch(t, fs, seed)
	src := &seedRecords{seed: seed, piece: 7}
	tables, err := src.Describe(t.Context(), m.Missing())
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	var records, size, made, heard uint64
	for _, table := range tables {
		n, err := m.Make(t.Context(), table, src, func(n int) { heard += uint64(n) })
		if err != nil {
			t.Fatal(err)
		}
		made += n
		records += table.Records
		size += seed.m.Files[table.File].Size
	}
	t.Logf("%d tables of %d bytes: %d of %d records asked for, %d bytes moved", len(tables), size, src.picked, records, src.moved)
	if made != size || heard != size || made != st.BytesReused() || len(m.Missing()) > 0 {
		t.Errorf("made %d, heard of %d, reused %d of %d bytes; missing %v", made, heard, st.BytesReused(), size, m.Missing())
	}
	if n, err := m.Adopt(t.Context()); err != nil || n != m.Shared() || n+made != st.BytesReused() || n == 0 {
		t.Fatalf("adopted %d of %d, %d reused: %v", n, m.Shared(), st.BytesReused(), err)
	}
	checkStaged(t, st, seed)
	if err := st.Install(t.Context(), anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "new", seed); err != nil {
		t.Error(err)
	}
	if err := m.base.Close(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(tree(t, fs, "base"), before) {
		t.Error("the base was changed")
	}
}

// checkStaged stages what is missing and compares every byte.
func checkStaged(t testing.TB, st *Stage, seed *Seed) {
	t.Helper()
	if _, err := putMissing(seed, st); err != nil {
		t.Fatal(err)
	}
	for i := range seed.m.Files {
		got, err := readFile(st.fs, st.path(i))
		if err != nil {
			t.Fatal(err)
		}
		want, err := readFile(seed.fs, seed.fs.PathJoin(seed.Dir(), seed.m.Files[i].Name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v)", seed.m.Files[i].Name, err)
		}
	}
}

// TestMakeSideBySide: tables are made at once, beside the copying of files.
func TestMakeSideBySide(t *testing.T) {
	fs := vfs.NewMem()
	src := newSource(t, fs, "source/state-1")
	flush := func() {
		if err := src.st.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	src.fill(300, 300)
	makeBase(t, src.fork("origin/state-1"), "base")
	for range 4 {
		src.change(5)
		src.fill(100, 300)
		flush()
	}
	seed := src.capture("source/seeds/a")
	st, m := openMatch(t, fs, seed)
	tables, err := seed.DescribeTables(t.Context(), m.Missing())
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	var group errgroup.Group
	group.Go(func() error { _, err := m.Adopt(t.Context()); return err })
	for _, table := range tables {
		group.Go(func() error {
			_, err := m.Make(t.Context(), table, &seedRecords{seed: seed}, nil)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if missing := m.Missing(); len(missing) > 0 || st.BytesReused() != st.BytesDone() {
		t.Errorf("%v are missing, %d bytes of %d reused", missing, st.BytesReused(), st.BytesDone())
	}
	checkStaged(t, st, seed)
	if err := st.Install(t.Context(), anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
}
