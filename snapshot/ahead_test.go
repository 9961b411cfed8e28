package snapshot

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/time/rate"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// tableReads is the machine's file system that counts reads of tables.
func tableReads() (fs vfs.FS, reads *atomic.Int64) {
	reads = new(atomic.Int64)
	return errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") {
			reads.Add(1)
		}
		return nil
	})), reads
}

// A capture reads the bytes of those tables alone that were not summed ahead,
// and comes to the same sums.
func TestSumAhead(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	src := newSource(t, vfs.Default, filepath.Join(dir, "state-1"))
	src.fill(50, 1000)
	fs, reads := tableReads()
	lib, err := OpenLibrary(fs, filepath.Join(dir, "seeds"))
	if err != nil {
		t.Fatal(err)
	}
	a := ahead{capture: &lib.capture, settled: aheadSettled, limit: rate.NewLimiter(rate.Inf, 0)}
	summed := func(name string) int64 {
		t.Helper()
		checkpoint := filepath.Join(dir, name)
		if err := src.st.Checkpoint(checkpoint); err != nil {
			t.Fatal(err)
		}
		plain := capturer{fs: vfs.Default, chunkSize: lib.capture.chunkSize}
		want, err := plain.files(ctx, checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		reads.Store(0)
		got, err := lib.capture.files(ctx, checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i].Digest != want[i].Digest {
				t.Errorf("%s of %s: other sums than without those made ahead", want[i].Name, name)
			}
		}
		n := reads.Load()
		lib.capture.sums.replace(nil) // as if it were the first capture
		return n
	}
	if err := src.st.Flush(); err != nil {
		t.Fatal(err)
	}
	a.pass(ctx, src.st.Dir(), time.Now())
	if n := summed("young"); n == 0 {
		t.Error("tables that have not settled were summed ahead")
	}
	later := time.Now().Add(aheadSettled)
	reads.Store(0)
	a.pass(ctx, src.st.Dir(), later)
	if n := reads.Load(); n == 0 {
		t.Error("nothing was read ahead")
	}
	if n := summed("settled"); n != 0 {
		t.Errorf("%d reads of tables that were summed ahead", n)
	}
	reads.Store(0)
	a.pass(ctx, src.st.Dir(), later)
	if n := reads.Load(); n != 0 {
		t.Errorf("%d reads of tables that were summed before", n)
	}
	src.fill(20, 1000)
	if n := summed("newer"); n == 0 {
		t.Error("the sums of a new table came from nowhere")
	}
	a.pass(ctx, filepath.Join(dir, "absent"), later) // an error is left to the capture
	if err := fs.MkdirAll(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	a.pass(ctx, filepath.Join(dir, "empty"), later)
	if n := len(lib.capture.sums.ahead); n != 0 {
		t.Errorf("%d tables that are gone are remembered", n)
	}
}

// readAll reads every chunk of a seed and gives how many are not what they
// should be.
func readAll(t *testing.T, seed *Seed) (damaged int) {
	t.Helper()
	for i := range seed.m.Files {
		for c := range seed.m.Files[i].Chunks {
			_, err := seed.ReadChunk(t.Context(), i, c, nil)
			if err != nil && !fault.Is(err, fault.Corrupt) {
				t.Fatal(err)
			}
			if err != nil {
				damaged++
			}
		}
	}
	return damaged
}

// A wrong sum, wherever it came from, is found when the chunk is read. The next
// capture makes it anew, if the table is whole; of a damaged table no seed is
// made, though its bytes could be summed.
func TestWrongSumIsMadeAnew(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	src := newSource(t, vfs.Default, filepath.Join(dir, "state-1"))
	src.fill(50, 1000)
	if err := src.st.Flush(); err != nil {
		t.Fatal(err)
	}
	lib, err := OpenLibrary(vfs.Default, filepath.Join(dir, "seeds"))
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(root [32]byte) *Seed {
		t.Helper()
		seed, release, err := lib.Acquire(ctx, Want{Root: root}, src.st)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = release() })
		return seed
	}
	a := ahead{capture: &lib.capture, limit: rate.NewLimiter(rate.Inf, 0)}
	a.pass(ctx, src.st.Dir(), time.Now())
	wrong := 0
	for _, sums := range lib.capture.sums.ahead {
		sums[0] ^= 1
		wrong++
	}
	seed := acquire([32]byte{})
	if found := readAll(t, seed); wrong == 0 || found != wrong {
		t.Fatalf("%d of %d wrong sums were found", found, wrong)
	}
	a.pass(ctx, src.st.Dir(), time.Now())
	if n := len(lib.capture.sums.ahead); n != 0 {
		t.Errorf("%d tables in doubt were summed ahead", n)
	}
	again := acquire(seed.Root()) // whoever had begun with the first one asks for it
	if again == seed || again.Root() == seed.Root() {
		t.Error("a seed that is not what was captured is served again")
	}
	if found := readAll(t, again); found != 0 {
		t.Errorf("%d chunks are not what was captured, though the tables are whole", found)
	}

	table := slices.IndexFunc(again.m.Files, func(f manifest.File) bool { return f.Kind == manifest.KindTable })
	flipOnDisk(t, filepath.Join(again.Dir(), again.m.Files[table].Name), 8000)
	if found := readAll(t, again); found != 1 {
		t.Fatalf("%d damaged chunks", found)
	}
	if _, _, err := lib.Acquire(ctx, Want{Root: again.Root()}, src.st); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a seed of a damaged table: %v", err)
	}
}

// Tables are looked for now and then, until the owner ends it.
func TestSumAheadLooksNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lib, err := OpenLibrary(vfs.NewMem(), "seeds")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var looked atomic.Int64
		ended := make(chan error, 1)
		go func() {
			ended <- lib.SumAhead(ctx, func() string {
				looked.Add(1)
				return "absent"
			})
		}()
		<-time.After(3*aheadEvery + time.Second)
		synctest.Wait()
		if looked.Load() != 3 {
			t.Errorf("looked %d times", looked.Load())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Reading ahead keeps to its rate and stops when told to.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		content := strings.NewReader(strings.Repeat("x", 8<<20))
		r := &slowReader{ctx: ctx, f: content, limit: rate.NewLimiter(1<<20, 1<<20)}
		buf := make([]byte, 1<<20)
		began := time.Now()
		for off := int64(0); off < 8<<20; off += 1 << 20 {
			if n, err := r.ReadAt(buf, off); n != len(buf) || err != nil {
				t.Fatal(n, err)
			}
		}
		if took := time.Since(began).Round(time.Millisecond); took != 7*time.Second {
			t.Errorf("8 MiB at 1 MiB/s took %s", took)
		}
		cancel()
		if n, err := r.ReadAt(buf, 0); n != 0 || err == nil {
			t.Errorf("read %d bytes after the end: %v", n, err)
		}
	})
}
