package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sys/unix"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

func TestCaptureDescribesTheState(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(50, 1000)
	seed := src.capture("src/seeds/a")
	m := seed.Manifest()
	if m.Position != src.pos || m.StateDigest != src.st.Digest() || m.Cluster != aCluster() ||
		m.Revision != int64(src.pos.Index)+1 || m.FormatMajorVersion != uint64(store.FormatMajorVersion) ||
		!reflect.DeepEqual(m.ConfState.Voters, []uint64{1, 2, 3}) || !reflect.DeepEqual(m.ConfState.Learners, []uint64{7}) {
		t.Errorf("manifest %+v", m)
	}
	if m.TotalChunks() < 10 || m.TotalBytes() < 50_000 {
		t.Errorf("%d chunks, %d bytes", m.TotalChunks(), m.TotalBytes())
	}
	names, err := list(src.fs, seed.Dir())
	if err != nil || len(names) != len(m.Files) {
		t.Errorf("%v beside %d files (%v)", names, len(m.Files), err)
	}
	buf := make([]byte, smallChunk)
	for i := range m.Files {
		var got []byte
		for j := range m.Files[i].Chunks {
			b, err := seed.ReadChunk(context.Background(), i, j, buf)
			if err != nil {
				t.Fatal(err)
			}
			if &b[0] != &buf[0] {
				t.Fatal("the caller's buffer was not used")
			}
			got = append(got, b...)
		}
		want, err := readFile(src.fs, src.fs.PathJoin(seed.Dir(), m.Files[i].Name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: chunks do not join to the file (%v)", m.Files[i].Name, err)
		}
	}
}

// Entries are applied all the time; what a capture says it holds is what the
// state was when the entry at its position had been applied.
func TestCaptureUnderLoad(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	var mu sync.Mutex
	digests := map[ident.Position][16]byte{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			src.fill(1, 400)
			mu.Lock()
			digests[src.pos] = src.st.Digest()
			mu.Unlock()
		}
	})
	c := capturer{fs: src.fs, chunkSize: smallChunk}
	var seeds []*Seed
	for i := range 20 {
		seed, err := c.capture(context.Background(), src.st, fmt.Sprintf("src/seeds/%d", i))
		if err != nil {
			t.Error(err)
			break
		}
		seeds = append(seeds, seed)
	}
	close(stop)
	wg.Wait()
	moved := 0
	for i, seed := range seeds {
		mu.Lock()
		want, known := digests[seed.Position()]
		mu.Unlock()
		if seed.Position().Index > 1 && (!known || want != seed.m.StateDigest) {
			t.Errorf("capture %d at %s: digest %x, was %x", i, seed.Position(), seed.m.StateDigest, want)
		}
		if i > 0 && seed.Position() != seeds[i-1].Position() {
			moved++
		}
		st, err := store.Open(seed.Dir(), store.Options{FS: src.fs})
		if err != nil {
			t.Fatal(err)
		}
		view := st.View()
		scanned, err := view.ScanDigest(context.Background())
		if err := errors.Join(err, view.Close(), st.Close()); err != nil || scanned != want && known {
			t.Errorf("capture %d: a full scan gives %x, %v", i, scanned, err)
		}
	}
	if moved == 0 {
		t.Error("nothing was applied between captures")
	}
	t.Logf("%d captures, %d entries applied meanwhile", len(seeds), src.pos.Index)
}

