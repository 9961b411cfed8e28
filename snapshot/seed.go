package snapshot

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Seed is a captured snapshot, ready to be read in chunks. Its methods may be
// used from several goroutines.
type Seed struct {
	fs      vfs.FS
	dir     string
	m       *manifest.Manifest
	encoded []byte
	root    [32]byte
	shared  bool // files are links to those of a stopped member
	removed atomic.Bool
	sums    *sumCache   // that the capture used; nil: none
	doubted atomic.Bool // a chunk was not what was captured
}

func newSeed(fs vfs.FS, dir string, m *manifest.Manifest) (*Seed, error) {
	encoded, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	return &Seed{fs: fs, dir: dir, m: m, encoded: encoded, root: manifest.RootOf(encoded)}, nil
}

// Manifest describes the seed. It must not be changed.
func (s *Seed) Manifest() *manifest.Manifest { return s.m }

// ManifestBytes is the manifest's encoding. It must not be changed.
func (s *Seed) ManifestBytes() []byte { return s.encoded }

// Root is the seed's ID.
func (s *Seed) Root() [32]byte { return s.root }

// Position is that of the last entry applied to the seed's state.
func (s *Seed) Position() ident.Position { return s.m.Position }

// Dir is the directory the files are in.
func (s *Seed) Dir() string { return s.dir }

// ReadChunk reads one chunk, both counted from 0, and checks its sum, so that
// bit rot is found where it happened. The result uses buf's memory if that is
// large enough. A chunk that the manifest does not have is fault.Usage, bytes
// that are not what was captured fault.Corrupt, and a seed that was removed
// meanwhile fault.LeaseLost.
func (s *Seed) ReadChunk(ctx context.Context, file, index int, buf []byte) ([]byte, error) {
	const op = "read chunk"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, s.dir, err)
	}
	if file < 0 || file >= len(s.m.Files) || index < 0 || index >= len(s.m.Files[file].Chunks) {
		return nil, fault.Newf(fault.Usage, op, "the seed has no chunk %d of file %d", index, file)
	}
	entry := &s.m.Files[file]
	path := s.fs.PathJoin(s.dir, entry.Name)
	offset, length := chunk.Bounds(entry.Size, s.m.ChunkSize, uint64(index))
	if cap(buf) < length {
		buf = make([]byte, length)
	}
	buf = buf[:length]
	f, err := s.open(op, path)
	if err != nil {
		return nil, err
	}
	err = errors.Join(readAt(f, buf, offset), f.Close())
	if errors.Is(err, io.ErrUnexpectedEOF) || (err == nil && chunk.Sum(buf) != entry.Chunks[index]) {
		s.doubt(entry, path)
		return nil, fault.Newf(fault.Corrupt, op, "chunk %d is not what was captured", index).At(path).
			WithHint("the disk of the source returned other bytes; seed from another member and verify this one")
	}
	if err != nil {
		return nil, failure(op, path, err)
	}
	return buf, nil
}

// OpenChunk gives the file that holds a chunk and the chunk's offset in it, for
// whoever sends it without reading it and so without a check; the caller closes
// the file. It is nil where files have no descriptor. Errors are ReadChunk's.
func (s *Seed) OpenChunk(file, index int) (f interface {
	Fd() uintptr
	Close() error
}, offset int64, err error) {
	const op = "open chunk"
	if file < 0 || file >= len(s.m.Files) || index < 0 || index >= len(s.m.Files[file].Chunks) {
		return nil, 0, fault.Newf(fault.Usage, op, "the seed has no chunk %d of file %d", index, file)
	}
	entry := &s.m.Files[file]
	path := s.fs.PathJoin(s.dir, entry.Name)
	start, length := chunk.Bounds(entry.Size, s.m.ChunkSize, uint64(index))
	opened, err := s.open(op, path)
	if err != nil {
		return nil, 0, err
	}
	if opened.Fd() == vfs.InvalidFd {
		return nil, 0, opened.Close()
	}
	// The system would read it from the disk in small pieces. This is advice, and
	// Pebble gives an error of number 0 when all is well.
	_ = opened.Prefetch(int64(start), int64(length))
	return opened, int64(start), nil
}

func (s *Seed) open(op, path string) (vfs.File, error) {
	f, err := openToRead(s.fs, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.LeaseLost, op, err).At(path).WithHint("the seed is no longer kept here; start again")
	}
	if err != nil {
		return nil, failure(op, path, err)
	}
	return f, nil
}

// doubt sees to it that the next capture does not rely on the sums of a file that
// differs from them.
func (s *Seed) doubt(entry *manifest.File, path string) {
	s.doubted.Store(true)
	if s.sums == nil {
		return
	}
	if info, err := s.fs.Stat(path); err == nil {
		if key, ok := sumKeyOf(entry, info); ok {
			s.sums.doubt(key)
		}
	}
}

// Remove deletes the seed's files. Chunks read afterwards give
// fault.LeaseLost. Removing twice is fine.
func (s *Seed) Remove() error {
	if s.removed.Swap(true) {
		return nil
	}
	return removeAll(s.fs, s.dir)
}
