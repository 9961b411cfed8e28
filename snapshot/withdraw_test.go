package snapshot

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// grownSeeds gives a seed and a later one of the same source.
func grownSeeds(t *testing.T) (old, young *Seed) {
	t.Helper()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(60, 1000)
	old = src.capture("src/seeds/a")
	src.fill(3, 1000)
	return old, src.capture("src/seeds/b")
}

// installed makes a node of seed in d, one that has run: with a seeds/.
func installed(t *testing.T, d *datadir.Dir, seed *Seed) {
	t.Helper()
	if err := join(d, seed); err != nil {
		t.Fatal(err)
	}
	if err := datadir.MkdirAllSynced(d.FS(), d.FS().PathJoin(d.Seeds(), "seed-1")); err != nil {
		t.Fatal(err)
	}
}

func TestWithdrawSharesFiles(t *testing.T) {
	old, young := grownSeeds(t)
	d := datadir.At(vfs.NewMem(), "node")
	installed(t, d, old)
	if err := datadir.MkdirAllSynced(d.FS(), d.Staging()); err != nil {
		t.Fatal(err)
	}
	write(t, d.FS(), d.FS().PathJoin(d.Staging(), "kept"), []byte("x"))
	if err := Withdraw(d); err != nil {
		t.Fatal(err)
	}
	if class, err := d.Classify(); err != nil || class != datadir.Staged {
		t.Fatalf("%v, %v", class, err)
	}
	if there, err := exists(d.FS(), d.FS().PathJoin(d.Staging(), "kept")); err != nil || !there {
		t.Errorf("what lay in staging/ is gone: %v", err)
	}
	if root, ok := StagedRoot(d); !ok || root != old.Root() {
		t.Error("the withdrawn seed is not the one staged")
	}
	st, err := OpenStage(t.Context(), d, old.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	if reused := st.BytesReused(); reused != old.Manifest().TotalBytes() {
		t.Errorf("%d of %d bytes of the same seed reused", reused, old.Manifest().TotalBytes())
	}
	var shared uint64
	for _, f := range young.m.Files {
		if slices.ContainsFunc(old.m.Files, func(o manifest.File) bool { return o.Digest == f.Digest }) {
			shared += f.Size
		}
	}
	if st, err = OpenStage(t.Context(), d, young.ManifestBytes()); err != nil {
		t.Fatal(err)
	}
	if reused := st.BytesReused(); reused < shared || shared == 0 {
		t.Errorf("%d bytes of the newer seed reused, %d are in both", reused, shared)
	}
	if _, err := putMissing(young, st); err != nil {
		t.Fatal(err)
	}
	if err := st.Install(t.Context(), anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(d.FS(), "node", young); err != nil {
		t.Error(err)
	}
}

// The power goes before every change of the disk: there is the old node, whole,
// or none, and then the new seed can be installed.
func TestWithdrawCrash(t *testing.T) {
	old, young := grownSeeds(t)
	mem := newCloneable()
	installed(t, datadir.At(mem, "node"), old)
	found := make(chan crash)
	inj := &crashes{fs: mem, seeds: 1, found: found}
	before, after := 0, 0
	var group errgroup.Group
	group.Go(func() error {
		var first error
		for c := range found { // to the end, or Withdraw would wait
			was, err := afterWithdraw(c.fs, old, young)
			if was {
				before++
			} else {
				after++
			}
			if err != nil && first == nil {
				first = fmt.Errorf("%s: %w", c.what, err)
			}
		}
		return first
	})
	err := Withdraw(datadir.At(errorfs.Wrap(mem, inj), "node"))
	inj.clone("at the end")
	close(found)
	if gerr := group.Wait(); err != nil || gerr != nil {
		t.Fatal(err, gerr)
	}
	t.Logf("%d changes; %d crashes left the old node, %d none", inj.changing, before, after)
	if inj.changing < 5 || before == 0 || after == 0 {
		t.Error("that is not everything Withdraw does")
	}
}

func afterWithdraw(fs *vfs.MemFS, old, young *Seed) (was bool, err error) {
	d := datadir.At(fs, "node")
	class, err := d.Classify()
	if err != nil {
		return false, err
	}
	if class == datadir.Complete {
		return true, checkWhole(fs, "node", old)
	}
	if class != datadir.Staged {
		return false, fmt.Errorf("the directory is %s", class)
	}
	if err := join(d, young); err != nil {
		return false, err
	}
	return false, checkWhole(fs, "node", young)
}
