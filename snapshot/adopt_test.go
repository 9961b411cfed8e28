package snapshot

import (
	"context"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
)

// Adopt finds the tables of a former member and changes nothing there.
func TestAdopt(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	base, common := relative(t, seed, fs, "base")
	write(t, fs, "base/junk", []byte("not ours"))
	before := tree(t, fs, "base")
	d := datadir.At(fs, "node")
	st, err := OpenStage(ctx, d, seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	adopt := func() (uint64, error) {
		m, err := st.Match(ctx, RunningBase(fs, base.Dir()))
		if err != nil {
			return 0, err
		}
		return m.Adopt(ctx)
	}
	n, err := adopt()
	if err != nil || n != common || n != st.BytesReused() || n != st.BytesDone() {
		t.Errorf("adopted %d of %d, reused %d, done %d: %v", n, common, st.BytesReused(), st.BytesDone(), err)
	}
	if again, err := adopt(); err != nil || again != 0 {
		t.Errorf("again: %d, %v", again, err)
	}
	if !reflect.DeepEqual(tree(t, fs, "base"), before) {
		t.Error("the base was changed")
	}
	if _, err := putMissing(seed, st); err != nil {
		t.Fatal(err)
	}
	if err := st.Install(ctx, anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}
