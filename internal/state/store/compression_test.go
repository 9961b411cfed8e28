package store

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// record is a JSON object of about 256 bytes, half of it made of words.
func record(rng *rand.Rand) []byte {
	words := [...]string{"order", "shipped", "pending", "invoice", "refund", "express", "gift", "priority", "returned", "paid", "open", "closed",
		"support", "renewal", "trial", "upgrade", "monthly", "yearly", "contact", "mail", "phone", "before", "after", "customer"}
	b := fmt.Appendf(nil, `{"id":"%016x","balance":%d.%02d,"active":%t,"since":"20%02d-%02d-%02dT%02d:%02d:%02dZ","note":"`, rng.Uint64(),
		rng.IntN(100000), rng.IntN(100), rng.IntN(2) == 0, rng.IntN(26), 1+rng.IntN(12), 1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60))
	for len(b) < 254 {
		b = append(append(b, words[rng.IntN(len(words))]...), ' ')
	}
	return append(b[:254], `"}`...)
}

func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// fillRecords writes keys in random order, as clients do, and compacts all.
func fillRecords(b *testing.B, s *Store, keys int) (logical int) {
	rng := rand.New(rand.NewPCG(1, 2))
	order := rng.Perm(keys)
	const perEntry = 100
	for i := 0; i < keys; i += perEntry {
		batch := s.NewBatch()
		rev := int64(i/perEntry) + 2
		for _, k := range order[i:min(i+perEntry, keys)] {
			key, value := fmt.Appendf(nil, "user/%012d", k), record(rng)
			logical += len(key) + len(value)
			must(b, batch.SetVersion(key, Version{Revision: rev, Live: true, Value: value}, Version{}))
		}
		batch.SetRevision(rev)
		must(b, batch.Commit(ident.Position{Term: 1, Index: uint64(rev)}), batch.Close())
	}
	must(b, s.Flush())
	must(b, s.db.Compact(b.Context(), []byte{0}, []byte{0xff}, false))
	return logical
}

// BenchmarkCompression compares what the store may compress its blocks with:
// bytes on disk for each byte of keys and values, which is what a seed moves;
// processor time to write and compact them; and a read of a random key, cold as
// to the block cache.
func BenchmarkCompression(b *testing.B) {
	const keys = 400_000
	for _, p := range []*block.CompressionProfile{block.NoCompression, block.SnappyCompression, block.MinLZCompression,
		block.BalancedCompression, block.GoodCompression} {
		b.Run(p.Name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				s, err := Open(b.TempDir(), Options{FS: vfs.Default, compression: p})
				must(b, err)
				runtime.GC()
				b.StartTimer()
				began := cpuSeconds(b)
				logical := fillRecords(b, s, keys)
				b.ReportMetric((cpuSeconds(b)-began)/float64(logical)*(1<<30), "cpu-s/GiB")
				b.ReportMetric(float64(tableBytes(s))/float64(logical), "bytes-on-disk/byte")
				b.StopTimer()
				v := s.View()
				rng := rand.New(rand.NewPCG(3, 4))
				const reads = 20_000
				start := cpuSeconds(b)
				for range reads {
					got, err := v.Version(MVCC, fmt.Appendf(nil, "user/%012d", rng.IntN(keys)), 1<<60)
					must(b, err)
					if !got.Live {
						b.Fatal("a key is missing")
					}
				}
				b.ReportMetric((cpuSeconds(b)-start)/reads*1e6, "cpu-µs/read")
				must(b, v.Close(), s.Close())
				b.StartTimer()
			}
		})
	}
}

// tableBytes is the size of the live tables.
func tableBytes(s *Store) (sum int64) {
	m := s.Metrics()
	for i := range m.Levels {
		sum += int64(m.Levels[i].TablesSize)
	}
	return sum
}
