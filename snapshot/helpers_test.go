package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
)

const smallChunk = 4 << 10

// aCluster is the cluster that test states belong to.
func aCluster() ident.Cluster { return ident.Cluster{ID: 0xc1, Genesis: ident.Nonce{9, 8, 7}} }

// source is a state store that entries are written to.
type source struct {
	t   testing.TB
	fs  vfs.FS
	st  *store.Store
	rng *rand.Rand
	pos ident.Position
	dir string
}

// newSource makes a state at position 3/1 that knows its cluster.
func newSource(t testing.TB, fs vfs.FS, dir string) *source {
	t.Helper()
	if err := fs.MkdirAll(fs.PathDir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(dir, store.Options{FS: fs, MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	s := &source{t: t, fs: fs, st: st, rng: rand.New(rand.NewPCG(1, 2)), pos: ident.Position{Term: 3}, dir: dir}
	t.Cleanup(s.close)
	s.apply(func(b *store.Batch) error {
		rec, err := proto.Marshal(&entryv1.ClusterRecord{
			ClusterId: aCluster().ID, GenesisNonce: aCluster().Genesis.Bytes(), ClusterVersion: 1,
		})
		if err != nil {
			return err
		}
		b.SetConfState(&entryv1.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{7}})
		return b.Set(store.Cluster, []byte("cluster"), rec)
	})
	return s
}

func (s *source) close() {
	if s.st == nil {
		return
	}
	if err := s.st.Close(); err != nil {
		s.t.Error(err)
	}
	s.st = nil
}

// apply writes one entry.
func (s *source) apply(fn func(b *store.Batch) error) {
	s.t.Helper()
	s.pos.Index++
	b := s.st.NewBatch()
	err := fn(b)
	if err == nil {
		err = b.Commit(s.pos)
	}
	if cerr := b.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// fill writes n entries of one key with size bytes of noise each.
func (s *source) fill(n, size int) {
	s.t.Helper()
	for range n {
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(s.rng.Uint32())
		}
		rev := int64(s.pos.Index) + 2
		s.apply(func(b *store.Batch) error {
			b.SetRevision(rev)
			return b.SetVersion(fmt.Appendf(nil, "key-%06d", rev), store.Version{Revision: rev, Live: true, Value: value}, store.Version{})
		})
	}
}

// fork makes another state that is the same so far.
func (s *source) fork(dir string) *source {
	s.t.Helper()
	if err := s.fs.MkdirAll(s.fs.PathDir(dir), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := s.st.Checkpoint(dir); err != nil {
		s.t.Fatal(err)
	}
	st, err := store.Open(dir, store.Options{FS: s.fs, MemTableBytes: 256 << 10})
	if err != nil {
		s.t.Fatal(err)
	}
	other := &source{t: s.t, fs: s.fs, st: st, rng: rand.New(rand.NewPCG(3, 4)), pos: s.pos, dir: dir}
	s.t.Cleanup(other.close)
	return other
}

// change writes every so manieth key anew, and deletes some; what was is pruned.
func (s *source) change(every int) {
	s.t.Helper()
	next := int64(s.pos.Index) + 2
	for rev, last := int64(3), next; rev < last; rev += int64(every) {
		key := fmt.Appendf(nil, "key-%06d", rev)
		var old store.Version
		next++
		s.apply(func(b *store.Batch) (err error) {
			if old, err = b.Version(store.MVCC, key, next); err != nil || old.Revision == 0 {
				return err
			}
			old.Value = bytes.Clone(old.Value)
			b.SetRevision(next)
			v := store.Version{Revision: next, Live: rev%5 != 0}
			if v.Live {
				v.Value = append(old.Value[:len(old.Value):len(old.Value)], "changed"...)
			}
			return b.SetVersion(key, v, old)
		})
		p := s.st.NewPrune()
		if err := errors.Join(p.DropVersion(key, old.Revision), p.Commit(), p.Close()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// capture makes a seed of many small chunks.
func (s *source) capture(dir string) *Seed {
	s.t.Helper()
	c := capturer{fs: s.fs, chunkSize: smallChunk}
	seed, err := c.capture(context.Background(), s.st, dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return seed
}

// newSeed is a seed of several tables in a file system of its own.
func newTestSeed(t testing.TB) *Seed {
	t.Helper()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	for range 3 {
		src.fill(20, 1000)
		if err := src.st.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return src.capture("src/seeds/a")
}

// chunkOf reads a chunk of a seed.
func chunkOf(t testing.TB, seed *Seed, file, index int) []byte {
	t.Helper()
	b, err := seed.ReadChunk(context.Background(), file, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// putMissing stages everything that is missing and gives the number of chunks.
func putMissing(seed *Seed, st *Stage) (int, error) {
	n := 0
	defer st.checks.wait(context.Background()) // tests look at the disk then
	for _, r := range st.Missing() {
		for i := range r.Count {
			data, err := seed.ReadChunk(context.Background(), r.File, r.First+i, nil)
			if err != nil {
				return n, err
			}
			if err := st.Put(r.File, r.First+i, data); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// staged opens a stage in d and fills it.
func staged(t testing.TB, d *datadir.Dir, seed *Seed) *Stage {
	t.Helper()
	st, err := OpenStage(context.Background(), d, seed.ManifestBytes())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := putMissing(seed, st); err != nil {
		t.Fatal(err)
	}
	return st
}

func anIdentity() datadir.Identity {
	return datadir.Identity{Cluster: aCluster(), MemberID: 0x51, Directory: ident.Nonce{5}, Name: "new"}
}

// join does the whole of it: open, fill, install.
func join(d *datadir.Dir, seed *Seed) error {
	ctx := context.Background()
	st, err := OpenStage(ctx, d, seed.ManifestBytes())
	if err != nil {
		return err
	}
	if _, err := putMissing(seed, st); err != nil {
		return err
	}
	return st.Install(ctx, anIdentity(), InstallOptions{})
}

// checkWhole says what is wrong with a directory that should hold the node
// that Install makes of seed, nil when it starts and is that node.
func checkWhole(fs vfs.FS, dir string, seed *Seed) error {
	d := datadir.At(fs, dir)
	id, err := d.ReadIdentity()
	if err != nil {
		return err
	}
	want, pos := anIdentity(), seed.Position()
	if id.MemberID != want.MemberID || id.Cluster != want.Cluster || id.Seed == nil ||
		id.Seed.Position != pos || id.Seed.ManifestRoot != seed.Root() {
		return fmt.Errorf("identity %+v", id)
	}
	if b, err := readBounded(fs, d.Manifest(), 1<<30); err != nil || !bytes.Equal(b, seed.ManifestBytes()) {
		return fmt.Errorf("seed-manifest of %d bytes: %v", len(b), err)
	}
	info, findings, err := raftlog.Inspect(d.Raft(), raftlog.Options{FS: fs})
	if err != nil || len(findings) > 0 {
		return fmt.Errorf("raft log: %v %v", findings, err)
	}
	hs := info.HardState
	if info.State != 1 || info.TruncatedTo != pos || info.Last != pos || hs.GetVote() != 0 ||
		hs.GetTerm() != pos.Term || hs.GetCommit() != pos.Index {
		return fmt.Errorf("raft log %+v", info)
	}
	state, err := store.Inspect(d.State(1), store.Options{FS: fs})
	if err != nil {
		return err
	}
	if state.Position != pos || state.Digest != seed.Manifest().StateDigest {
		return fmt.Errorf("state %+v", state)
	}
	for i := range seed.m.Files {
		f := &seed.m.Files[i]
		b, err := readFile(fs, fs.PathJoin(d.State(1), f.Name))
		if err != nil || uint64(len(b)) != f.Size {
			return fmt.Errorf("%s: %d bytes, %v", f.Name, len(b), err)
		}
	}
	return nil
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// tree gives the content of every file below dir, directories included.
func tree(t testing.TB, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := list(fs, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			out[path+"/"] = ""
			for p, content := range tree(t, fs, path) {
				out[p] = content
			}
			continue
		}
		b, err := readFile(fs, path)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = string(b)
	}
	return out
}

// flip changes one bit of a file in memory.
func flip(t testing.TB, fs *vfs.MemFS, path string, bit uint64) {
	t.Helper()
	b, err := fs.UnsafeGetFileDataBuffer(path)
	if err != nil {
		t.Fatal(err)
	}
	bit %= uint64(len(b)) * 8
	b[bit/8] ^= 1 << (bit % 8)
}

// write replaces a file.
func write(t testing.TB, fs vfs.FS, path string, data []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(data)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// cloneableFS is a crashable file system that can be cloned while it is in use:
// Link, Lock and ReuseForWrite of MemFS take its clone lock twice, which
// deadlocks against a clone that waits between.
type cloneableFS struct {
	*vfs.MemFS
	mu *sync.RWMutex
}

func newCloneable() cloneableFS {
	return cloneableFS{MemFS: vfs.NewCrashableMem(), mu: &sync.RWMutex{}}
}

func (f cloneableFS) Link(oldname, newname string) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.MemFS.Link(oldname, newname)
}

func (f cloneableFS) Lock(name string) (io.Closer, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.MemFS.Lock(name)
}

func (f cloneableFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.MemFS.ReuseForWrite(oldname, newname, c)
}

func (f cloneableFS) clone(percent int, seed uint64) *vfs.MemFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 0))})
}

// makeBase closes a source and makes its state that of a stopped member.
func makeBase(t testing.TB, src *source, dir string) {
	t.Helper()
	src.close()
	d := datadir.At(src.fs, dir)
	id := anIdentity()
	id.MemberID, id.Name = 9, "old"
	err := errors.Join(src.fs.MkdirAll(dir, 0o755), src.fs.Rename(src.dir, d.State(1)),
		raftlog.Seed(d.Raft(), raftlog.Options{FS: src.fs}, raftlog.SeedState{Position: src.pos, State: 1}), d.CommitIdentity(id))
	if err != nil {
		t.Fatal(err)
	}
}

// diverged makes two states that have most in common: the base below base/, and
// the source's seed.
func diverged(t testing.TB, fs vfs.FS) *Seed {
	t.Helper()
	src := newSource(t, fs, "source/state-1")
	src.fill(400, 300)
	base := src.fork("origin/state-1")
	makeBase(t, base, "base")
	src.change(17)
	src.apply(func(b *store.Batch) error { return b.Set(store.AuthUsers, []byte("root"), []byte("someone")) })
	return src.capture("source/seeds/a")
}
