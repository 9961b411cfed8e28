package snapshot

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Adopt looks in dir, the state directory of another or former member, for
// files of this seed and copies those it finds, by digest, whatever their name.
// dir is only read. It gives the number of bytes that need not be fetched.
func (s *Stage) Adopt(ctx context.Context, dir string) (uint64, error) {
	names, err := list(s.fs, dir)
	if err != nil {
		return 0, err
	}
	bySize := map[uint64][]int{}
	for i := range s.m.Files {
		if s.files[i].lacks() {
			bySize[s.m.Files[i].Size] = append(bySize[s.m.Files[i].Size], i)
		}
	}
	var adopted uint64
	for _, name := range names {
		if _, ok := manifest.KindOf(name); !ok {
			continue
		}
		n, err := s.adoptFile(ctx, s.fs.PathJoin(dir, name), bySize)
		adopted += n
		if err != nil {
			return adopted, err
		}
	}
	return adopted, nil
}

// adoptFile copies a file that is one of the seed's. What can not be read, or
// goes away meanwhile, is fetched instead.
func (s *Stage) adoptFile(ctx context.Context, path string, bySize map[uint64][]int) (uint64, error) {
	const op = "adopt file"
	f, err := openToRead(s.fs, path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, failure(op, path, err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return 0, failure(op, path, err)
	}
	size := uint64(info.Size())
	if info.IsDir() || len(bySize[size]) == 0 {
		return 0, nil
	}
	sums, err := sumChunks(ctx, f, size, s.m.ChunkSize, s.bufs)
	if ctx.Err() != nil {
		return 0, failure(op, path, err)
	}
	if err != nil {
		return 0, nil
	}
	digest := manifest.FileDigest(size, sums)
	var adopted uint64
	for _, file := range bySize[size] {
		if s.m.Files[file].Digest != digest {
			continue
		}
		n, err := s.copyIn(f, file)
		if adopted += n; err != nil {
			return adopted, err
		}
	}
	return adopted, nil
}

// copyIn stages what is missing of a file from one that has the same bytes. What
// can not be read, or is another by now, is left out. It gives the bytes staged.
func (s *Stage) copyIn(f io.ReaderAt, file int) (adopted uint64, err error) {
	entry := &s.m.Files[file]
	buf := s.bufs.get()
	defer s.bufs.put(buf)
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reused += adopted
	}()
	for i := range entry.Chunks {
		offset, length := chunk.Bounds(entry.Size, s.m.ChunkSize, uint64(i))
		if readAt(f, buf[:length], offset) != nil {
			break
		}
		n, err := s.put(file, i, buf[:length])
		if fault.Is(err, fault.Corrupt) {
			break // it changed under us; the rest is fetched
		}
		if adopted += uint64(n); err != nil {
			return adopted, err
		}
	}
	return adopted, nil
}
