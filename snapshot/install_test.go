package snapshot

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func TestInstall(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	if err := join(datadir.At(fs, "node"), seed); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Fatal(err)
	}
	names, err := list(fs, "node")
	if err != nil || len(names) != 4 {
		t.Errorf("left in the directory: %v (%v)", names, err)
	}
}

// The oracle of the tests below must be able to fail.
func TestCheckWholeNoticesDamage(t *testing.T) {
	seed := newTestSeed(t)
	other := newSource(t, vfs.NewMem(), "src/state-1").capture("src/a")
	for name, spoil := range map[string]func(fs *vfs.MemFS, d *datadir.Dir) *Seed{
		"another seed": func(*vfs.MemFS, *datadir.Dir) *Seed { return other },
		"no identity": func(fs *vfs.MemFS, d *datadir.Dir) *Seed {
			_ = fs.Remove(d.Identity())
			return seed
		},
		"no log": func(fs *vfs.MemFS, d *datadir.Dir) *Seed {
			_ = fs.RemoveAll(d.Raft())
			return seed
		},
		"no state": func(fs *vfs.MemFS, d *datadir.Dir) *Seed {
			_ = fs.RemoveAll(d.State(1))
			return seed
		},
		"a table cut": func(fs *vfs.MemFS, d *datadir.Dir) *Seed {
			write(t, fs, fs.PathJoin(d.State(1), seed.m.Files[0].Name), []byte("short"))
			return seed
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			d := datadir.At(fs, "node")
			if err := join(d, seed); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(fs, "node", spoil(fs, d)); err == nil {
				t.Error("not noticed")
			}
		})
	}
}

func TestInstallRefusals(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	for name, tc := range map[string]struct {
		change func(id *datadir.Identity)
		code   fault.Code
	}{
		"another cluster": {func(id *datadir.Identity) { id.Cluster.ID++ }, fault.Refused},
		"another genesis": {func(id *datadir.Identity) { id.Cluster.Genesis[0]++ }, fault.Refused},
		"ticket for another root": {func(id *datadir.Identity) {
			id.Seed = &datadir.SeedRef{Position: seed.Position()}
		}, fault.Refused},
		"ticket for another position": {func(id *datadir.Identity) {
			id.Seed = &datadir.SeedRef{Position: ident.Position{Term: 9, Index: 9}, ManifestRoot: seed.Root()}
		}, fault.Refused},
		"name too long": {func(id *datadir.Identity) { id.Name = strings.Repeat("n", 2000) }, fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			d := datadir.At(fs, "node")
			st := staged(t, d, seed)
			id := anIdentity()
			tc.change(&id)
			if err := st.Install(ctx, id, InstallOptions{}); !fault.Is(err, tc.code) {
				t.Fatalf("got %v", err)
			}
			if class, err := d.Classify(); err != nil || class != datadir.Staged {
				t.Errorf("%s, %v", class, err)
			}
			if err := join(d, seed); err != nil { // and it can still be done right
				t.Error(err)
			}
		})
	}
	t.Run("incomplete", func(t *testing.T) {
		d := datadir.At(vfs.NewMem(), "node")
		st, err := OpenStage(ctx, d, seed.ManifestBytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Install(ctx, anIdentity(), InstallOptions{}); !fault.Is(err, fault.Refused) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		d := datadir.At(vfs.NewMem(), "node")
		st := staged(t, d, seed)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := st.Install(gone, anIdentity(), InstallOptions{}); !fault.Is(err, fault.Interrupted) {
			t.Fatalf("got %v", err)
		}
		if class, _ := d.Classify(); class != datadir.Staged {
			t.Errorf("class %s", class)
		}
	})
}

// A ticket keeps its lease, a known cluster needs no genesis.
func TestInstallCompletesTheIdentity(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	st := staged(t, d, seed)
	id := anIdentity()
	id.Cluster.Genesis = ident.Nonce{}
	id.Seed = &datadir.SeedRef{Position: seed.Position(), ManifestRoot: seed.Root(), LeaseID: 44}
	if err := st.Install(context.Background(), id, InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := d.ReadIdentity()
	if err != nil || got.Cluster != aCluster() || got.Seed.LeaseID != 44 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}

// failing injects an error at the k-th operation that kinds names.
type failing struct {
	k, seen int
	err     error
	kinds   func(op errorfs.Op) bool
	at      errorfs.Op
}

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if !f.kinds(op) {
		return nil
	}
	f.seen++
	if f.seen != f.k {
		return nil
	}
	f.at = op
	return f.err
}

