package snapshot

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/record"
)

// seedRecords is a source that is here.
type seedRecords struct {
	seed   *Seed
	piece  int // bytes of a piece; 0: as they come
	listed int // records
	picked uint64
	moved  int // bytes

	list func(r *record.Listed)           // changes a list; may be nil
	pick func(key, value []byte) [][]byte // changes an answer: keys and values; may be nil
}

func (s *seedRecords) Describe(ctx context.Context, files []int) ([]record.Table, error) {
	return s.seed.DescribeTables(ctx, files)
}

func (s *seedRecords) hand(fn func([]byte) error) func([]byte, int) error {
	return func(b []byte, _ int) error {
		s.moved += len(b)
		if s.piece == 0 {
			return fn(b)
		}
		for len(b) > 0 {
			n := min(s.piece, len(b))
			if err := fn(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	}
}

func (s *seedRecords) List(ctx context.Context, file int, fn func([]byte) error) error {
	return s.seed.ListRecords(ctx, file, s.hand(fn))
}

func (s *seedRecords) Pick(ctx context.Context, file int, wanted record.Wanted, fn func([]byte) error) error {
	s.picked += wanted.Count()
	return s.seed.PickRecords(ctx, file, wanted, s.hand(fn))
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
	if _, err := m.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := putMissing(seed, st); err != nil {
		t.Fatal(err)
	}
	for i := range seed.m.Files {
		got, err := readFile(fs, st.path(i))
		if err != nil {
			t.Fatal(err)
		}
		want, err := readFile(fs, fs.PathJoin(seed.Dir(), seed.m.Files[i].Name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs (%v)", seed.m.Files[i].Name, err)
		}
	}
	if err := st.Install(t.Context(), anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "new", seed); err != nil {
		t.Error(err)
	}
}
