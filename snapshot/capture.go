package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/background"
	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Checkpointer is a state store that can be captured while it is in use.
type Checkpointer interface {
	// Checkpoint makes dir, which does not exist, a durable copy of the state
	// as of some moment during the call, without write-ahead logs.
	Checkpoint(dir string) error
}

// captureReserve is the free space in bytes below which no capture starts. The
// checkpoint is made of hard links; what it writes is the flushed memtable.
const captureReserve = 64 << 20

// readers is how many files are read at a time, for digests and verification.
// One reader keeps a disk busy; more make the log's writes wait behind theirs,
// since the kernel lets reads go first.
const readers = 1

// Capture checkpoints cp into dir, which must not exist, and describes it. An
// error leaves no dir behind.
func Capture(ctx context.Context, fs vfs.FS, cp Checkpointer, dir string) (*Seed, error) {
	c := capturer{fs: fs, chunkSize: chunk.Size}
	return c.capture(ctx, cp, dir)
}

// capturer makes seeds. Sums of unchanged files may come from sums.
type capturer struct {
	fs        vfs.FS
	chunkSize uint32
	sums      *sumCache // nil: none
}

func (c *capturer) capture(ctx context.Context, cp Checkpointer, dir string) (seed *Seed, err error) {
	const op = "capture"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, dir, err)
	}
	free, err := datadir.At(c.fs, dir).FreeSpace()
	if err != nil {
		return nil, err
	}
	if free < captureReserve {
		return nil, fault.Newf(fault.NoSpace, op, "%d bytes free, need %d", free, uint64(captureReserve)).At(dir)
	}
	if there, err := exists(c.fs, dir); err != nil {
		return nil, err
	} else if there {
		return nil, fault.Newf(fault.NotEmpty, op, "the directory exists").At(dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(c.fs, dir))
		}
	}()
	if err := cp.Checkpoint(dir); err != nil {
		return nil, failure(op, dir, err)
	}
	background.Do(func() { seed, err = c.describe(ctx, dir) }) // nobody waits for the files of a checkpoint
	return seed, err
}

// describe makes the seed of a checkpoint in dir.
func (c *capturer) describe(ctx context.Context, dir string) (*Seed, error) {
	info, err := inspect(c.fs, dir)
	if err != nil {
		return nil, err
	}
	m, err := describe(info, c.chunkSize)
	if err != nil {
		return nil, err
	}
	if m.Files, err = c.files(ctx, dir); err != nil {
		return nil, err
	}
	seed, err := newSeed(c.fs, dir, m)
	if err != nil {
		return nil, err
	}
	seed.sums = c.sums
	return seed, nil
}

// inspect opens the state in dir read-only and asks it what it is. A panic
// about its bytes is an error like any other.
func inspect(fs vfs.FS, dir string) (info store.Info, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.Newf(fault.Corrupt, "inspect state", "%v", r).At(dir)
		}
	}()
	info, err = store.Inspect(dir, store.Options{FS: fs})
	if err != nil {
		return info, failure("inspect state", dir, err)
	}
	return info, nil
}

// checkTable reads a table and compares it with its own checksums. A panic about
// its bytes is an error like any other.
func checkTable(ctx context.Context, fs vfs.FS, path string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.Newf(fault.Corrupt, "check table", "%v", r).At(path)
		}
	}()
	return store.CheckTable(ctx, fs, path)
}

