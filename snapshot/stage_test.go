package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// A join that stops anywhere goes on with what is there, and says how much.
func TestResumeCountsWhatIsThere(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewMem()
		d := datadir.At(fs, "node")
		var done uint64
		rounds := rapid.IntRange(1, 4).Draw(rt, "rounds")
		for range rounds {
			st, err := OpenStage(ctx, d, seed.ManifestBytes())
			if err != nil {
				rt.Fatal(err)
			}
			if st.BytesReused() != done || st.BytesDone() != done || st.BytesTotal() != seed.m.TotalBytes() {
				rt.Fatalf("reused %d, done %d, were %d", st.BytesReused(), st.BytesDone(), done)
			}
			for _, r := range st.Missing() {
				for i := range r.Count {
					if !rapid.Bool().Draw(rt, "put") {
						continue
					}
					data := chunkOf(t, seed, r.File, r.First+i)
					if err := st.Put(r.File, r.First+i, data); err != nil {
						rt.Fatal(err)
					}
					done += uint64(len(data))
				}
			}
			if st.BytesDone() != done {
				rt.Fatalf("done %d, put %d", st.BytesDone(), done)
			}
		}
		if err := join(d, seed); err != nil {
			rt.Fatal(err)
		}
		if err := checkWhole(fs, "node", seed); err != nil {
			rt.Fatal(err)
		}
	})
}

