package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/record"
)

// benchRows are records of 256 bytes of JSON.
func benchRows(rng *rand.Rand, n int) []row {
	words := []string{"order", "shipped", "pending", "invoice", "refund", "express", "gift", "priority"}
	rows := make([]row, n)
	for i := range rows {
		value := fmt.Appendf(nil, "\x01"+`{"id":"%016x","balance":%d,"note":"`, rng.Uint64(), rng.IntN(1e6))
		for len(value) < 254 {
			value = append(append(value, words[rng.IntN(len(words))]...), ' ')
		}
		rows[i] = row{key: rowKey(i, 1), kind: record.Set, value: string(value[:254]) + `"}`}
	}
	return rows
}

// BenchmarkMake makes a table of about 100 MB, of which the base has 95 % of the
// records, in tables side by side. MB/s are of the table.
func BenchmarkMake(b *testing.B) {
	b.Run("memory", func(b *testing.B) { benchMake(b, vfs.NewMem(), "bench") })
	b.Run("disk", func(b *testing.B) { benchMake(b, vfs.Default, b.TempDir()) })
}

func benchMake(b *testing.B, fs vfs.FS, dir string) {
	rng := rand.New(rand.NewPCG(1, 1))
	rows := benchRows(rng, 700_000)
	src := newSource(b, fs, dir+"/source/state-1")
	src.fill(100, 100)
	makeBase(b, src.fork(dir+"/origin/state-1"), dir+"/base")
	seed, file := withTable(b, src.capture(dir+"/seed"), tableOf(b, rows))
	for i := 0; i < len(rows); i += 20 {
		rows[i].value += "older"
	}
	for i := range 5 {
		part := rows[i*len(rows)/5 : (i+1)*len(rows)/5]
		write(b, fs, fmt.Sprintf("%s/base/state-1/%06d.sst", dir, 800000+i), tableOf(b, part))
	}
	rows = nil
	tables, err := seed.DescribeTables(b.Context(), []int{file})
	if err != nil {
		b.Fatal(err)
	}
	base, err := OpenBase(b.Context(), fs, dir+"/base", seed.m.Cluster)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = base.Close() }()
	b.Run("list", func(b *testing.B) {
		b.SetBytes(int64(seed.m.Files[file].Size))
		for b.Loop() {
			if err := seed.ListRecords(b.Context(), file, func([]byte, int) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("make", func(b *testing.B) {
		b.SetBytes(int64(seed.m.Files[file].Size))
		for b.Loop() {
			d := datadir.At(fs, dir+"/node")
			st, err := OpenStage(b.Context(), d, seed.ManifestBytes())
			if err != nil {
				b.Fatal(err)
			}
			m, err := st.Match(b.Context(), base)
			if err != nil {
				b.Fatal(err)
			}
			made, err := m.Make(b.Context(), tables[0], directRecords{seed}, nil)
			if err := errors.Join(err, st.Discard()); err != nil || made != seed.m.Files[file].Size {
				b.Fatal(made, err)
			}
		}
	})
}

// directRecords hands on what a seed lists, as it is.
type directRecords struct{ seed *Seed }

func (d directRecords) Describe(ctx context.Context, files []int) ([]record.Table, error) {
	return d.seed.DescribeTables(ctx, files)
}

func (d directRecords) List(ctx context.Context, file int, fn func([]byte) error) error {
	return d.seed.ListRecords(ctx, file, func(b []byte, _ int) error { return fn(b) })
}

func (d directRecords) Pick(ctx context.Context, file int, wanted record.Wanted, fn func([]byte) error) error {
	return d.seed.PickRecords(ctx, file, wanted, func(b []byte, _ int) error { return fn(b) })
}
