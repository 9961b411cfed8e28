package snapshot

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// write writes at an offset and, with the last chunk of a file, syncs it, so
// that most of the syncing is done while other files are still on their way. A
// file whose sync failed is removed: the kernel may have dropped its bytes and
// will not say so again.
//
// The bytes go to the disk at once, a piece of one chunk at a time: whoever else
// syncs to the same disk, such as the log of a member, waits for what is queued
// before it. Where they can, they go past the page cache, which costs a copy
// and in which they would not stay: what is checked is what the disk has.
func (s *Stage) write(file int, data []byte, offset int64, whole bool) error {
	f, err := s.fs.OpenReadWrite(s.path(file), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	direct := &directFile{File: f}
	n, err := s.writeDirect(direct, data, offset)
	cached := n < len(data)
	if err == nil && cached {
		var m int
		m, err = direct.cached(data[n:], offset+int64(n), f.WriteAt)
		n += m
	}
	if err == nil && n != len(data) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(data))
	}
	if err == nil {
		if err = s.writeBack(f, offset+int64(n), cached, whole); err != nil {
			return errors.Join(err, f.Close(), s.fs.Remove(s.path(file)))
		}
	}
	return errors.Join(err, f.Close())
}

// writeDirect writes what can go past the page cache, in pieces between which
// others get their turn at the disk, and waits for each. It gives how many bytes
// that were.
func (s *Stage) writeDirect(f *directFile, data []byte, offset int64) (done int, err error) {
	s.writers.Add(1)
	defer s.writers.Add(-1)
	for done < len(data) {
		piece := min(s.piece(), len(data)-done)
		n, err := s.writePiece(f, data[done:done+piece], offset+int64(done))
		if done += n; err != nil || n < piece {
			return done, err
		}
	}
	return done, nil
}

// Bytes that go to or from the disk at once.
const (
	atOnce     = 256 << 10
	atOnceMost = 1 << 20
)

// piece is how many bytes go to or from the disk at once: little while chunks come
// one by one, as from a source that gives way to others, and more once they wait for
// each other, for then the disk is what they wait for, and each piece costs time.
func (s *Stage) piece() int {
	if s.writers.Load() > 1 {
		return atOnceMost
	}
	return atOnce
}

func (s *Stage) writePiece(f *directFile, data []byte, offset int64) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return f.direct(data, offset, f.File.WriteAt)
}

// writeBack has the dirty bytes of f before end written, if there are any, and
// waits for them: SyncTo starts what is dirty, after what it started before is
// written. A whole file is synced.
func (s *Stage) writeBack(f vfs.File, end int64, dirty, whole bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if dirty {
		full, err := f.SyncTo(end)
		if err == nil && !full {
			_, err = f.SyncTo(end)
		}
		if err != nil {
			return err
		}
	}
	if whole {
		return f.Sync()
	}
	return nil
}
