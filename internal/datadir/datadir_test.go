package datadir

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

const testPath = "/srv/cfseed/data"

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Fatalf("%v: code %q, want %q", err, fault.CodeOf(err), code)
	}
}

// fill makes the named files, and directories where a name ends in "/".
func fill(t *testing.T, d *Dir, names ...string) {
	t.Helper()
	if err := MkdirAllSynced(d.fs, d.path); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var err error
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			err = errors.Join(MkdirAllSynced(d.fs, d.join(dir)), WriteFileSynced(d.fs, d.fs.PathJoin(d.join(dir), "file"), []byte(name)))
		} else {
			err = WriteFileSynced(d.fs, d.join(name), []byte(name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func list(t *testing.T, d *Dir) string {
	t.Helper()
	names, err := d.fs.List(d.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestPaths(t *testing.T) {
	d := At(vfs.NewMem(), "/d")
	got := []string{d.Path(), d.Raft(), d.State(7), d.Seeds(), d.Staging(), d.Identity(), d.Manifest()}
	want := []string{"/d", "/d/raft", "/d/state-7", "/d/seeds", "/d/staging", "/d/identity", "/d/seed-manifest"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		names string
		class Class
		after string // what RemoveUncommitted leaves
	}{
		{"", Empty, ""},
		{"LOCK", Empty, "LOCK"},
		{"lost+found/", Empty, "lost+found"},
		{"fixtures/", Empty, "fixtures"},
		{"LOCK fixtures/client/ fixtures/peer/", Empty, "LOCK fixtures"},
		{"staging/ raft/ fixtures/ LOCK", Staged, "LOCK fixtures"},
		{"identity fixtures/ raft/", Complete, ""},
		{"fixtures/ raft/", Foreign, ""},
		{"fixtures/ member/", Foreign, ""}, // etcd's
		{"lost+found/ LOCK identity.tmp", Empty, "LOCK identity.tmp lost+found"},
		{"staging/", Staged, ""},
		{"staging/ LOCK lost+found/", Staged, "LOCK lost+found"},
		{"staging/ raft/ state-1/ state-20/ seed-manifest seed-manifest.tmp identity.tmp LOCK", Staged, "LOCK"},
		{"identity", Complete, ""},
		{"identity staging/ raft/ state-2/ state-3/ seeds/ LOCK", Complete, ""},
		{"identity notes.txt", Complete, ""},
		{"notes.txt", Foreign, ""},
		{"staging/ notes.txt", Foreign, ""},
		{"staging/ seeds/", Foreign, ""},
		{"staging/ state-x/", Foreign, ""},
		{"staging/ state-01/", Foreign, ""},
		{"staging/ state-/", Foreign, ""},
		// A member that lost its identity, not an install of ours.
		{"raft/ state-1/", Foreign, ""},
		{"raft/", Foreign, ""},
		{"seed-manifest", Foreign, ""},
		{"member/ snap/", Foreign, ""},
	} {
		t.Run(c.names, func(t *testing.T) {
			d := At(vfs.NewMem(), testPath)
			fill(t, d, strings.Fields(c.names)...)
			class, err := d.Classify()
			if err != nil || class != c.class {
				t.Fatalf("%v, %v, want %v", class, err, c.class)
			}
			before := d.fs.(*vfs.MemFS).String()
			err = d.RemoveUncommitted()
			if class == Complete || class == Foreign {
				wantCode(t, err, fault.NotEmpty)
				wantCode(t, d.Begin(), fault.NotEmpty)
				if after := d.fs.(*vfs.MemFS).String(); after != before {
					t.Errorf("changed a directory that is not ours:\n%s\nbefore\n%s", after, before)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, d); got != c.after {
				t.Errorf("left %q, want %q", got, c.after)
			}
			for range 2 {
				if err := d.Begin(); err != nil {
					t.Fatal(err)
				}
			}
			if class, err := d.Classify(); class != Staged || err != nil {
				t.Errorf("after Begin: %v, %v", class, err)
			}
		})
	}
	if class, err := At(vfs.NewMem(), "/absent").Classify(); class != Empty || err != nil {
		t.Errorf("an absent directory: %v, %v", class, err)
	}
}

// everyOp runs op on an errorfs over a crashable copy of what prepare made,
// and at each operation that changes the disk cuts the power, with 0 to 100 %
// of the unsynced data kept. It gives the number of operations.
func everyOp(t *testing.T, prepare, op func(*Dir) error, check func(after *Dir, how string)) int {
	t.Helper()
	mem := vfs.NewCrashableMem()
	if err := prepare(At(mem, testPath)); err != nil {
		t.Fatal(err)
	}
	k := 0
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if o.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		k++
		for _, percent := range []int{0, 25, 50, 75, 100} {
			for seed := range uint64(5) {
				clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, uint64(k)))})
				check(At(clone, testPath), o.Path)
			}
		}
		return nil
	}))
	if err := op(At(fs, testPath)); err != nil {
		t.Fatal(err)
	}
	check(At(mem.CrashClone(vfs.CrashCloneCfg{}), testPath), "")
	return k
}

