package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// fill commits n entries of one version each, and a cluster row and a
// configuration with the first.
func fill(t tb, s *Store, n int) {
	t.Helper()
	b := s.NewBatch()
	rec, err := proto.Marshal(&entryv1.ClusterRecord{ClusterId: 77})
	must(t, err, b.Set(Cluster, []byte("cluster"), rec))
	b.SetConfState(&entryv1.ConfState{Voters: []uint64{2, 1}, Learners: []uint64{3}})
	for i := range n {
		key := fmt.Appendf(nil, "key-%05d", i%1000)
		old, err := b.Version(MVCC, key, 1<<62)
		must(t, err, b.SetVersion(key, Version{Revision: int64(i + 2), Live: true, Value: fmt.Appendf(nil, "value %d %s", i, strings.Repeat("x", i%300))}, old))
		b.SetRevision(int64(i + 2))
		must(t, b.Commit(ident.Position{Term: 4, Index: uint64(i + 1)}))
	}
	must(t, b.Close())
}

func TestCheckpointIsAWholeStore(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openMem(t, fs)
	fill(t, s, 3000)
	must(t, s.Checkpoint("seeds/3000"))
	want := s.Digest()
	if err := s.Checkpoint("seeds/3000"); !fault.Is(err, fault.NotEmpty) {
		t.Fatalf("checkpoint over a checkpoint: %v", err)
	}
	// Nothing of the checkpoint may depend on what was not synced.
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	must(t, s.Close())

	before, err := crashed.List("seeds/3000")
	must(t, err)
	for _, name := range before {
		if strings.HasSuffix(name, ".log") {
			t.Errorf("checkpoint has the log file %s", name)
		}
	}
	info, err := Inspect("seeds/3000", Options{FS: crashed})
	must(t, err)
	if info.Position != (ident.Position{Term: 4, Index: 3000}) || info.Digest != want || info.Revision != 3001 ||
		info.Cluster.GetClusterId() != 77 || !slices.Equal(info.ConfState.GetVoters(), []uint64{1, 2}) {
		t.Fatalf("%+v", info)
	}
	after, err := crashed.List("seeds/3000")
	must(t, err)
	slices.Sort(before)
	slices.Sort(after)
	if !slices.Equal(before, after) {
		t.Fatalf("inspecting changed the files: %v, then %v", before, after)
	}
	s2, err := Open("seeds/3000", Options{FS: crashed})
	must(t, err)
	if scanDigest(t, s2) != want {
		t.Fatal("digest of the records differs")
	}
	must(t, s2.Close())
}

func TestInspectNeedsAStore(t *testing.T) {
	if _, err := Inspect("nothing", Options{FS: vfs.NewMem()}); !fault.Is(err, fault.Corrupt) {
		t.Fatalf("got %v", err)
	}
}

// failAt fails the n-th write operation it is asked about, counted from 0.
type failAt struct {
	match func(errorfs.Op) bool
	n     atomic.Int64 // negative: off
	hit   atomic.Bool
}

func (f *failAt) String() string { return "fail one operation" }

func (f *failAt) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || f.n.Load() < 0 || !f.match(op) || f.n.Add(-1) >= 0 {
		return nil
	}
	f.hit.Store(true)
	return errorfs.ErrInjected
}

func (f *failAt) arm(n int64) { f.hit.Store(false); f.n.Store(n) }

// TestCheckpointFailsCleanly fails every write operation of a checkpoint in
// turn: no directory may be left, and the store goes on.
func TestCheckpointFailsCleanly(t *testing.T) {
	mem := vfs.NewMem()
	inj := &failAt{match: func(op errorfs.Op) bool { return strings.HasPrefix(op.Path, "seeds") }}
	inj.arm(-1)
	s := openMem(t, errorfs.Wrap(mem, inj))
	fill(t, s, 50)
	failures := 0
	for n := int64(0); ; n++ {
		dir := fmt.Sprintf("seeds/%d", n)
		inj.arm(n)
		err := s.Checkpoint(dir)
		hit := inj.hit.Load()
		inj.arm(-1)
		switch _, serr := mem.Stat(dir); {
		case err == nil:
			// A failed link is made good by a copy.
			info, ierr := Inspect(dir, Options{FS: mem})
			must(t, ierr)
			if info.Digest != s.Digest() {
				t.Fatalf("operation %d: another state", n)
			}
		case serr == nil:
			names, _ := mem.List(dir)
			t.Fatalf("operation %d: %v, left %v", n, err, names)
		default:
			failures++
		}
		if !hit {
			break
		}
	}
	if failures < 10 {
		t.Fatalf("only %d operations failed", failures)
	}
	must(t, s.Close())
}

