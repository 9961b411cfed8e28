package snapshot

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Adopt stages the files, and the chunks of other tables, that the base has and
// gives how many bytes that were. What can not be read any more is fetched instead.
func (m *Match) Adopt(ctx context.Context) (adopted uint64, err error) {
	for _, same := range m.same {
		n, err := m.adopt(ctx, same.path, same.file, nil)
		if adopted += n; err != nil {
			return adopted, err
		}
	}
	for _, part := range m.parts {
		n, err := m.adopt(ctx, part.path, part.file, part.chunks)
		if adopted += n; err != nil {
			return adopted, err
		}
	}
	return adopted, nil
}

// adopt stages some chunks of a file, nil: all, from one of the base.
func (m *Match) adopt(ctx context.Context, path string, file int, chunks []int) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, failure("adopt file", path, err)
	}
	if !m.s.files[file].lacks() {
		return 0, nil
	}
	f, err := openToRead(m.base.fs, path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, failure("adopt file", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	if chunks == nil {
		for i := range m.s.m.Files[file].Chunks {
			chunks = append(chunks, i)
		}
	}
	return m.s.copyIn(f, file, chunks)
}

// copyIn stages chunks of a file from one that has the same bytes there. What can
// not be read, or is another by now, is left out, with what follows. It gives the
// bytes staged.
func (s *Stage) copyIn(f io.ReaderAt, file int, chunks []int) (adopted uint64, err error) {
	entry := &s.m.Files[file]
	buf := s.bufs.get()
	defer s.bufs.put(buf)
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reused += adopted
	}()
	for _, i := range chunks {
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