// everyFailure runs op with each of its operations that change the disk
// failing in turn; what is checked is the state after a power cut.
func everyFailure(t *testing.T, prepare, op func(*Dir) error, check func(k int, after *Dir, err error)) {
	t.Helper()
	for fail := 1; ; fail++ {
		mem := vfs.NewCrashableMem()
		if err := prepare(At(mem, testPath)); err != nil {
			t.Fatal(err)
		}
		k := 0
		err := op(At(errorfs.Wrap(mem, errorfs.InjectorFunc(func(o errorfs.Op) error {
			if o.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			if k++; k == fail {
				return syscall.ENOSPC
			}
			return nil
		})), testPath))
		if k < fail {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err != nil {
			wantCode(t, err, fault.NoSpace)
		}
		check(fail, At(mem.CrashClone(vfs.CrashCloneCfg{}), testPath), err)
	}
}

func TestCommitIdentityCrash(t *testing.T) {
	first, second := sample(false), sample(true)
	second.Name = strings.Repeat("n", 1000)
	read := func(d *Dir) string {
		id, err := d.ReadIdentity()
		switch {
		case errors.Is(err, os.ErrNotExist):
			return "none"
		case err != nil:
			return err.Error()
		case equal(id, first):
			return "first"
		case equal(id, second):
			return "second"
		}
		return "another"
	}
	nothing := func(d *Dir) error { return d.Begin() }
	commitFirst := func(d *Dir) error { return errors.Join(d.Begin(), d.CommitIdentity(first)) }
	commitSecond := func(d *Dir) error { return d.CommitIdentity(second) }
	for _, c := range []struct {
		name             string
		prepare, op      func(*Dir) error
		before, complete string
	}{
		{"first commit", nothing, func(d *Dir) error { return d.CommitIdentity(first) }, "none", "first"},
		{"update", commitFirst, commitSecond, "first", "second"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := map[string]int{}
			k := everyOp(t, c.prepare, c.op, func(d *Dir, how string) {
				got := read(d)
				seen[got]++
				if got != c.before && got != c.complete || how == "" && got != c.complete {
					t.Errorf("crash before %q: %s", how, got)
				}
				if err := c.op(d); err != nil || read(d) != c.complete { // again, over what is left
					t.Errorf("crash before %q, then again: %s, %v", how, read(d), err)
				}
			})
			t.Logf("%d operations, seen %v", k, seen)
			if k < 4 || seen[c.before] == 0 || seen[c.complete] == 0 {
				t.Errorf("%d operations, seen %v", k, seen)
			}
			everyFailure(t, c.prepare, c.op, func(k int, d *Dir, err error) {
				if got := read(d); got != c.before && got != c.complete || err == nil && got != c.complete {
					t.Errorf("failure of operation %d (%v): %s", k, err, got)
				}
			})
		})
	}
}

// TestCrashOracleCatchesShortcuts is the proof that the crash test can fail: a
// file written in place, or renamed without syncs, is caught.
func TestCrashOracleCatchesShortcuts(t *testing.T) {
	data, err := encodeIdentity(sample(true))
	if err != nil {
		t.Fatal(err)
	}
	for name, commit := range map[string]func(*Dir) error{
		"in place": func(d *Dir) error { return writeSynced(d.fs, d.Identity(), data, anyMode) },
		"without sync": func(d *Dir) error {
			f, err := d.fs.Create(d.join("tmp"), vfs.WriteCategoryUnspecified)
			if err != nil {
				return err
			}
			_, err = f.Write(slices.Clone(data))
			return errors.Join(err, f.Close(), d.fs.Rename(d.join("tmp"), d.Identity()), SyncDir(d.fs, d.path))
		},
		"without sync of the directory": func(d *Dir) error {
			return errors.Join(writeSynced(d.fs, d.join("tmp"), data, anyMode), d.fs.Rename(d.join("tmp"), d.Identity()))
		},
	} {
		bad := 0
		everyOp(t, func(d *Dir) error { return errors.Join(d.Begin(), d.CommitIdentity(sample(false))) }, commit,
			func(d *Dir, how string) {
				id, err := d.ReadIdentity()
				if err != nil || how == "" && !equal(id, sample(true)) {
					bad++
				}
			})
		if bad == 0 {
			t.Errorf("%s: not caught", name)
		}
	}
}

