package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// writer writes the same keys again and again.
type writer struct {
	t   *testing.T
	s   *Store
	rev int64
}

// runs makes n runs in L0 that overlap.
func (w *writer) runs(n int) {
	w.t.Helper()
	for range n {
		b := w.s.NewBatch()
		for k := range 20 {
			w.rev++
			key := fmt.Appendf(nil, "key-%d", k)
			old, err := b.Version(MVCC, key, 1<<62)
			must(w.t, err, b.SetVersion(key, Version{Revision: w.rev, Live: true, Value: key}, old))
			b.SetRevision(w.rev)
			must(w.t, b.Commit(ident.Position{Term: 1, Index: uint64(w.rev)}))
		}
		must(w.t, b.Close(), w.s.Flush())
	}
}

// compacted is how many compactions were made.
func compacted(s *Store) int64 { return s.Metrics().Compact.Count }

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// TestCalm: no compaction begins in a calm, but one that is asked for; with the
// next flush after it they go on.
func TestCalm(t *testing.T) {
	s, err := Open("s", Options{FS: vfs.NewMem()})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	w := &writer{t: t, s: s}
	end := s.Calm()
	must(t, s.Checkpoint("c"))
	began := compacted(s)
	w.runs(6)
	if n := compacted(s) - began; n != 0 {
		t.Errorf("%d compactions beside those who read", n)
	}
	must(t, s.Compact(t.Context()))
	if n := compacted(s) - began; n == 0 {
		t.Error("a compaction that was asked for did nothing")
	}
	w.runs(6)
	began = compacted(s)
	end()
	end() // does nothing
	w.runs(1)
	eventually(t, "a compaction", func() bool { return compacted(s) > began })
}

// TestCompactionsFallBehind: when many runs wait, the calm is over.
func TestCompactionsFallBehind(t *testing.T) {
	s, err := Open("s", Options{FS: vfs.NewMem()})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	defer s.Calm()()
	w := &writer{t: t, s: s}
	for i := range 30 {
		must(t, s.Checkpoint(fmt.Sprintf("c%d", i)))
		w.runs(1)
	}
	eventually(t, "a compaction", func() bool { return compacted(s) > 0 })
}

// TestOpensCalm: what is due when a store is opened waits if it is told to.
func TestOpensCalm(t *testing.T) {
	fs := vfs.NewMem()
	open := func(calm bool) *Store {
		s, err := Open("s", Options{FS: fs, Calm: calm})
		must(t, err)
		return s
	}
	w := &writer{t: t, s: open(true)}
	w.runs(3)
	must(t, w.s.Close())

	w.s = open(true)
	w.runs(3)
	if n := compacted(w.s); n != 0 {
		t.Errorf("%d compactions", n)
	}
	w.s.EndCalm()
	w.s.EndCalm() // does nothing
	must(t, w.s.Flush())
	eventually(t, "a compaction", func() bool { return compacted(w.s) > 0 })
	must(t, w.s.Close())

	w.s = open(true)
	w.runs(3)
	must(t, w.s.Close())
	w.s = open(false) // there was something to do
	eventually(t, "a compaction", func() bool { return compacted(w.s) > 0 })
	w.s.EndCalm() // there was none
	must(t, w.s.Close())
	w.s.EndCalm()
}
