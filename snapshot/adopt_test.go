package snapshot

import (
	"context"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
)

// A node that was away has the tables that did not change meanwhile; its old
// directory is only read.
func TestAdoptMember(t *testing.T) {
	ctx := context.Background()
	fresh := newTestSeed(t)
	fs := vfs.NewMem()
	old := datadir.At(fs, "old")
	if err := old.Begin(); err != nil {
		t.Fatal(err)
	}
	_, shared := relative(t, fresh, fs, old.State(3))
	if err := old.CommitIdentity(anIdentity()); err != nil {
		t.Fatal(err)
	}
	before := tree(t, fs, "old")
	open := func(fs vfs.FS, dir string) *Stage {
		st, err := OpenStage(ctx, datadir.At(fs, dir), fresh.ManifestBytes())
		if err != nil {
			t.Fatal(err)
		}
		return st
	}

	t.Run("used", func(t *testing.T) {
		st := open(fs, "new")
		n, err := st.AdoptMember(ctx, "old")
		if err != nil || n != shared || n != st.BytesReused() {
			t.Fatalf("adopted %d, reused %d, %d are shared: %v", n, st.BytesReused(), shared, err)
		}
		if _, err := putMissing(fresh, st); err != nil {
			t.Fatal(err)
		}
		if err := st.Install(ctx, anIdentity(), InstallOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := checkWhole(fs, "new", fresh); err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(tree(t, fs, "old"), before) {
			t.Error("the old directory was changed")
		}
	})
	t.Run("what can not be read is fetched", func(t *testing.T) {
		bad := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileReadAt && strings.HasPrefix(op.Path, "old/state-3/") {
				return syscall.EIO
			}
			return nil
		}))
		st := open(bad, "other")
		if n, err := st.AdoptMember(ctx, "old"); err != nil || n != 0 {
			t.Errorf("adopted %d of %d bytes that can not be read: %v", n, shared, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		st := open(fs, "third")
		lock, err := datadir.At(fs, "old").Lock()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.AdoptMember(ctx, "old"); !fault.Is(err, fault.InUse) {
			t.Errorf("of a member that runs: %v", err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := st.AdoptMember(ctx, "nothing"); !fault.Is(err, fault.Refused) || fault.HintOf(err) == "" {
			t.Errorf("of no member: %v", err)
		}
		foreign := datadir.At(fs, "foreign")
		id := anIdentity()
		id.Cluster.ID++
		if err := foreign.Begin(); err != nil {
			t.Fatal(err)
		}
		if err := foreign.CommitIdentity(id); err != nil {
			t.Fatal(err)
		}
		if _, err := st.AdoptMember(ctx, "foreign"); !fault.Is(err, fault.Refused) || fault.HintOf(err) == "" {
			t.Errorf("of another cluster: %v", err)
		}
		if st.BytesReused() != 0 {
			t.Errorf("%d bytes taken all the same", st.BytesReused())
		}
	})
}

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
	n, err := st.Adopt(ctx, base.Dir())
	if err != nil || n != common || n != st.BytesReused() || n != st.BytesDone() {
		t.Errorf("adopted %d of %d, reused %d, done %d: %v", n, common, st.BytesReused(), st.BytesDone(), err)
	}
	if again, err := st.Adopt(ctx, base.Dir()); err != nil || again != 0 {
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
