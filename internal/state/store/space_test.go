package store

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// TestCompactGivesSpaceBack: what was overwritten counts until a compaction;
// what is there stays.
func TestCompactGivesSpaceBack(t *testing.T) {
	s, err := Open("state-1", Options{FS: vfs.NewMem(), MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := s.NewBatch()
	noise := rand.NewChaCha8([32]byte{1})
	index := uint64(0)
	set := func(key byte, value []byte) {
		index++
		if err := errors.Join(b.Set(AuthMeta, []byte{key}, value), b.Commit(ident.Position{Term: 1, Index: index})); err != nil {
			t.Fatal(err)
		}
	}
	for round := range byte(4) {
		for key := range byte(64) {
			value := make([]byte, 8<<10)
			_, _ = noise.Read(value) // it does not fail
			value[0] = round
			set(key, value)
		}
	}
	for key := range byte(64) {
		set(key, binary.BigEndian.AppendUint64(nil, uint64(key)))
	}
	before := s.Space()
	if before.InUse <= 0 || before.InUse > before.Disk {
		t.Errorf("%+v", before)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	if err := s.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := s.Space(); after.InUse >= before.InUse || after.InUse > 64<<10 || after.InUse > after.Disk {
		t.Errorf("in use %+v before, %+v after", before, after)
	}
	for key := range byte(64) {
		if v, err := b.Get(AuthMeta, []byte{key}); err != nil || binary.BigEndian.Uint64(v) != uint64(key) {
			t.Errorf("key %d: %x, %v", key, v, err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
