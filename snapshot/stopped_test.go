package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
)

// newDonor makes the data directory of a member that was killed: its last
// entries are in the write-ahead log only. It gives the digest with them.
func newDonor(t *testing.T, fs vfs.FS, dir string, state uint64) (digest [16]byte) {
	t.Helper()
	d := datadir.At(fs, dir)
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	src := newSource(t, fs, dir+"-origin/state")
	src.fill(30, 1000)
	if err := src.st.Flush(); err != nil {
		t.Fatal(err)
	}
	flushed := src.pos
	info := copyOpen(t, src, d.State(state))
	for info.Position == flushed { // the engine writes its log behind our back
		src.fill(10, 1000)
		info = copyOpen(t, src, d.State(state))
	}
	log := raftlog.SeedState{Position: info.Position, State: state}
	if err := raftlog.Seed(d.Raft(), raftlog.Options{FS: fs}, log); err != nil {
		t.Fatal(err)
	}
	if err := d.CommitIdentity(anIdentity()); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveStaging(); err != nil {
		t.Fatal(err)
	}
	return info.Digest
}

// copyOpen copies a store that is open, as a killed process would leave it.
func copyOpen(t *testing.T, src *source, to string) store.Info {
	t.Helper()
	fs := src.fs
	if err := errors.Join(fs.RemoveAll(to), fs.MkdirAll(to, 0o755)); err != nil {
		t.Fatal(err)
	}
	names, err := list(fs, src.st.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := vfs.Copy(fs, fs.PathJoin(src.st.Dir(), name), fs.PathJoin(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := store.Inspect(to, store.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestFromStopped(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		fs    vfs.FS
		donor string
		more  bool // an interrupted exchange of states
	}{
		"in memory":          {vfs.NewMem(), "donor", false},
		"on a disk":          {vfs.Default, filepath.Join(dir, "donor"), false},
		"with another state": {vfs.NewMem(), "donor", true},
		"without links":      {noLinks{vfs.NewMem()}, "donor", false},
		"to another disk":    {twoDisks{vfs.NewMem()}, "donor", false},
	} {
		t.Run(name, func(t *testing.T) {
			fs := tc.fs
			state := uint64(1)
			if tc.more {
				state = 4
			}
			digest := newDonor(t, fs, tc.donor, state)
			if tc.more {
				if err := fs.MkdirAll(datadir.At(fs, tc.donor).State(5), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, fs, tc.donor)
			scratch := tc.donor + "-scratch"
			seed, err := FromStopped(ctx, fs, tc.donor, scratch)
			if err != nil {
				t.Fatal(err)
			}
			if seed.m.StateDigest != digest {
				t.Errorf("digest %x, want %x: entries of the write-ahead log are missing", seed.m.StateDigest, digest)
			}
			target := tc.donor + "-target"
			if err := join(datadir.At(fs, target), seed); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(fs, target, seed); err != nil {
				t.Error(err)
			}
			for path := range tree(t, fs, scratch) {
				if kind := filepath.Base(path); kind == "identity" || kind == "raft" {
					t.Errorf("%s travelled", path)
				}
			}
			if err := seed.Remove(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(tree(t, fs, tc.donor), before) {
				t.Error("the donor was changed")
			}
			if left, _ := list(fs, scratch); len(left) != 0 {
				t.Errorf("scratch holds %v", left)
			}
			lock, err := datadir.At(fs, tc.donor).Lock() // released
			if err != nil {
				t.Fatal(err)
			}
			_ = lock.Close()
		})
	}
}

// noLinks is a file system that has none.
type noLinks struct{ *vfs.MemFS }

func (noLinks) Link(string, string) error { return errors.New("no links here") }

// twoDisks has what is below donor/ on a disk of its own.
type twoDisks struct{ *vfs.MemFS }

func (d twoDisks) Link(from, to string) error {
	if strings.HasPrefix(from, "donor/") != strings.HasPrefix(to, "donor/") {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EXDEV}
	}
	return d.MemFS.Link(from, to)
}

// TestFromStoppedNeedsRoom: a copy that does not fit is refused before it
// begins; what is linked needs no room.
func TestFromStoppedNeedsRoom(t *testing.T) {
	for name, c := range map[string]struct {
		over   func(mem *vfs.MemFS) vfs.FS
		copies uint64 // of the tables
	}{
		"linked":          {func(mem *vfs.MemFS) vfs.FS { return mem }, 0},
		"to another disk": {func(mem *vfs.MemFS) vfs.FS { return twoDisks{mem} }, 1},
		"without links":   {func(mem *vfs.MemFS) vfs.FS { return noLinks{mem} }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			newDonor(t, mem, "donor", 1)
			need := uint64(captureReserve)
			var tables uint64
			for path, content := range tree(t, mem, "donor/state-1") {
				switch {
				case strings.HasSuffix(path, ".sst"):
					tables += uint64(len(content))
				case filepath.Base(path) != lockName:
					need += 2 * uint64(len(content))
				}
			}
			need += c.copies * tables
			writes := 0
			fs := errorfs.Wrap(c.over(mem), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpFileWrite {
					writes++
				}
				return nil
			}))
			mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: need - 1, TotalBytes: 1 << 40})
			_, err := FromStopped(t.Context(), fs, "donor", "scratch")
			if !fault.Is(err, fault.NoSpace) || fault.HintOf(err) == "" || tables == 0 {
				t.Errorf("one byte short of %d: %v", need, err)
			}
			if there, _ := exists(mem, "scratch"); there || writes > 0 {
				t.Errorf("%d writes were begun, scratch is left: %t", writes, there)
			}
			mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: need, TotalBytes: 1 << 40})
			seed, err := FromStopped(t.Context(), fs, "donor", "scratch")
			if err != nil {
				t.Fatal(err)
			}
			if err := seed.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStageIn: what had to be copied is staged as it is, whatever was staged
// before; what is linked to the donor is not, since a stage may write to it.
func TestStageIn(t *testing.T) {
	for name, c := range map[string]struct {
		fs    vfs.FS
		moves bool
	}{
		"linked":          {vfs.NewMem(), false},
		"to another disk": {twoDisks{vfs.NewMem()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			newDonor(t, c.fs, "donor", 1)
			before := tree(t, c.fs, "donor")
			d := datadir.At(c.fs, "new")
			if err := staged(t, d, newTestSeed(t)).Close(); err != nil { // of another seed
				t.Fatal(err)
			}
			seed, err := FromStopped(t.Context(), c.fs, "donor", c.fs.PathJoin(d.Staging(), "donor"))
			if err != nil {
				t.Fatal(err)
			}
			moved, err := seed.StageIn(d)
			if err != nil || (moved > 0) != c.moves {
				t.Fatalf("%d bytes moved, %v", moved, err)
			}
			stage, err := OpenStage(t.Context(), d, seed.ManifestBytes())
			if err != nil {
				t.Fatal(err)
			}
			if missing := stage.Missing(); (len(missing) == 0) != c.moves {
				t.Errorf("missing %v", missing)
			}
			if _, err := putMissing(seed, stage); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(seed.Remove(), stage.Install(t.Context(), anIdentity(), InstallOptions{})); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(c.fs, "new", seed); err != nil {
				t.Error(err)
			}
			if !reflect.DeepEqual(tree(t, c.fs, "donor"), before) {
				t.Error("the donor was changed")
			}
		})
	}
}

func TestFromStoppedRefusals(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	newDonor(t, fs, "donor", 1)
	lock, err := datadir.At(fs, "donor").Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromStopped(ctx, fs, "donor", "s1"); !fault.Is(err, fault.InUse) {
		t.Errorf("running: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := FromStopped(ctx, fs, "nowhere", "s2"); !fault.Is(err, fault.Refused) {
		t.Errorf("no donor: %v", err)
	}
	if there, _ := exists(fs, "nowhere"); there {
		t.Error("the donor's directory was created")
	}
	if err := fs.MkdirAll("s3", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := FromStopped(ctx, fs, "donor", "s3"); !fault.Is(err, fault.NotEmpty) {
		t.Errorf("scratch in use: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := FromStopped(gone, fs, "donor", "s4"); !fault.Is(err, fault.Interrupted) {
		t.Errorf("cancelled: %v", err)
	}
	id := anIdentity()
	id.Cluster.ID++
	if err := datadir.At(fs, "donor").CommitIdentity(id); err != nil {
		t.Fatal(err)
	}
	if _, err := FromStopped(ctx, fs, "donor", "s5"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("identity of another cluster: %v", err)
	}
	write(t, fs, "donor/identity", []byte("garbage"))
	if _, err := FromStopped(ctx, fs, "donor", "s6"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("damaged identity: %v", err)
	}
	for _, dir := range []string{"s1", "s2", "s4", "s5", "s6"} {
		if there, _ := exists(fs, dir); there {
			t.Errorf("%s is left", dir)
		}
	}
}

// Whatever fails on the way, the donor stays as it was and no scratch is left.
func TestFailedFromStoppedTouchesNothing(t *testing.T) {
	mem := vfs.NewMem()
	newDonor(t, mem, "donor", 1)
	before := tree(t, mem, "donor")
	cause := errors.New("the disk says no")
	runs := 0
	for k := 1; ; k += 3 {
		inj := &lockedInjector{inj: &failing{k: k, err: cause, kinds: func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpOpen || op.Kind == errorfs.OpList || op.Kind == errorfs.OpFileRead
		}}}
		seed, err := FromStopped(context.Background(), errorfs.Wrap(mem, inj), "donor", "scratch")
		if !inj.hit() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		runs++
		if err == nil {
			if err := errors.Join(seed.Remove(), mem.RemoveAll("scratch")); err != nil {
				t.Fatal(err)
			}
		}
		if there, _ := exists(mem, "scratch"); there {
			t.Fatalf("operation %d: scratch is left", k)
		}
		if !reflect.DeepEqual(tree(t, mem, "donor"), before) {
			t.Fatalf("operation %d: the donor was changed", k)
		}
	}
	t.Logf("%d reads failed, one in each run", runs)
	if runs < 5 {
		t.Errorf("only %d", runs)
	}
}
