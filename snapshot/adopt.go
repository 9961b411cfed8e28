package snapshot

import (
	"context"
	"io"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Adopt looks in dir, the state directory of another or former member, for what
// the seed has, as Match does, and copies that. dir is only read. It gives the
// number of bytes that need not be fetched.
func (s *Stage) Adopt(ctx context.Context, dir string) (uint64, error) {
	m, err := s.Match(ctx, &Base{fs: s.fs, path: dir, states: []string{dir}})
	if err != nil {
		return 0, err
	}
	return m.Adopt(ctx)
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