// failEach runs an install once for each operation of the kinds, which then fails,
// until none is left, and gives the number of runs.
func (in install) failEach(t *testing.T, seed *Seed, cause error, kinds func(op errorfs.Op) bool,
	check func(t *testing.T, at errorfs.Op, fs cloneableFS, err error),
) int {
	t.Helper()
	for k := 1; ; k++ {
		mem := newCloneable()
		inj := &failing{k: k, err: cause, kinds: kinds}
		guarded := &lockedInjector{inj: inj}
		err := in.run(datadir.At(errorfs.Wrap(mem, guarded), "node"), seed)
		if !guarded.hit() {
			if err != nil {
				t.Fatalf("nothing failed, yet: %v", err)
			}
			return k - 1
		}
		check(t, inj.at, mem, err)
		if t.Failed() {
			t.Fatalf("operation %d of its kind, on %s", k, inj.at.Path)
		}
	}
}

// A full disk ends in no_space, without a node, and the join can be done later.
func TestDiskFullAtEveryWrite(t *testing.T) {
	seed := newTestSeed(t)
	writes := func(op errorfs.Op) bool {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpLink:
			return true
		}
		return false
	}
	n := joining().failEach(t, seed, syscall.ENOSPC, writes, func(t *testing.T, _ errorfs.Op, fs cloneableFS, err error) {
		if !fault.Is(err, fault.NoSpace) {
			t.Errorf("got %v (%s)", err, fault.CodeOf(err))
		}
		d := datadir.At(fs, "node")
		if class, err := d.Classify(); err != nil || class == datadir.Complete || class == datadir.Foreign {
			t.Errorf("the directory is %s, %v", class, err)
		}
		if err := join(d, seed); err != nil {
			t.Errorf("with space again: %v", err)
		}
		if err := checkWhole(fs, "node", seed); err != nil {
			t.Errorf("with space again: %v", err)
		}
	})
	t.Logf("%d writes, each failed once with ENOSPC: all no_space, 0 installs", n)
	if n < 40 {
		t.Errorf("only %d writes seen", n)
	}
}

// A failed fsync is never passed over: no node, or one that was whole before.
func TestSyncErrorAtEverySync(t *testing.T) {
	seed := newTestSeed(t)
	syncs := func(op errorfs.Op) bool {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			return true
		}
		return false
	}
	afterCommit := 0
	n := joining().failEach(t, seed, syscall.EIO, syncs, func(t *testing.T, op errorfs.Op, fs cloneableFS, err error) {
		if err == nil || !strings.Contains(err.Error(), syscall.EIO.Error()) {
			t.Errorf("got %v", err)
		}
		d := datadir.At(fs, "node")
		class, cerr := d.Classify()
		if cerr != nil || class == datadir.Foreign {
			t.Errorf("the directory is %s, %v", class, cerr)
		}
		crashed := fs.clone(0, 0)
		if class == datadir.Complete { // only staging/ was left to remove
			afterCommit++
			if op.Path != "node" {
				t.Errorf("the sync of %s failed, behind the commit", op.Path)
			}
			if err := checkWhole(crashed, "node", seed); err != nil {
				t.Errorf("after the commit: %v", err)
			}
			return
		}
		if class, _ := datadir.At(crashed, "node").Classify(); class == datadir.Complete {
			t.Error("installed after a crash")
		}
		if err := join(d, seed); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := checkWhole(fs, "node", seed); err != nil {
			t.Errorf("again: %v", err)
		}
	})
	t.Logf("%d syncs, each failed once with EIO: 0 installs after a failed sync (%d behind the commit)", n, afterCommit)
	// The storage engine syncs now and then in the background, so that a sync can
	// come twice, or not at all.
	if n < 20 {
		t.Errorf("%d syncs seen", n)
	}
}
