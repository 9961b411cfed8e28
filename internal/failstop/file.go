package failstop

import (
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stopFile is a file opened for writing, or a directory opened for sync. Its
// File is nil when it was never made: then the latch has tripped.
type stopFile struct {
	vfs.File
	l    *Latch
	name string
}

func (f *stopFile) Write(p []byte) (int, error) {
	f.l.do(func() error { _, err := f.File.Write(p); return err })
	return len(p), nil
}

func (f *stopFile) WriteAt(p []byte, off int64) (int, error) {
	f.l.do(func() error { _, err := f.File.WriteAt(p, off); return err })
	return len(p), nil
}

func (f *stopFile) Sync() error     { f.l.do(func() error { return f.File.Sync() }); return nil }
func (f *stopFile) SyncData() error { f.l.do(func() error { return f.File.SyncData() }); return nil }

func (f *stopFile) SyncTo(length int64) (full bool, err error) {
	f.l.do(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, nil
}

// Preallocate is a hint; not every file system takes it.
func (f *stopFile) Preallocate(off, length int64) error {
	if f.l.Err() == nil {
		_ = f.File.Preallocate(off, length)
	}
	return nil
}

// Close always releases the descriptor.
func (f *stopFile) Close() error {
	if f.File == nil {
		return nil
	}
	err := f.File.Close()
	f.l.do(func() error { return err })
	return nil
}

func (f *stopFile) Read(p []byte) (int, error) {
	if f.File == nil {
		return 0, f.l.Err()
	}
	return f.File.Read(p)
}

func (f *stopFile) ReadAt(p []byte, off int64) (int, error) {
	if f.File == nil {
		return 0, f.l.Err()
	}
	return f.File.ReadAt(p, off)
}

func (f *stopFile) Prefetch(off, length int64) error {
	if f.File == nil {
		return nil
	}
	return f.File.Prefetch(off, length)
}

func (f *stopFile) Fd() uintptr {
	if f.File == nil {
		return vfs.InvalidFd
	}
	return f.File.Fd()
}

// Stat must not fail once writes are dropped: Pebble asks for the size of a
// recycled log while it holds its locks.
func (f *stopFile) Stat() (vfs.FileInfo, error) {
	if f.File != nil {
		if info, err := f.File.Stat(); err == nil || f.l.Err() == nil {
			return info, err
		}
	}
	return lostFile(f.name), nil
}

// lostFile describes a file that was never made.
type lostFile string

func (l lostFile) Name() string         { return string(l) }
func (lostFile) Size() int64            { return 0 }
func (lostFile) Mode() os.FileMode      { return 0o644 }
func (lostFile) ModTime() time.Time     { return time.Time{} }
func (lostFile) IsDir() bool            { return false }
func (lostFile) Sys() any               { return nil }
func (lostFile) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
