package snapshot

import (
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
)

func openLibrary(t *testing.T, fs vfs.FS) *Library {
	t.Helper()
	lib, err := OpenLibrary(fs, "src/seeds")
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

func seedNames(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := list(fs, "src/seeds")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestRecall: a process is killed while it serves; the next one serves the very
// same seed, once it is asked for it.
func TestRecall(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	killed := openLibrary(t, src.fs)
	var roots [][32]byte
	for range 4 {
		src.fill(10, 1000)
		seed, _, err := killed.Acquire(t.Context(), Want{Min: src.pos}, src.st)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, seed.Root())
	}
	// A capture that was cut off.
	if err := datadir.MkdirAllSynced(src.fs, "src/seeds/seed-000005"); err != nil {
		t.Fatal(err)
	}
	write(t, src.fs, "src/seeds/seed-000005/000001.sst", []byte("x"))

	lib := openLibrary(t, src.fs)
	if got := seedNames(t, src.fs); len(got) != keepLeft {
		t.Errorf("%v are left", got)
	}
	for i, root := range roots {
		if err := lib.Recall(t.Context(), root); err != nil {
			t.Fatal(err)
		}
		held := slices.ContainsFunc(lib.Holdings(), func(h Holding) bool { return h.Root == root })
		if last := i == len(roots)-1; held != last {
			t.Errorf("seed %d of %d held: %t", i+1, len(roots), held)
		}
	}
	if got := seedNames(t, src.fs); len(got) != 1 {
		t.Errorf("%v are left of a whole seed and one that was cut off", got)
	}
	seed, release, err := lib.Acquire(t.Context(), Want{Root: roots[3]}, checkpointer(func(string) error { return errors.New("captured again") }))
	if err != nil || seed.Root() != roots[3] {
		t.Fatalf("the recalled seed is not served: %v", err)
	}
	if err := join(datadir.At(src.fs, "node"), seed); err != nil {
		t.Error(err)
	}
	if err := lib.DropLeft(); err != nil { // it is used
		t.Fatal(err)
	}
	if _, err := seed.ReadChunk(t.Context(), 0, 0, nil); err != nil {
		t.Errorf("a seed in use was dropped: %v", err)
	}
	src.fill(1, 1000)
	if fresh, _, err := lib.Acquire(t.Context(), Want{Min: src.pos}, src.st); err != nil || fresh.Dir() == seed.Dir() {
		t.Errorf("a new capture: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seedNames(t, src.fs); len(got) != 0 {
		t.Errorf("%v are left after Close", got)
	}
}

// TestDropLeft: what nobody asks for goes, recalled or not.
func TestDropLeft(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	killed := openLibrary(t, src.fs)
	var last *Seed
	for range 2 {
		src.fill(10, 1000)
		seed, _, err := killed.Acquire(t.Context(), Want{Min: src.pos}, src.st)
		if err != nil {
			t.Fatal(err)
		}
		last = seed
	}
	lib := openLibrary(t, src.fs)
	if err := lib.Recall(t.Context(), last.Root()); err != nil || len(lib.Holdings()) != 1 {
		t.Fatalf("%d held, %v", len(lib.Holdings()), err)
	}
	if err := lib.DropLeft(); err != nil {
		t.Fatal(err)
	}
	if got := seedNames(t, src.fs); len(got) != 0 || len(lib.Holdings()) != 0 {
		t.Errorf("%v are left, %d held", got, len(lib.Holdings()))
	}
}

// TestLeave: a process that stops in order leaves the seeds that are named, and
// nothing else; the next one serves the very same.
func TestLeave(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	lib := openLibrary(t, src.fs)
	var roots [][32]byte
	var releases []func() error
	for range 3 {
		src.fill(10, 1000)
		seed, release, err := lib.Acquire(t.Context(), Want{Min: src.pos}, src.st)
		if err != nil {
			t.Fatal(err)
		}
		roots, releases = append(roots, seed.Root()), append(releases, release)
	}
	lib.Leave(roots[0], roots[2])
	for _, release := range releases[1:] { // one is not released at all
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seedNames(t, src.fs); !slices.Equal(got, []string{"seed-000001", "seed-000003"}) {
		t.Fatalf("%v are left", got)
	}

	// A process that nobody asks for them passes them on, recalled or not.
	lib = openLibrary(t, src.fs)
	if err := lib.Recall(t.Context(), roots[0]); err != nil || len(lib.Holdings()) != 1 {
		t.Fatalf("%d held, %v", len(lib.Holdings()), err)
	}
	lib.Leave()
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	lib = openLibrary(t, src.fs)
	if err := lib.Recall(t.Context(), roots[2]); err != nil {
		t.Fatal(err)
	}
	seed, release, err := lib.Acquire(t.Context(), Want{Root: roots[2]}, checkpointer(func(string) error { return errors.New("captured again") }))
	if err != nil || seed.Root() != roots[2] {
		t.Fatalf("the seed that was left is not served: %v", err)
	}
	if err := join(datadir.At(src.fs, "node"), seed); err != nil {
		t.Error(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if got := seedNames(t, src.fs); !slices.Equal(got, []string{"seed-000001"}) {
		t.Errorf("%v are left after the last use", got)
	}

	// Without a lease nothing stays.
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seedNames(t, src.fs); len(got) != 0 {
		t.Errorf("%v are left", got)
	}
}