func TestReadChunkRefusals(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	src := newSource(t, mem, "src/state-1")
	src.fill(20, 1000)
	seed := src.capture("src/seeds/a")
	for _, at := range [][2]int{{-1, 0}, {len(seed.m.Files), 0}, {0, -1}, {0, len(seed.m.Files[0].Chunks)}, {len(seed.m.Files) - 1, 0}} {
		if _, err := seed.ReadChunk(ctx, at[0], at[1], nil); !fault.Is(err, fault.Usage) {
			t.Errorf("chunk %d of file %d: %v", at[1], at[0], err)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := seed.ReadChunk(gone, 0, 0, nil); !fault.Is(err, fault.Interrupted) {
		t.Errorf("cancelled: %v", err)
	}
	path := mem.PathJoin(seed.Dir(), seed.m.Files[0].Name)
	for bit := range uint64(300) { // bit rot at the source, found at the source
		flip(t, mem, path, bit*7)
		if _, err := seed.ReadChunk(ctx, 0, 0, nil); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("bit %d: %v", bit*7, err)
		}
		flip(t, mem, path, bit*7)
	}
	if _, err := seed.ReadChunk(ctx, 0, 0, nil); err != nil {
		t.Errorf("whole again: %v", err)
	}
	b, err := readFile(mem, path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, mem, path, b[:100])
	if _, err := seed.ReadChunk(ctx, 0, 0, nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("cut: %v", err)
	}
	if err := seed.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := seed.ReadChunk(ctx, 0, 0, nil); !fault.Is(err, fault.LeaseLost) {
		t.Errorf("removed: %v", err)
	}
	if err := seed.Remove(); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if there, _ := exists(mem, seed.Dir()); there {
		t.Error("files are left")
	}
}

func TestCaptureRefusals(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	src := newSource(t, mem, "src/state-1")
	if err := mem.MkdirAll("src/seeds/there", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Capture(ctx, mem, src.st, "src/seeds/there"); !fault.Is(err, fault.NotEmpty) {
		t.Errorf("existing directory: %v", err)
	}
	if there, _ := exists(mem, "src/seeds/there"); !there {
		t.Error("the existing directory was removed")
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: captureReserve - 1, TotalBytes: 1 << 40})
	if _, err := Capture(ctx, mem, src.st, "src/seeds/a"); !fault.Is(err, fault.NoSpace) {
		t.Errorf("full disk: %v", err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{})
	empty, err := store.Open("empty", store.Options{FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = empty.Close() }()
	if _, err := Capture(ctx, mem, empty, "src/seeds/b"); !fault.Is(err, fault.Refused) {
		t.Errorf("state without a cluster: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Capture(gone, mem, src.st, "src/seeds/c"); !fault.Is(err, fault.Interrupted) {
		t.Errorf("cancelled: %v", err)
	}
	for _, dir := range []string{"a", "b", "c"} {
		if there, _ := exists(mem, "src/seeds/"+dir); there {
			t.Errorf("%s is left", dir)
		}
	}
}

// checkpointer is a store whose checkpoints are made on another file system
// wrapper than the store's own.
type checkpointer func(dir string) error

func (c checkpointer) Checkpoint(dir string) error { return c(dir) }

// A capture that fails anywhere leaves no checkpoint behind.
func TestFailedCaptureLeavesNothing(t *testing.T) {
	cause := errors.New("the disk says no")
	runs := 0
	for k := 1; ; k++ {
		mem := vfs.NewMem()
		src := newSource(t, mem, "src/state-1")
		src.fill(20, 1000)
		inj := &failing{k: k, err: cause, kinds: func(op errorfs.Op) bool {
			return op.Kind != errorfs.OpRemoveAll && op.Kind != errorfs.OpRemove
		}}
		locked := &lockedInjector{inj: inj}
		c := capturer{fs: errorfs.Wrap(mem, locked), chunkSize: smallChunk}
		_, err := c.capture(context.Background(), src.st, "src/seeds/a")
		src.close()
		if !locked.hit() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		runs++
		if err == nil {
			// Reads that only advise (the engine's look for other versions of
			// a file) may fail without harm; then the capture is there.
			continue
		}
		if there, _ := exists(mem, "src/seeds/a"); there {
			t.Fatalf("operation %d (%v): the checkpoint is left", k, inj.at)
		}
	}
	t.Logf("%d operations failed, one in each run", runs)
	if runs < 20 {
		t.Errorf("only %d operations seen", runs)
	}
	// A checkpoint with something in it that does not belong there.
	mem := vfs.NewMem()
	src := newSource(t, mem, "src/state-1")
	odd := checkpointer(func(dir string) error {
		err := src.st.Checkpoint(dir)
		write(t, mem, mem.PathJoin(dir, "000777.log"), []byte("left"))
		return err
	})
	if _, err := Capture(context.Background(), mem, odd, "src/seeds/odd"); !fault.Is(err, fault.Refused) {
		t.Errorf("got %v", err)
	}
	if there, _ := exists(mem, "src/seeds/odd"); there {
		t.Error("the odd checkpoint is left")
	}
}

func TestLibrarySharesAndCounts(t *testing.T) {
	ctx := context.Background()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(20, 1000)
	lib, err := OpenLibrary(src.fs, "src/seeds")
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(w Want) (*Seed, func() error) {
		t.Helper()
		seed, release, err := lib.Acquire(ctx, w, src.st)
		if err != nil {
			t.Fatal(err)
		}
		return seed, release
	}
	one, releaseOne := acquire(Want{})
	again, releaseAgain := acquire(Want{})
	if one != again {
		t.Error("two captures at one position")
	}
	src.fill(5, 1000)
	old, releaseOld := acquire(Want{Min: one.Position()})
	if old != one {
		t.Error("an old seed that will do was not shared")
	}
	fresh, releaseFresh := acquire(Want{Min: src.pos})
	if fresh == one || fresh.Position() != src.pos {
		t.Errorf("want %s, got %s", src.pos, fresh.Position())
	}
	byRoot, releaseByRoot := acquire(Want{Root: one.Root(), Min: src.pos})
	if byRoot != one {
		t.Error("not the seed that was asked for")
	}
	if _, _, err := lib.Acquire(ctx, Want{Min: ident.Position{Term: 3, Index: src.pos.Index + 1}}, src.st); !fault.Is(err, fault.Reseed) {
		t.Errorf("beyond the state: %v", err)
	}
	// The same position under other bytes: the held one is kept.
	lib.turn <- struct{}{}
	c := capturer{fs: src.fs, chunkSize: 2 * smallChunk}
	twin, err := c.capture(ctx, src.st, "src/seeds/seed-twin")
	<-lib.turn
	if err != nil {
		t.Fatal(err)
	}
	h, err := lib.keep(twin)
	if err != nil || h.seed != fresh {
		t.Errorf("twin kept: %v", err)
	}
	if there, _ := exists(src.fs, twin.Dir()); there {
		t.Error("the twin is left")
	}
	holdings := lib.Holdings()
	if len(holdings) != 2 || holdings[0].Users != 4 || holdings[1].Users != 2 {
		t.Errorf("%+v", holdings)
	}
	for _, release := range []func() error{
		releaseOne, releaseOne, releaseOne, releaseOne, // once counts
		releaseAgain, releaseOld, lib.releaser(h), releaseFresh,
	} {
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
	chunkOf(t, one, 0, 0) // still used by its root
	if err := releaseByRoot(); err != nil {
		t.Fatal(err)
	}
	if names, _ := list(src.fs, "src/seeds"); len(names) != 0 || len(lib.Holdings()) != 0 {
		t.Errorf("left: %v, %v", names, lib.Holdings())
	}
}

// Many joins at once make one checkpoint.
func TestLibraryCapturesOnce(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(20, 1000)
	lib, err := OpenLibrary(src.fs, "src/seeds")
	if err != nil {
		t.Fatal(err)
	}
	captures := 0
	counted := checkpointer(func(dir string) error {
		captures++
		return src.st.Checkpoint(dir)
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var releases []func() error
	for range 8 {
		wg.Go(func() {
			_, release, err := lib.Acquire(context.Background(), Want{Min: ident.Position{Index: 2}}, counted)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			releases = append(releases, release)
		})
	}
	wg.Wait()
	if captures != 1 || len(releases) != 8 {
		t.Errorf("%d captures for %d users", captures, len(releases))
	}
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	for _, release := range releases { // late, and harmless
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := lib.Acquire(context.Background(), Want{}, counted); !fault.Is(err, fault.Interrupted) {
		t.Errorf("after Close: %v", err)
	}
	if names, _ := list(src.fs, "src/seeds"); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func TestLibraryClearsLeftoversAndNothingElse(t *testing.T) {
	fs := vfs.NewMem()
	for _, dir := range []string{"n/seeds/seed-000001", "n/seeds/seed-old", "n/seeds/other", "n/state-1"} {
		if err := fs.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, fs, fs.PathJoin(dir, "file"), []byte("x"))
	}
	lib, err := OpenLibrary(fs, "n/seeds")
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.DropLeft(); err != nil {
		t.Fatal(err)
	}
	names, _ := list(fs, "n/seeds")
	if len(names) != 1 || names[0] != "other" {
		t.Errorf("%v", names)
	}
	for _, path := range []string{"n/state-1", "n/seeds", "n/seeds/other", "n/seeds/seed-1/..", "n/seeds/a/seed-1", "seed-1", ""} {
		if err := lib.remove(path); !fault.Is(err, fault.Refused) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// On a disk, the sums of tables that were there at the last capture are not
// computed again.
func TestSumsOfOldTablesAreKept(t *testing.T) {
	ctx := context.Background()
	fs := vfs.Default
	dir := t.TempDir()
	src := newSource(t, fs, filepath.Join(dir, "state-1"))
	src.fill(50, 1000)
	lib, err := OpenLibrary(fs, filepath.Join(dir, "seeds"))
	if err != nil {
		t.Fatal(err)
	}
	one, releaseOne, err := lib.Acquire(ctx, Want{}, src.st)
	if err != nil {
		t.Fatal(err)
	}
	if err := releaseOne(); err != nil {
		t.Fatal(err)
	}
	two, releaseTwo, err := lib.Acquire(ctx, Want{}, src.st)
	if err != nil {
		t.Fatal(err)
	}
	if lib.capture.sums.hits == 0 {
		t.Error("all sums were computed again")
	}
	plain, err := Capture(ctx, fs, src.st, filepath.Join(dir, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	for _, seed := range []*Seed{one, two} {
		for i := range seed.m.Files {
			if f := &seed.m.Files[i]; f.Kind == manifest.KindTable && f.Digest != plain.m.Files[i].Digest {
				t.Errorf("%s: other digest than without kept sums", f.Name)
			}
		}
	}
	if err := releaseTwo(); err != nil {
		t.Fatal(err)
	}
}

// OpenChunk gives the bytes that ReadChunk gives, where files have descriptors.
func TestOpenChunk(t *testing.T) {
	dir := t.TempDir()
	src := newSource(t, vfs.Default, filepath.Join(dir, "src", "state-1"))
	src.fill(20, 1000)
	seed := src.capture(filepath.Join(dir, "src", "seeds", "a"))
	for file := range seed.m.Files {
		for index := range seed.m.Files[file].Chunks {
			want, err := seed.ReadChunk(t.Context(), file, index, nil)
			if err != nil {
				t.Fatal(err)
			}
			f, offset, err := seed.OpenChunk(file, index)
			if err != nil || f == nil {
				t.Fatalf("chunk %d of file %d: %v, %v", index, file, f, err)
			}
			got := make([]byte, len(want))
			if _, err := unix.Pread(int(f.Fd()), got, offset); err != nil || !bytes.Equal(got, want) {
				t.Errorf("chunk %d of file %d differs: %v", index, file, err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, at := range [][2]int{{-1, 0}, {len(seed.m.Files), 0}, {0, -1}, {0, len(seed.m.Files[0].Chunks)}} {
		if _, _, err := seed.OpenChunk(at[0], at[1]); !fault.Is(err, fault.Usage) {
			t.Errorf("chunk %d of file %d: %v", at[1], at[0], err)
		}
	}
	if err := seed.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := seed.OpenChunk(0, 0); !fault.Is(err, fault.LeaseLost) {
		t.Errorf("removed: %v", err)
	}

	mem := vfs.NewMem()
	inMemory := newSource(t, mem, "src/state-1")
	inMemory.fill(2, 1000)
	if f, _, err := inMemory.capture("src/seeds/a").OpenChunk(0, 0); f != nil || err != nil {
		t.Errorf("a file in memory: %v, %v", f, err)
	}
}