func TestDurablePosition(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	at := func() uint64 {
		p, err := s.DurablePosition()
		must(t, err)
		return p.Index
	}
	fill(t, s, 10)
	if n := at(); n != 0 {
		t.Fatalf("%d is durable before a flush", n)
	}
	must(t, s.Flush())
	b := s.NewBatch()
	must(t, b.Commit(ident.Position{Term: 4, Index: 11}), b.Close())
	if n := at(); n != 10 {
		t.Fatalf("%d is durable, flushed at 10", n)
	}
	must(t, s.Close())
}

// openFailing opens a store on a disk that fails where match says, once on is
// set. told hears what OnCorruption is told.
func openFailing(t *testing.T, mem vfs.FS, errno error, match func(errorfs.Op) bool) (s *Store, on *atomic.Bool, told chan error) {
	t.Helper()
	on, told = new(atomic.Bool), make(chan error, 1)
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && match(op) {
			return errno
		}
		return nil
	})
	s, err := Open("state-1", Options{FS: errorfs.Wrap(mem, inj), OnCorruption: func(err error) { told <- err }})
	must(t, err)
	fill(t, s, 10)
	return s, on, told
}

func logWrite(op errorfs.Op) bool {
	return strings.HasSuffix(op.Path, ".log") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
}

// TestFailedWriteBreaksTheStore: a log that can not be written ends the store
// with an error that everyone gets; the process lives.
func TestFailedWriteBreaksTheStore(t *testing.T) {
	for name, errno := range map[string]error{"eio": syscall.EIO, "disk full": syscall.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			s, on, told := openFailing(t, vfs.NewMem(), errno, logWrite)
			b := s.NewBatch()
			on.Store(true)
			if err := s.db.LogData(nil, pebble.Sync); err != nil {
				t.Fatal("Pebble hands the failure on:", err)
			}
			first := <-told
			for what, err := range map[string]error{"commit": b.Commit(ident.Position{Term: 4, Index: 11}), "flush": s.Flush(),
				"checkpoint": s.Checkpoint("seed"), "view": s.View().err} {
				if err == nil || err.Error() != first.Error() {
					t.Errorf("%s: %v, want %v", what, err, first)
				}
			}
			if _, err := s.DurablePosition(); err == nil {
				t.Error("a broken store names a durable position")
			}
			if want := map[error]fault.Code{syscall.EIO: fault.Internal, syscall.ENOSPC: fault.NoSpace}[errno]; fault.CodeOf(first) != want {
				t.Errorf("class %s, want %s", fault.CodeOf(first), want)
			}
			must(t, b.Close(), s.Close()) // everybody has been told
		})
	}
}

// TestFailedRotationBreaksTheStore: what gets to Pebble before the failure is
// known neither panics nor succeeds, though it makes Pebble go on to its next
// log.
func TestFailedRotationBreaksTheStore(t *testing.T) {
	for what, call := range map[string]func(*Store) error{
		"flush": (*Store).Flush,
		"commit": func(s *Store) error {
			big := s.db.NewBatch()
			return errors.Join(big.Set([]byte("\x0bk\x00"), make([]byte, 32<<20), nil), s.apply(big))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, on, told := openFailing(t, vfs.NewMem(), syscall.EIO, logWrite)
			on.Store(true)
			if err := call(s); err == nil || err.Error() != (<-told).Error() {
				t.Errorf("at a failed log: %v", err)
			}
			must(t, s.Close())
		})
	}
}

// TestFailedTableBreaksTheStore: a table that can not be written is not tried
// again for ever, while commits wait for it; nothing of it is on disk.
func TestFailedTableBreaksTheStore(t *testing.T) {
	for what, kinds := range map[string][]errorfs.OpKind{"create": {errorfs.OpCreate}, "write": {errorfs.OpFileWrite},
		"sync": {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}} {
		t.Run(what, func(t *testing.T) {
			mem := vfs.NewMem()
			s, on, told := openFailing(t, mem, syscall.ENOSPC, func(op errorfs.Op) bool {
				return strings.HasSuffix(op.Path, ".sst") && slices.Contains(kinds, op.Kind)
			})
			must(t, s.Flush())
			digest := s.Digest()
			on.Store(true)
			b := s.NewBatch()
			must(t, b.Commit(ident.Position{Term: 4, Index: 11}), b.Close())
			if err := s.Flush(); !fault.Is(err, fault.NoSpace) || err.Error() != (<-told).Error() {
				t.Errorf("flush: %v", err)
			}
			must(t, s.Close())
			s, err := Open("state-1", Options{FS: mem})
			must(t, err)
			if p, err := s.DurablePosition(); err != nil || p.Index < 10 || s.Digest() != digest {
				t.Errorf("after the failure: durable %v, digest %x, was %x; %v", p, s.Digest(), digest, err)
			}
			must(t, s.Close())
		})
	}
}