// TestRemoveUncommittedCrash: at no point is a leftover without staging/, so
// that clearing can always be done again.
func TestRemoveUncommittedCrash(t *testing.T) {
	prepare := func(d *Dir) error {
		fill(t, d, "staging/", "raft/", "state-1/", "state-2/", "seed-manifest", "LOCK")
		return nil
	}
	everyOp(t, prepare, (*Dir).RemoveUncommitted, func(d *Dir, how string) {
		class, err := d.Classify()
		if err != nil || class != Staged && class != Empty || how == "" && class != Empty {
			t.Errorf("crash before %q: %v, %v: %s", how, class, err, list(t, d))
		}
		if err := d.RemoveUncommitted(); err != nil || list(t, d) != "LOCK" {
			t.Errorf("crash before %q, then again: %v: %s", how, err, list(t, d))
		}
	})
	everyFailure(t, prepare, (*Dir).RemoveUncommitted, func(k int, d *Dir, err error) {
		if class, cerr := d.Classify(); cerr != nil || class == Foreign || class == Complete || err == nil && class != Empty {
			t.Errorf("failure of operation %d (%v): %v, %v", k, err, class, cerr)
		}
	})
}

func TestBeginCrash(t *testing.T) {
	nothing := func(*Dir) error { return nil }
	everyOp(t, nothing, (*Dir).Begin, func(d *Dir, how string) {
		class, err := d.Classify()
		if err != nil || class != Staged && class != Empty || how == "" && class != Staged {
			t.Errorf("crash before %q: %v, %v", how, class, err)
		}
	})
}

func TestCheckInode(t *testing.T) {
	d := At(vfs.Default, t.TempDir())
	inode, err := d.Inode()
	if err != nil {
		t.Fatal(err)
	}
	if inode == 0 {
		t.Skip("no inodes here")
	}
	for _, ok := range []uint64{inode, 0} {
		if err := d.CheckInode(Identity{Inode: ok}); err != nil {
			t.Error(err)
		}
	}
	err = d.CheckInode(Identity{Inode: inode + 1})
	wantCode(t, err, fault.Refused)
	if !strings.Contains(fault.HintOf(err), "--accept-moved-data-dir") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
	mem := At(vfs.NewMem(), "/")
	if inode, err := mem.Inode(); inode != 0 || err != nil || mem.CheckInode(Identity{Inode: 5}) != nil {
		t.Errorf("in memory: %d, %v", inode, err)
	}
}

func TestFreeSpace(t *testing.T) {
	mem := vfs.NewMem()
	d := At(mem, testPath) // absent: the answer is that of its nearest parent
	if n, err := d.FreeSpace(); n != math.MaxUint64 || err != nil {
		t.Errorf("unknown: %d, %v", n, err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 123, TotalBytes: 200})
	if n, err := d.FreeSpace(); n != 123 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := At(vfs.Default, t.TempDir()+"/a/b").FreeSpace(); n == 0 || err != nil {
		t.Errorf("disk: %d, %v", n, err)
	}
}

func TestMkdirAllSynced(t *testing.T) {
	for _, path := range []string{"/a/b/c", "a", "a/b"} {
		mem := vfs.NewCrashableMem()
		for range 2 {
			if err := MkdirAllSynced(mem, path); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		if path[0] != '/' {
			continue
		}
		if _, err := mem.CrashClone(vfs.CrashCloneCfg{}).Stat(path); err != nil {
			t.Errorf("%s is gone after a crash: %v", path, err)
		}
	}
}

func sample(seeded bool) Identity {
	id := Identity{
		Cluster:   ident.Cluster{ID: 0x1122334455667788, Genesis: ident.Nonce{1, 2, 3}},
		MemberID:  0xabcdef,
		Directory: ident.Nonce{9, 8, 7},
		Inode:     4711,
		Name:      "n\u00f6de-1",
	}
	if seeded {
		id.Seed = &SeedRef{Position: ident.Position{Term: 5, Index: 1 << 40}, ManifestRoot: [32]byte{0xaa, 31: 0xbb}, LeaseID: 77, Joined: true}
	}
	return id
}

func equal(a, b Identity) bool {
	if (a.Seed == nil) != (b.Seed == nil) || a.Seed != nil && *a.Seed != *b.Seed {
		return false
	}
	a.Seed, b.Seed = nil, nil
	return a == b
}

func TestStates(t *testing.T) {
	fs := vfs.NewMem()
	d := At(fs, "node")
	if _, err := d.States(); err == nil {
		t.Error("a directory that is not there has states")
	}
	for _, name := range []string{d.State(1), d.State(12), d.Raft(), d.Staging(), fs.PathJoin("node", "state-x"), fs.PathJoin("node", "state-")} {
		if err := fs.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := d.States()
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []uint64{1, 12}) {
		t.Errorf("%v, %v", got, err)
	}
}
