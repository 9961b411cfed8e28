package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// BenchmarkCheckpoint takes checkpoints of a store with tables of 256 MiB and
// some MiB that are not flushed, while entries are synced to a log beside it and
// then committed, 200 a second. It gives how long such an entry takes, with
// checkpoints and without.
func BenchmarkCheckpoint(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state-1"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	w := &benchWriter{s: s, noise: rand.NewChaCha8([32]byte{1})}
	for range 256 {
		if err := w.fill(1 << 20); err != nil {
			b.Fatal(err)
		}
	}
	dir, n := b.TempDir(), 0
	for _, unflushed := range []int{0, 8} {
		b.Run(fmt.Sprintf("unflushed=%dMiB", unflushed), func(b *testing.B) {
			l := w.run(b)
			var took time.Duration
			for b.Loop() {
				for range unflushed {
					if err := w.fill(1 << 20); err != nil {
						b.Fatal(err)
					}
				}
				l.mark()
				began := time.Now()
				n++
				if err := s.Checkpoint(filepath.Join(dir, fmt.Sprint(n))); err != nil {
					b.Fatal(err)
				}
				took += time.Since(began)
				l.wait(20)
			}
			l.report(b, took)
		})
	}
}

// benchWriter commits entries; several goroutines take turns.
type benchWriter struct {
	mu    sync.Mutex
	s     *Store
	noise *rand.ChaCha8
	index uint64
}

// fill commits an entry of size bytes in values of 4 KiB.
func (w *benchWriter) fill(size int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	rev := int64(w.index) + 1
	b := w.s.NewBatch()
	defer b.Close() //nolint:errcheck // committed
	b.SetRevision(rev)
	value := make([]byte, min(size, 4<<10))
	for i := 0; i < size; i += len(value) {
		_, _ = w.noise.Read(value) // never fails
		key := fmt.Appendf(nil, "key/%016x", w.noise.Uint64())
		if err := b.SetVersion(key, Version{Revision: rev, Live: true, Value: value}, Version{}); err != nil {
			return err
		}
	}
	return b.Commit(ident.Position{Term: 1, Index: w.index})
}

// benchLoad is a load of small entries.
type benchLoad struct {
	end  chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	took []time.Duration // since the last mark
	all  []time.Duration
	err  error
	step chan struct{}
}

func (w *benchWriter) run(b *testing.B) *benchLoad {
	f, err := vfs.Default.Create(filepath.Join(b.TempDir(), "log"), vfs.WriteCategoryUnspecified)
	if err != nil {
		b.Fatal(err)
	}
	l := &benchLoad{end: make(chan struct{}), step: make(chan struct{})}
	tick := time.NewTicker(5 * time.Millisecond)
	l.wg.Go(func() {
		defer close(l.step)
		defer f.Close() //nolint:errcheck // a benchmark's
		defer tick.Stop()
		for {
			var due time.Time
			select {
			case <-l.end:
				return
			case due = <-tick.C:
			}
			_, err := f.Write(make([]byte, 512))
			if err == nil {
				err = f.SyncData()
			}
			if err == nil {
				err = w.fill(256)
			}
			l.mu.Lock()
			l.took = append(l.took, time.Since(due))
			l.err = err
			l.mu.Unlock()
			if err != nil {
				return
			}
			select {
			case l.step <- struct{}{}:
			default:
			}
		}
	})
	return l
}

// mark forgets what was measured before; wait keeps what was measured since.
func (l *benchLoad) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = nil
}

func (l *benchLoad) wait(entries int) {
	for range entries {
		<-l.step
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, l.took...)
	l.took = nil
}

func (l *benchLoad) report(b *testing.B, took time.Duration) {
	close(l.end)
	l.wg.Wait()
	if l.err != nil || len(l.all) == 0 {
		b.Fatalf("%d entries: %v", len(l.all), l.err)
	}
	slices.Sort(l.all)
	b.ReportMetric(took.Seconds()*1000/float64(b.N), "checkpoint-ms")
	b.ReportMetric(l.all[len(l.all)/2].Seconds()*1000, "put-p50-ms")
	b.ReportMetric(l.all[len(l.all)*99/100].Seconds()*1000, "put-p99-ms")
	b.ReportMetric(l.all[len(l.all)-1].Seconds()*1000, "put-max-ms")
}