// steadyFS keeps the operations that MemFS's CrashClone deadlocks with apart
// from it.
type steadyFS struct {
	*vfs.MemFS
	mu sync.RWMutex
}

func (s *steadyFS) crash(percent int, seed uint64) *vfs.MemFS {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 5))})
}

func (s *steadyFS) Link(from, to string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.MemFS.Link(from, to)
}

func (s *steadyFS) Lock(name string) (io.Closer, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.MemFS.Lock(name)
}

func (s *steadyFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.MemFS.ReuseForWrite(from, to, c)
}

// TestCrashWhileOpening cuts the power before every operation of making a
// store, and of opening it again, which moves Pebble's markers: it can always
// be opened, with what was durable.
func TestCrashWhileOpening(t *testing.T) {
	fs := &steadyFS{MemFS: vfs.NewCrashableMem()}
	var ops, durable atomic.Uint64
	check := func(op errorfs.Op) {
		n, seeds := ops.Add(1), uint64(4)
		if op.Path == "state-1" {
			seeds = 24 // names are synced: which of them are kept before it is chance
		}
		for seed := range seeds {
			crashed := fs.crash([]int{0, 50, 50, 100}[seed%4], n<<8|seed)
			s, err := Open("state-1", Options{FS: crashed})
			if err != nil {
				t.Errorf("before operation %d, %v of %s, %d: %v", n, op.Kind, op.Path, seed, err)
				continue
			}
			if p := s.Position(); p.Index < durable.Load() {
				t.Errorf("before operation %d: position %v, %d was durable", n, p, durable.Load())
			}
			must(t, s.Close())
		}
	}
	inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			check(op)
		}
		return nil
	})
	for i := range 3 {
		s := openMem(t, errorfs.Wrap(fs, inj))
		b := s.NewBatch()
		must(t, b.Commit(ident.Position{Term: 1, Index: uint64(i + 1)}), b.Close(), s.Close())
		durable.Store(uint64(i + 1))
	}
	if ops.Load() < 60 {
		t.Errorf("only %d operations", ops.Load())
	}
}

func flipBit(t tb, fs vfs.FS, path string, rng *rand.Rand) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	at := rng.Int64N(st.Size())
	var one [1]byte
	_, err = f.ReadAt(one[:], at)
	must(t, err)
	one[0] ^= 1 << rng.IntN(8)
	_, err = f.WriteAt(one[:], at)
	must(t, err, f.Close())
}

// readAll opens a store and reads every record. No error means that the
// records are those of the digest.
func readAll(dir string, fs vfs.FS, want [16]byte) (err error) {
	s, err := Open(dir, Options{FS: fs, ReadOnly: true})
	if err != nil {
		return err
	}
	v := s.View()
	got, err := v.ScanDigest(context.Background())
	if err == nil && got != want {
		err = fault.Newf(fault.Different, "read all", "digest")
	}
	_ = v.Close()
	_ = s.Close()
	return err
}

// TestBitFlipsInTablesAreTyped flips one bit of a table file at a time: either
// reading everything fails with a typed error, or every record is right.
func TestBitFlipsInTablesAreTyped(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	fill(t, s, 2000)
	want := s.Digest()
	must(t, s.Checkpoint("good"), s.Close())
	names, err := fs.List("good")
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	flips, found := 0, 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		for range 20 {
			flips++
			dir := fmt.Sprintf("bad-%d", flips)
			_, err := vfs.Clone(fs, fs, "good", dir)
			must(t, err)
			flipBit(t, fs, fs.PathJoin(dir, name), rng)
			switch err := readAll(dir, fs, want); {
			case fault.Is(err, fault.Corrupt):
				found++
			case err != nil:
				t.Fatalf("%s: got %v", name, err)
			}
			must(t, fs.RemoveAll(dir))
		}
	}
	// A flip in a filter is not met by a scan: then the records are right.
	if found*10 < flips*8 || found == 0 {
		t.Fatalf("%d of %d flips found", found, flips)
	}
}
