package snapshot

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// One bit of one staged file flips between write and verification: always
// found, never installed, and mended by fetching that file again.
func TestEveryBitFlipAtRestIsFound(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	for _, kind := range []manifest.Kind{manifest.KindTable, manifest.KindVersions, manifest.KindOptions} {
		t.Run(kind.String(), func(t *testing.T) {
			fs := vfs.NewMem()
			d := datadir.At(fs, "node")
			st := staged(t, d, seed)
			var files []int
			for i := range seed.m.Files {
				if seed.m.Files[i].Kind == kind {
					files = append(files, i)
				}
			}
			rng := rand.New(rand.NewPCG(5, uint64(kind)))
			n, engineAlone := 1000, 0
			if testing.Short() {
				n = 200
			}
			for i := range n {
				file := files[rng.IntN(len(files))]
				flip(t, fs, st.path(file), rng.Uint64())
				if i%20 == 0 {
					if info, err := inspect(fs, st.dir()); err != nil || info.Digest != seed.m.StateDigest {
						engineAlone++
					}
				}
				if err := st.Verify(ctx); !fault.Is(err, fault.Corrupt) {
					t.Fatalf("flip %d in %s: %v", i, seed.m.Files[file].Name, err)
				}
				want := Range{File: file, Count: len(seed.m.Files[file].Chunks)}
				if missing := st.Missing(); len(missing) != 1 || missing[0] != want {
					t.Fatalf("missing %v", missing)
				}
				if _, err := putMissing(seed, st); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d of %d single bit flips found (opening the state alone: %d of %d)", n, n, engineAlone, n/20)
			if err := st.Install(ctx, anIdentity(), InstallOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(fs, "node", seed); err != nil {
				t.Error(err)
			}
		})
	}
}

// Files cut, gone or too many are found as well.
func TestWrongFilesAreFound(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	rng := rand.New(rand.NewPCG(6, 6))
	const n = 500
	for i := range n {
		st, err := OpenStage(ctx, d, seed.ManifestBytes())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := putMissing(seed, st); err != nil {
			t.Fatal(err)
		}
		path := st.path(rng.IntN(len(seed.m.Files)))
		b, err := readFile(fs, path)
		if err != nil {
			t.Fatal(err)
		}
		what := i % 4
		switch {
		case what == 0 && len(b) > 0:
			write(t, fs, path, b[:rng.IntN(len(b))])
		case what == 1:
			write(t, fs, path, append(b, 0))
		case what == 2:
			write(t, fs, fs.PathJoin(st.dir(), "000999.sst"), b)
		default:
			if err := fs.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Install(ctx, anIdentity(), InstallOptions{}); err == nil {
			t.Fatalf("run %d (%d) on %s: installed", i, what, path)
		}
		if class, _ := d.Classify(); class != datadir.Staged {
			t.Fatalf("run %d: class %s", i, class)
		}
	}
	t.Logf("%d of %d cut, grown, missing or extra files found", n, n)
	if err := join(d, seed); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}

// Sums that match a manifest are not enough: the state itself must agree with
// what the manifest says of it.
func TestManifestThatLiesAboutTheState(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	for name, lie := range map[string]func(m *manifest.Manifest){
		"index":    func(m *manifest.Manifest) { m.Position.Index++ },
		"term":     func(m *manifest.Manifest) { m.Position.Term++ },
		"voters":   func(m *manifest.Manifest) { m.ConfState.Voters = []uint64{1, 2} },
		"learners": func(m *manifest.Manifest) { m.ConfState.Learners = nil },
		"cluster":  func(m *manifest.Manifest) { m.Cluster.ID++ },
		"genesis":  func(m *manifest.Manifest) { m.Cluster.Genesis[3]++ },
		"digest":   func(m *manifest.Manifest) { m.StateDigest[0]++ },
		"revision": func(m *manifest.Manifest) { m.Revision++ },
	} {
		t.Run(name, func(t *testing.T) {
			m := *seed.m
			lie(&m)
			liar, err := newSeed(seed.fs, seed.dir, &m)
			if err != nil {
				t.Fatal(err)
			}
			d := datadir.At(vfs.NewMem(), "node")
			st := staged(t, d, liar)
			id := anIdentity()
			id.Cluster = m.Cluster
			if err := st.Install(ctx, id, InstallOptions{}); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("got %v", err)
			}
			if class, _ := d.Classify(); class != datadir.Staged {
				t.Errorf("class %s", class)
			}
		})
	}
}

// Files that are no state at all give an error, not a panic.
func TestSeedOfGarbage(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	if err := fs.MkdirAll("bad", 0o755); err != nil {
		t.Fatal(err)
	}
	m := *seed.m
	m.Files = append([]manifest.File(nil), seed.m.Files...)
	for i := range m.Files {
		f := &m.Files[i]
		noise := make([]byte, f.Size)
		for j := range noise {
			noise[j] = byte(j * 7)
		}
		write(t, fs, fs.PathJoin("bad", f.Name), noise)
		file, err := fs.Open(fs.PathJoin("bad", f.Name))
		if err != nil {
			t.Fatal(err)
		}
		f.Chunks, err = sumChunks(context.Background(), file, f.Size, smallChunk, newBuffers(smallChunk))
		if err != nil {
			t.Fatal(err)
		}
		f.Digest = manifest.FileDigest(f.Size, f.Chunks)
		_ = file.Close()
	}
	garbage, err := newSeed(fs, "bad", &m)
	if err != nil {
		t.Fatal(err)
	}
	d := datadir.At(vfs.NewMem(), "node")
	if err := staged(t, d, garbage).Install(context.Background(), anIdentity(), InstallOptions{}); err == nil {
		t.Fatal("installed")
	}
	if class, _ := d.Classify(); class != datadir.Staged {
		t.Errorf("class %s", class)
	}
}

// InstallState brings a new state into a member's directory and leaves the
// member as it is.
func TestInstallState(t *testing.T) {
	ctx := context.Background()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(20, 1000)
	one := src.capture("src/one")
	src.fill(20, 1000)
	two := src.capture("src/two")
	fs := newCloneable()
	d := datadir.At(fs, "node")
	if err := join(d, one); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStage(ctx, d, two.ManifestBytes()); !fault.Is(err, fault.NotEmpty) {
		t.Fatalf("OpenStage on a member: %v", err)
	}
	if _, err := OpenMemberStage(ctx, datadir.At(fs, "empty"), two.ManifestBytes()); !fault.Is(err, fault.Refused) {
		t.Fatalf("OpenMemberStage without a member: %v", err)
	}
	st, err := OpenMemberStage(ctx, d, two.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.InstallState(ctx, 2); !fault.Is(err, fault.Refused) {
		t.Fatalf("incomplete: %v", err)
	}
	if _, err := putMissing(two, st); err != nil {
		t.Fatal(err)
	}
	if err := st.Install(ctx, anIdentity(), InstallOptions{}); !fault.Is(err, fault.NotEmpty) {
		t.Fatalf("Install over a member: %v", err)
	}
	// The state in use is never replaced.
	running, err := store.Open(d.State(1), store.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.InstallState(ctx, 1); !fault.Is(err, fault.InUse) {
		t.Fatalf("state in use: %v", err)
	}
	// A leftover is.
	if err := fs.MkdirAll(d.State(2), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, fs, fs.PathJoin(d.State(2), "000001.sst"), []byte("leftover"))
	if err := st.InstallState(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	after := fs.clone(0, 0)
	for n, want := range map[uint64]*Seed{1: one, 2: two} {
		info, err := store.Inspect(d.State(n), store.Options{FS: after})
		if err != nil || info.Position != want.Position() || info.Digest != want.m.StateDigest {
			t.Errorf("state-%d: %+v, %v", n, info, err)
		}
	}
	names, _ := list(after, "node")
	for _, name := range names {
		if name == "staging" || name == "seed-manifest" {
			t.Errorf("%s is left", name)
		}
	}
}

// On a disk, a table is read back as soon as it is whole, and again only when
// somebody has written to it since.
func TestReadBackAsFilesComeIn(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	table := slices.IndexFunc(seed.m.Files, func(f manifest.File) bool { return f.Kind == manifest.KindTable })
	dir := t.TempDir()
	var reads atomic.Int64
	counted := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
			reads.Add(1)
		}
		return nil
	}))
	st := staged(t, datadir.At(counted, vfs.Default.PathJoin(dir, "node")), seed)
	if reads.Swap(0) == 0 {
		t.Error("no table was read back before the seed was verified")
	}
	if err := st.readBack(ctx); err != nil || reads.Load() != 0 {
		t.Errorf("%d reads of tables that were read before: %v", reads.Load(), err)
	}
	flipOnDisk(t, st.path(table), 77)
	if err := st.readBack(ctx); !fault.Is(err, fault.Corrupt) || reads.Load() == 0 {
		t.Errorf("written to since, %d reads: %v", reads.Load(), err)
	}

	// A disk that keeps other bytes than it was given says so at once.
	lying := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, ".sst") {
			flipOnDisk(t, op.Path, 78)
		}
		return nil
	}))
	st = staged(t, datadir.At(lying, vfs.Default.PathJoin(dir, "other")), seed)
	if st.files[table].checked != (sumKey{}) {
		t.Error("a table with another bit passes for checked")
	}
	if err := st.Verify(ctx); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a disk that keeps other bytes: %v", err)
	}
}

func flipOnDisk(t *testing.T, path string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, rerr := f.ReadAt(b[:], bit/8)
	b[0] ^= 1 << (bit % 8)
	_, werr := f.WriteAt(b[:], bit/8)
	if err := errors.Join(rerr, werr, f.Close()); err != nil {
		t.Fatal(err)
	}
}
