package snapshot

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

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
	s.tempo.came(len(data), time.Now())
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
// one by one, as from a source that gives way to others, and more once they come
// fast or wait for each other, for then each piece costs time.
func (s *Stage) piece() int {
	if s.writers.Load() > 1 || s.tempo.fast.Load() {
		return atOnceMost
	}
	return atOnce
}

// tempo tells whether chunks come as fast as from a source that gives way to nobody.
type tempo struct {
	fast  atomic.Bool
	mu    sync.Mutex
	since time.Time
	bytes int // since then
}

// Chunks that come at tempoFast bytes a second come fast: a source that gives way
// gets there late, if at all. It is looked at for each tempoLook bytes; after a
// pause nothing is known.
const (
	tempoFast  = 400 << 20
	tempoLook  = 16 << 20
	tempoPause = 250 * time.Millisecond
)

// came says that n bytes have come.
func (t *tempo) came(n int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	span := now.Sub(t.since)
	if span > tempoPause {
		t.fast.Store(false)
		t.since, t.bytes = now, 0
		return
	}
	if t.bytes += n; t.bytes >= tempoLook {
		t.fast.Store(float64(t.bytes) >= tempoFast*span.Seconds())
		t.since, t.bytes = now, 0
	}
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
