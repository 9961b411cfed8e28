//go:build unix

package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// benchSeedBytes is the size of the values in the seed of BenchmarkPull.
const benchSeedBytes = 256 << 20

// BenchmarkPull moves a seed of tables on this machine's disk, in parts and as a
// whole, nothing compressed: "wire" from the source's files to a target that
// keeps nothing, "stage" from memory into a stage that is verified, "pull" from
// files into such a stage. Beside bytes per second of wall time, which others on
// the machine disturb, it gives processor seconds per GiB, of both sides.
func BenchmarkPull(b *testing.B) {
	seed := newBenchSeed(b)
	b.Run("wire", func(b *testing.B) {
		src := startSource(b, nil, nil)
		src.provider.seeds = []Seed{seed}
		benchmark(b, seed, func(int) error {
			return pullFrom(b.Context(), src.addr, newDiscard)
		})
	})
	b.Run("stage", func(b *testing.B) {
		chunks, err := loadChunks(b.Context(), seed)
		if err != nil {
			b.Fatal(err)
		}
		root := b.TempDir()
		benchmark(b, seed, func(i int) error {
			return stageFromMemory(b.Context(), filepath.Join(root, fmt.Sprint(i)), seed, chunks)
		})
	})
	b.Run("pull", func(b *testing.B) {
		src := startSource(b, nil, nil)
		src.provider.seeds = []Seed{seed}
		root := b.TempDir()
		benchmark(b, seed, func(i int) error { return pullAndVerify(b.Context(), src.addr, filepath.Join(root, fmt.Sprint(i))) })
	})
}

// benchmark runs move and reports what it cost.
func benchmark(b *testing.B, seed *snapshot.Seed, move func(i int) error) {
	size := seed.Manifest().TotalBytes()
	b.SetBytes(int64(size))
	before := processorTime(b)
	i := 0
	for ; b.Loop(); i++ {
		if err := move(i); err != nil {
			b.Fatal(err)
		}
	}
	used := processorTime(b) - before
	b.ReportMetric(used.Seconds()/(float64(size)*float64(i)/(1<<30)), "cpu-s/GiB")
}

// processorTime is what this process has used so far, user and system.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newBenchSeed captures a state of benchSeedBytes of noise.
func newBenchSeed(b *testing.B) *snapshot.Seed {
	b.Helper()
	dir := b.TempDir()
	st, err := store.Open(filepath.Join(dir, "state-1"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = st.Close() })
	err = errors.Join(introduceCluster(st), fillNoise(st, benchSeedBytes))
	if err != nil {
		b.Fatal(err)
	}
	seed, err := snapshot.Capture(b.Context(), vfs.Default, st, filepath.Join(dir, "seed"))
	if err != nil {
		b.Fatal(err)
	}
	return seed
}

func introduceCluster(st *store.Store) error {
	c := testCluster()
	rec, err := proto.Marshal(&entryv1.ClusterRecord{ClusterId: c.ID, GenesisNonce: c.Genesis.Bytes(), ClusterVersion: 1})
	if err != nil {
		return err
	}
	b := st.NewBatch()
	b.SetConfState(&entryv1.ConfState{Voters: []uint64{1}})
	return errors.Join(b.Set(store.Cluster, []byte("cluster"), rec), b.Commit(ident.Position{Term: 1, Index: 1}), b.Close())
}

func fillNoise(st *store.Store, size int) error {
	const perValue, perEntry = 4 << 10, 64
	noise := rand.NewChaCha8([32]byte{1})
	value := make([]byte, perValue)
	for entry := range size / (perValue * perEntry) {
		b, rev := st.NewBatch(), int64(entry)+2
		b.SetRevision(rev)
		var err error
		for i := range perEntry {
			_, _ = noise.Read(value) // never fails
			key := fmt.Appendf(nil, "key/%08x", (entry*perEntry+i)*2654435761%(1<<32))
			err = errors.Join(err, b.SetVersion(key, store.Version{Revision: rev, Live: true, Value: value}, store.Version{}))
		}
		if err = errors.Join(err, b.Commit(ident.Position{Term: 1, Index: uint64(rev)}), b.Close()); err != nil {
			return err
		}
	}
	return nil
}

func pullFrom(ctx context.Context, addr string, open func(encoded []byte) (Stage, error)) error {
	_, err := Pull(ctx, PullConfig{Endpoints: []string{addr}, Dial: dialTCP, OpenStage: open, Compression: "none", Logger: quiet()})
	return err
}

// pullAndVerify pulls into a directory, checks what is there and removes it.
func pullAndVerify(ctx context.Context, addr, dir string) error {
	var st *snapshot.Stage
	err := pullFrom(ctx, addr, func(encoded []byte) (s Stage, err error) {
		st, err = snapshot.OpenStage(ctx, datadir.At(vfs.Default, dir), encoded)
		return fileStage{st}, err
	})
	if err != nil {
		return err
	}
	return errors.Join(st.Verify(ctx), st.Discard())
}