// Missing agrees with a list kept by hand.
func TestMissingRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := rapid.IntRange(1, 200).Draw(t, "chunks")
		f := stagedFile{have: make([]uint64, (chunks+63)/64), missing: chunks}
		var want []Range
		// Runs, some of them words and more, as they come from a pull that broke.
		var have []bool
		for len(have) < chunks {
			here, run := rapid.Bool().Draw(t, "have"), rapid.OneOf(rapid.Just(1), rapid.Just(64), rapid.IntRange(1, 130)).Draw(t, "run")
			have = append(have, slices.Repeat([]bool{here}, run)...)
		}
		for i := range chunks {
			if have[i] {
				f.have[i/64] |= 1 << (i % 64)
				f.missing--
				continue
			}
			if n := len(want); n > 0 && want[n-1].First+want[n-1].Count == i {
				want[n-1].Count++
				continue
			}
			want = append(want, Range{File: 3, First: i, Count: 1})
		}
		if got := f.appendMissing(nil, 3, chunks); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestPutRefusesWhatIsNotInTheSeed(t *testing.T) {
	seed := newTestSeed(t)
	st, err := OpenStage(context.Background(), datadir.At(vfs.NewMem(), "node"), seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	good := chunkOf(t, seed, 0, 0)
	flipped := append([]byte(nil), good...)
	flipped[100] ^= 1
	for name, put := range map[string]struct {
		file, chunk int
		data        []byte
	}{
		"file -1":          {-1, 0, good},
		"file too high":    {len(seed.m.Files), 0, good},
		"chunk -1":         {0, -1, good},
		"chunk too high":   {0, len(seed.m.Files[0].Chunks), good},
		"marker has none":  {len(seed.m.Files) - 1, 0, good},
		"short":            {0, 0, good[:len(good)-1]},
		"long":             {0, 0, append(append([]byte(nil), good...), 0)},
		"empty":            {0, 0, nil},
		"one bit":          {0, 0, flipped},
		"of another chunk": {0, 1, good},
		"of another file":  {1, 0, good},
	} {
		if err := st.Put(put.file, put.chunk, put.data); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st.BytesDone() != 0 {
		t.Errorf("%d bytes done", st.BytesDone())
	}
	if err := st.Put(0, 0, good); err != nil { // the stage is still good
		t.Error(err)
	}
	if err := st.Put(0, 0, good); err != nil || st.BytesDone() != uint64(len(good)) {
		t.Errorf("again: %v, %d bytes done", err, st.BytesDone())
	}
}

// Chunks of another checkpoint of the same cluster do not get in.
func TestChunksOfAnotherSeedAreRefused(t *testing.T) {
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(30, 1000)
	one := src.capture("src/one")
	src.fill(30, 1000)
	two := src.capture("src/two")
	st, err := OpenStage(context.Background(), datadir.At(vfs.NewMem(), "node"), one.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	sums := map[uint64]bool{}
	for i := range one.m.Files {
		for _, sum := range one.m.Files[i].Chunks {
			sums[sum] = true
		}
	}
	refused := 0
	for file := range two.m.Files {
		for i, sum := range two.m.Files[file].Chunks {
			if sums[sum] {
				continue // the very same bytes
			}
			for target := range one.m.Files {
				if err := st.Put(target, i, chunkOf(t, two, file, i)); !fault.Is(err, fault.Corrupt) {
					t.Fatalf("file %d chunk %d: %v", file, i, err)
				}
				refused++
			}
		}
	}
	if refused < 20 || st.BytesDone() != 0 {
		t.Errorf("%d refused, %d bytes staged", refused, st.BytesDone())
	}
}

func TestConcurrentPuts(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	st, err := OpenStage(context.Background(), d, seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	type piece struct{ file, chunk int }
	var pieces []piece
	for i := range seed.m.Files {
		for j := range seed.m.Files[i].Chunks {
			pieces = append(pieces, piece{i, j}, piece{i, j}) // each one twice
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	rng.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	work := make(chan piece)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for p := range work {
				data, err := seed.ReadChunk(context.Background(), p.file, p.chunk, nil)
				if err == nil {
					err = st.Put(p.file, p.chunk, data)
				}
				if err != nil {
					t.Error(err)
				}
				st.Missing()
				st.BytesDone()
			}
		})
	}
	for _, p := range pieces {
		work <- p
	}
	close(work)
	wg.Wait()
	if st.BytesDone() != st.BytesTotal() {
		t.Errorf("%d of %d bytes", st.BytesDone(), st.BytesTotal())
	}
	if err := st.Install(context.Background(), anIdentity(), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}

// relative is what another member's seed may look like beside this one: the
// same files but the first, tables under other names, and one that is unique.
func relative(t *testing.T, seed *Seed, fs vfs.FS, dir string) (other *Seed, common uint64) {
	t.Helper()
	m := *seed.m
	m.Files = nil
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, f := range seed.m.Files[1:] {
		b, err := readFile(seed.fs, seed.fs.PathJoin(seed.dir, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == manifest.KindTable {
			f.Name = fmt.Sprintf("%06d.sst", 900000+i)
		}
		write(t, fs, fs.PathJoin(dir, f.Name), b)
		common += f.Size
		m.Files = append(m.Files, f)
	}
	unique := manifest.File{Kind: manifest.KindTable, Name: "000001.sst", Size: 9, Chunks: []uint64{chunk.Sum([]byte("only here"))}}
	unique.Digest = manifest.FileDigest(unique.Size, unique.Chunks)
	write(t, fs, fs.PathJoin(dir, unique.Name), []byte("only here"))
	m.Files = append([]manifest.File{unique}, m.Files...)
	other, err := newSeed(fs, dir, &m)
	if err != nil {
		t.Fatal(err)
	}
	return other, common
}

// A failover to a source that has the same tables under other names fetches
// only what differs.
func TestAnotherSeedReusesEqualFiles(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	other, common := relative(t, seed, vfs.NewMem(), "other")
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	staged(t, d, other)
	st, err := OpenStage(ctx, d, seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	if common == 0 || st.BytesReused() != common || st.BytesDone() != common {
		t.Errorf("reused %d, done %d, want %d", st.BytesReused(), st.BytesDone(), common)
	}
	if missing := st.Missing(); len(missing) != 1 || missing[0].File != 0 {
		t.Errorf("missing %v", missing)
	}
	if names, _ := list(fs, "node/staging"); len(names) != 2 {
		t.Errorf("staging holds %v", names)
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

// Of a seed that has nothing in common not one byte is kept.
func TestUnrelatedSeedStartsOver(t *testing.T) {
	seed := newTestSeed(t)
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.rng = rand.New(rand.NewPCG(77, 77))
	src.fill(50, 700)
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	unrelated := src.capture("src/a")
	staged(t, d, unrelated)
	st, err := OpenStage(context.Background(), d, seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	var options uint64 // the storage engine's settings are the same
	for i := range seed.m.Files {
		for j := range unrelated.m.Files {
			if seed.m.Files[i].Digest == unrelated.m.Files[j].Digest && seed.m.Files[i].Kind == manifest.KindOptions {
				options = seed.m.Files[i].Size
			}
		}
	}
	if st.BytesReused() != options {
		t.Errorf("reused %d bytes, want %d", st.BytesReused(), options)
	}
	if err := join(d, seed); err != nil {
		t.Fatal(err)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}

// A directory that is not ours to fill is refused and not touched.
func TestOccupiedDirectoriesAreRefused(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	for name, fill := range map[string]func(fs vfs.FS){
		"a member": func(fs vfs.FS) {
			if err := join(datadir.At(fs, "node"), seed); err != nil {
				t.Fatal(err)
			}
		},
		"a stray file": func(fs vfs.FS) { write(t, fs, "node/notes.txt", []byte("mine")) },
		"a log without identity": func(fs vfs.FS) {
			if err := fs.MkdirAll("node/raft", 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, fs, "node/raft/000001.log", []byte("precious"))
		},
		"half a stage and a stray file": func(fs vfs.FS) {
			staged(t, datadir.At(fs, "node"), seed)
			write(t, fs, "node/notes.txt", []byte("mine"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			if err := fs.MkdirAll("node", 0o755); err != nil {
				t.Fatal(err)
			}
			fill(fs)
			before := tree(t, fs, "node")
			if _, err := OpenStage(ctx, datadir.At(fs, "node"), seed.ManifestBytes()); !fault.Is(err, fault.NotEmpty) {
				t.Errorf("got %v", err)
			}
			if !reflect.DeepEqual(tree(t, fs, "node"), before) {
				t.Error("the directory was changed")
			}
		})
	}
}

func TestNoSpaceBeforeAnythingIsWritten(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	need := seed.m.TotalBytes() + stageReserve
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: need - 1, TotalBytes: 1 << 40})
	if _, err := OpenStage(ctx, d, seed.ManifestBytes()); !fault.Is(err, fault.NoSpace) || fault.HintOf(err) == "" {
		t.Fatalf("got %v", err)
	}
	if there, _ := exists(fs, "node"); there {
		t.Error("the directory was created")
	}
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: need, TotalBytes: 1 << 40})
	staged(t, d, seed)
	// What is staged is not needed again.
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: stageReserve, TotalBytes: 1 << 40})
	if _, err := OpenStage(ctx, d, seed.ManifestBytes()); err != nil {
		t.Error(err)
	}
}

func TestNewerFormatsAreRefused(t *testing.T) {
	seed := newTestSeed(t)
	for name, change := range map[string]func(m *manifest.Manifest){
		"schema": func(m *manifest.Manifest) { m.SchemaVersion++ },
		"storage format": func(m *manifest.Manifest) {
			m.FormatMajorVersion++
			for i := range m.Files {
				if f := &m.Files[i]; f.Kind == manifest.KindMarker && f.Name[:13] == "marker.format" {
					f.Name = fmt.Sprintf("marker.format-version.000001.%03d", m.FormatMajorVersion)
				}
			}
		},
	} {
		m := *seed.m
		m.Files = append([]manifest.File(nil), seed.m.Files...)
		change(&m)
		encoded, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		fs := vfs.NewMem()
		if _, err := OpenStage(context.Background(), datadir.At(fs, "node"), encoded); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", name, err)
		}
		if there, _ := exists(fs, "node"); there {
			t.Errorf("%s: the directory was created", name)
		}
	}
}

// One directory, two joins: one of them is told.
func TestTwoStagesInOneDirectory(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	var mu sync.Mutex
	winners, told := 0, 0
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			d := datadir.At(fs, "node")
			lock, err := d.Lock()
			mu.Lock()
			if err == nil {
				winners++
			} else if fault.Is(err, fault.InUse) {
				told++
			}
			if winners+told == 8 {
				close(gate)
			}
			mu.Unlock()
			if err != nil {
				return
			}
			<-gate // hold the lock until all have tried
			if err := errors.Join(join(d, seed), lock.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if winners != 1 || told != 7 {
		t.Errorf("%d winners, %d told", winners, told)
	}
	if err := checkWhole(fs, "node", seed); err != nil {
		t.Error(err)
	}
}

// After its first failed write a stage takes nothing more; opening it again
// resumes.
func TestStageIsBrokenByAFailedWrite(t *testing.T) {
	ctx := context.Background()
	seed := newTestSeed(t)
	mem := vfs.NewMem()
	cause := errors.New("the disk is gone")
	inj := &failing{k: 3, err: cause, kinds: func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWriteAt }}
	st, err := OpenStage(ctx, datadir.At(errorfs.Wrap(mem, inj), "node"), seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	n, err := putMissing(seed, st)
	if n != 2 || !errors.Is(err, cause) {
		t.Fatalf("%d chunks, %v", n, err)
	}
	r := st.Missing()[0]
	for what, err := range map[string]error{
		"Put":     st.Put(r.File, r.First, chunkOf(t, seed, r.File, r.First)),
		"Verify":  st.Verify(ctx),
		"Install": st.Install(ctx, anIdentity(), InstallOptions{}),
	} {
		if !errors.Is(err, cause) {
			t.Errorf("%s: %v", what, err)
		}
	}
	st, err = OpenStage(ctx, datadir.At(mem, "node"), seed.ManifestBytes())
	if err != nil || st.BytesReused() == 0 {
		t.Fatalf("reused %d, %v", st.BytesReused(), err)
	}
	if err := join(datadir.At(mem, "node"), seed); err != nil {
		t.Error(err)
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	d := datadir.At(fs, "node")
	if err := staged(t, d, seed).Discard(); err != nil {
		t.Fatal(err)
	}
	if names, err := list(fs, "node"); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}