// describe makes the manifest of a state, without files.
func describe(info store.Info, chunkSize uint32) (*manifest.Manifest, error) {
	if info.Cluster == nil {
		return nil, fault.Newf(fault.Refused, "capture", "the state does not know its cluster yet").
			WithHint("the cluster's first leader has not committed its first entries; try again")
	}
	genesis, err := ident.NonceFrom(info.Cluster.GetGenesisNonce())
	if err != nil {
		return nil, fault.New(fault.Corrupt, "capture", err)
	}
	return &manifest.Manifest{
		Version:  manifest.Version,
		Cluster:  ident.Cluster{ID: info.Cluster.GetClusterId(), Genesis: genesis},
		Position: info.Position,
		ConfState: manifest.ConfState{
			Voters:   slices.Clone(info.ConfState.GetVoters()),
			Learners: slices.Clone(info.ConfState.GetLearners()),
		},
		Revision:           info.Revision,
		StateDigest:        info.Digest,
		FormatMajorVersion: info.FormatMajorVersion,
		SchemaVersion:      info.SchemaVersion,
		ChunkSize:          chunkSize,
	}, nil
}

// files lists and sums every file of a checkpoint.
func (c *capturer) files(ctx context.Context, dir string) ([]manifest.File, error) {
	names, err := list(c.fs, dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	out := make([]manifest.File, len(names))
	var seen sumCacheEntries
	if c.sums != nil {
		seen = make(sumCacheEntries, len(names))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	bufs := newBuffers(c.chunkSize)
	for i, name := range names {
		kind, ok := manifest.KindOf(name)
		if !ok {
			group.Go(func() error {
				return fault.Newf(fault.Refused, "capture", "a checkpoint must not hold %q", name).At(dir)
			})
			break
		}
		out[i] = manifest.File{Kind: kind, Name: name}
		group.Go(func() error {
			return c.sumFile(ctx, dir, &out[i], bufs, seen)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if c.sums != nil {
		c.sums.replace(seen)
	}
	return out, nil
}

// sumFile completes the entry of one file.
func (c *capturer) sumFile(ctx context.Context, dir string, entry *manifest.File, bufs buffers, seen sumCacheEntries) error {
	path := c.fs.PathJoin(dir, entry.Name)
	f, err := openToRead(c.fs, path)
	if err != nil {
		return failure("capture", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return failure("capture", path, err)
	}
	entry.Size = uint64(info.Size())
	key, cacheable := sumKeyOf(entry, info)
	if cacheable && c.sums != nil {
		if c.sums.inDoubt(key) {
			if err := checkTable(ctx, c.fs, path); err != nil {
				return err
			}
			c.sums.trust(key)
		}
		entry.Chunks = c.sums.get(key)
	}
	if entry.Chunks == nil {
		if entry.Chunks, err = sumChunks(ctx, f, entry.Size, c.chunkSize, bufs); err != nil {
			return failure("capture", path, err)
		}
	}
	entry.Digest = manifest.FileDigest(entry.Size, entry.Chunks)
	if cacheable && c.sums != nil {
		c.sums.note(seen, key, entry.Chunks)
	}
	return nil
}

// sumChunks sums each chunk of a file of size bytes.
func sumChunks(ctx context.Context, f io.ReaderAt, size uint64, chunkSize uint32, bufs buffers) ([]uint64, error) {
	if size > manifest.MaxTotal {
		return nil, fmt.Errorf("%d bytes, at most %d", size, uint64(manifest.MaxTotal))
	}
	buf := bufs.get()
	defer bufs.put(buf)
	sums := make([]uint64, chunk.Count(size, chunkSize))
	for i := range sums {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		offset, length := chunk.Bounds(size, chunkSize, uint64(i))
		if err := readAt(f, buf[:length], offset); err != nil {
			return nil, err
		}
		sums[i] = chunk.Sum(buf[:length])
	}
	return sums, nil
}

// buffers hands out chunk-sized buffers, at most one for each reader.
type buffers struct {
	free chan []byte
	size uint32
}

func newBuffers(size uint32) buffers {
	return buffers{free: make(chan []byte, readers), size: size}
}

func (b buffers) get() []byte {
	select {
	case buf := <-b.free:
		return buf
	default:
		return make([]byte, b.size)
	}
}

func (b buffers) put(buf []byte) {
	select {
	case b.free <- buf:
	default:
	}
}