// fileStage is a snapshot.Stage in this package's terms.
type fileStage struct{ *snapshot.Stage }

func (s fileStage) Missing() []Range {
	var out []Range
	for _, r := range s.Stage.Missing() {
		out = append(out, Range(r))
	}
	return out
}

// discard is a stage that checks chunks and keeps none.
type discard struct{ *memStage }

func newDiscard(encoded []byte) (Stage, error) {
	l, err := newLayout(encoded)
	if err != nil {
		return nil, err
	}
	disk := newMemDisk()
	for i := range l.Files {
		disk.files[l.Files[i].Digest] = &memFile{have: make([]bool, len(l.Files[i].Chunks))}
	}
	return &discard{&memStage{disk: disk, l: l}}, nil
}

func (s *discard) Put(file, index int, data []byte) error {
	f := &s.l.Files[file]
	if chunk.Sum(data) != f.Chunks[index] {
		return fault.Newf(fault.Corrupt, "put", "bad sum of chunk %d of file %d", index, file)
	}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	s.disk.files[f.Digest].have[index] = true
	return nil
}

// loadChunks reads a whole seed into memory.
func loadChunks(ctx context.Context, seed *snapshot.Seed) ([][][]byte, error) {
	files := seed.Manifest().Files
	out := make([][][]byte, len(files))
	for i := range files {
		for c := range files[i].Chunks {
			data, err := seed.ReadChunk(ctx, i, c, nil)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], data)
		}
	}
	return out, nil
}

func stageFromMemory(ctx context.Context, dir string, seed *snapshot.Seed, chunks [][][]byte) error {
	st, err := snapshot.OpenStage(ctx, datadir.At(vfs.Default, dir), seed.ManifestBytes())
	if err != nil {
		return err
	}
	queue := newWorkQueue(nil, 1)
	queue.begin(fileStage{st}.Missing, 2, time.Now())
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for share, _ := queue.take(mostShare); share != nil && errs[i] == nil; share, _ = queue.take(mostShare) {
				errs[i] = putShare(st, share, chunks)
			}
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), st.Verify(ctx), st.Discard())
}

func putShare(st *snapshot.Stage, share []Range, chunks [][][]byte) error {
	for _, r := range share {
		for c := r.First; c < r.First+r.Count; c++ {
			if err := st.Put(r.File, c, chunks[r.File][c]); err != nil {
				return err
			}
		}
	}
	return nil
}

// BenchmarkNeighbour syncs 512 bytes every 5 ms, as the log of a member does,
// while nothing else happens and while a stage is filled and verified beside it
// on the same disk.
func BenchmarkNeighbour(b *testing.B) {
	b.Run("alone", func(b *testing.B) {
		l := startLog(b)
		for b.Loop() {
			for range 100 {
				<-l.synced
			}
		}
		l.report(b)
	})
	seed := newBenchSeed(b)
	chunks, err := loadChunks(b.Context(), seed)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("stage", func(b *testing.B) {
		root, i := b.TempDir(), 0
		l := startLog(b)
		for ; b.Loop(); i++ {
			if err := stageFromMemory(b.Context(), filepath.Join(root, fmt.Sprint(i)), seed, chunks); err != nil {
				b.Fatal(err)
			}
		}
		l.report(b)
	})
}

// syncedLog appends to a file and syncs it.
type syncedLog struct {
	synced chan struct{} // given to whoever waits for it
	stop   func()
	took   []time.Duration
	err    error
}

func startLog(b *testing.B) *syncedLog {
	f, err := vfs.Default.Create(filepath.Join(b.TempDir(), "log"), vfs.WriteCategoryUnspecified)
	if err != nil {
		b.Fatal(err)
	}
	l, end := &syncedLog{synced: make(chan struct{})}, make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(l.synced)
		l.err = l.run(f, end)
	})
	l.stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	b.Cleanup(l.stop)
	return l
}

func (l *syncedLog) run(f vfs.File, end chan struct{}) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return f.Close()
		case <-tick.C:
		}
		began := time.Now()
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.SyncData(); err != nil {
			return errors.Join(err, f.Close())
		}
		l.took = append(l.took, time.Since(began))
		select {
		case l.synced <- struct{}{}:
		default:
		}
	}
}

func (l *syncedLog) report(b *testing.B) {
	l.stop()
	if l.err != nil || len(l.took) == 0 {
		b.Fatalf("%d syncs: %v", len(l.took), l.err)
	}
	slices.Sort(l.took)
	b.ReportMetric(l.took[len(l.took)/2].Seconds()*1000, "sync-p50-ms")
	b.ReportMetric(l.took[len(l.took)*99/100].Seconds()*1000, "sync-p99-ms")
}
