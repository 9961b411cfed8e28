package snapshot

import (
	"errors"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// diskBlock is what offsets and lengths must be multiples of, in bytes, to go
// past the page cache. Disks and file systems that want more are few, and say
// so.
const diskBlock = 4 << 10

// directFile is a file of which whole blocks are read and written past the page
// cache, where the system, the file system and the address in memory allow it;
// the rest goes through the cache. It is used by one goroutine at a time.
type directFile struct {
	vfs.File
	on bool // past the cache at the moment
}

// direct does op, WriteAt or ReadAt of f.File, for the beginning of p that can
// go past the cache, and gives how many bytes that were: 0 where it can not be.
func (f *directFile) direct(p []byte, off int64, op func([]byte, int64) (int, error)) (int, error) {
	blocks := len(p) / diskBlock * diskBlock
	if blocks == 0 || off%diskBlock != 0 || !f.set(true) {
		return 0, nil
	}
	n, err := op(p[:blocks], off)
	if errors.Is(err, syscall.EINVAL) { // not with these blocks, or not at this address
		err = nil
	}
	return n, err
}

// cached does op through the cache.
func (f *directFile) cached(p []byte, off int64, op func([]byte, int64) (int, error)) (int, error) {
	if !f.set(false) {
		return 0, errors.New("the file can not be used through the page cache again")
	}
	return op(p, off)
}

func (f *directFile) set(on bool) bool {
	if f.on != on && setDirect(f.File, on) {
		f.on = on
	}
	return f.on == on
}

// ReadAt implements io.ReaderAt.
func (f *directFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.direct(p, off, f.File.ReadAt)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := f.cached(p[n:], off+int64(n), f.File.ReadAt)
	return n + m, err
}
