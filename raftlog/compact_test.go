package raftlog

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestCompactGivesSpaceBack: entries that were truncated take no space after a
// compaction; those that are kept stay.
func TestCompactGivesSpaceBack(t *testing.T) {
	o := memOptions()
	o.MemTableBytes = 256 << 10
	l := openTest(t, o)
	noise := rand.NewChaCha8([32]byte{1})
	for i := uint64(1); i <= 200; i++ {
		data := make([]byte, 8<<10)
		_, _ = noise.Read(data) // it does not fail
		b := Batch{Entries: run(1, i, i), HardState: hard(1, 0, i)}
		b.Entries[0].Data = data
		mustAppend(t, l, b)
	}
	if err := l.Truncate(199); err != nil {
		t.Fatal(err)
	}
	size := func() uint64 { return l.db.Metrics().Table.Local.LiveSize }
	if err := l.db.Flush(); err != nil {
		t.Fatal(err)
	}
	before := size()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Compact(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	if err := l.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := size(); after > before/4 || after > 64<<10 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	if term, err := l.Term(200); err != nil || term != 1 {
		t.Errorf("the last entry: %d, %v", term, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Compact(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("of a closed log: %v", err)
	}
}
