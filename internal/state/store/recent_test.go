package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// TestRecentVersions: a batch answers from memory what the database says, whatever
// the sizes of values and however often a key is written or deleted.
func TestRecentVersions(t *testing.T) {
	s, err := Open("state-1", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch()
	rng := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, recentMost+1)
	known := 0
	for i := range int64(2500) {
		key := fmt.Appendf(nil, "%d", rng.IntN(500))
		old, err := b.Version(MVCC, key, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		view := s.View()
		want, err := view.Version(MVCC, key, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		if old.Revision != want.Revision || old.Live != want.Live || string(old.Value) != string(want.Value) {
			t.Fatalf("write %d of %s: revision %d, live %t, %d bytes, in the database %d, %t, %d", i, key,
				old.Revision, old.Live, len(old.Value), want.Revision, want.Live, len(want.Value))
		}
		if before, err := b.Version(MVCC, key, want.Revision-1); err != nil || before.Revision >= max(want.Revision, 1) {
			t.Fatalf("a version before %d: %d, %v", want.Revision, before.Revision, err)
		}
		if _, found := b.recent.get(appendPrefix(nil, MVCC, key)); found {
			known++
		}
		v := Version{Revision: i + 1}
		if v.Live = rng.IntN(4) > 0; v.Live {
			v.Value = value[:rng.IntN([]int{10, len(value) + 1}[rng.IntN(2)])]
		}
		if err := b.SetVersion(key, v, old); err != nil {
			t.Fatal(err)
		}
		if err := view.Close(); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(8) == 0 {
			err = b.Rollback()
		} else {
			err = b.Commit(ident.Position{Term: 1, Index: uint64(i + 1)})
		}
		if err != nil {
			t.Fatal(err)
		}
		if v, found := b.recent.get(appendPrefix(nil, MVCC, key)); found && !v.Live {
			t.Fatal("a tombstone is kept, which may be purged")
		}
		if b.recent.size > recentBytes {
			t.Fatalf("%d bytes are kept", b.recent.size)
		}
	}
	if known == 0 || b.recent.old == nil {
		t.Errorf("%d keys were known, %d are of the old generation", known, len(b.recent.old))
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
