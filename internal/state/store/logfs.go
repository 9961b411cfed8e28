package store

import (
	"os"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logFS keeps failures of Pebble's log (the *.log files, and the directory's
// syncs for them) from Pebble, which can not take them: it panics, and while it
// rotates its log that unlocks a mutex twice, which no recover can stop. The
// first failure breaks the store, which tells everyone who uses it, and from
// then on writes to the log are dropped. What is durable is in tables, whose
// failures Pebble is told of.
type logFS struct {
	vfs.FS
	s *Store
}

// Unwrap serves vfs.Root.
func (f logFS) Unwrap() vfs.FS { return f.FS }

func (f logFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f logFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f logFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil || name != f.s.dir {
		return dir, err // a checkpoint's directory is given up when it can not be synced
	}
	return &logFile{File: dir, s: f.s, name: name}, nil
}

func (f logFS) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return open()
	}
	out := &logFile{s: f.s, name: name}
	if f.s.broken() != nil {
		return out, nil
	}
	file, err := open()
	if err != nil {
		f.s.fail(err)
		return out, nil
	}
	out.File = file
	return out, nil
}

// logFile is a log of Pebble's that is written, or the store's directory. Its
// File is nil when the store was broken before it was opened.
type logFile struct {
	vfs.File
	s    *Store
	name string
}

// do runs a changing operation unless the store is broken. It never fails.
func (f *logFile) do(op func() error) error {
	if f.File == nil || f.s.broken() != nil {
		return nil
	}
	if err := op(); err != nil {
		f.s.fail(err)
	}
	return nil
}

func (f *logFile) Write(p []byte) (int, error) {
	return len(p), f.do(func() error { _, err := f.File.Write(p); return err })
}

func (f *logFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.do(func() error { _, err := f.File.WriteAt(p, off); return err })
}

func (f *logFile) Sync() error     { return f.do(func() error { return f.File.Sync() }) }
func (f *logFile) SyncData() error { return f.do(func() error { return f.File.SyncData() }) }

func (f *logFile) SyncTo(length int64) (full bool, err error) {
	err = f.do(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// Preallocate is a hint; not every file system takes it.
func (f *logFile) Preallocate(off, length int64) error {
	if f.File != nil {
		_ = f.File.Preallocate(off, length)
	}
	return nil
}

// Close always releases the descriptor.
func (f *logFile) Close() error {
	if f.File == nil {
		return nil
	}
	err := f.File.Close()
	return f.do(func() error { return err })
}

func (f *logFile) Prefetch(off, length int64) error {
	if f.File == nil {
		return nil
	}
	return f.File.Prefetch(off, length)
}

func (f *logFile) Fd() uintptr {
	if f.File == nil {
		return vfs.InvalidFd
	}
	return f.File.Fd()
}

// Stat must not fail: Pebble asks for the size of a recycled log while it holds
// its locks.
func (f *logFile) Stat() (vfs.FileInfo, error) {
	if f.File != nil {
		if info, err := f.File.Stat(); err == nil || f.s.broken() == nil {
			return info, err
		}
	}
	return lostFile(f.name), nil
}

func (f *logFile) Read(p []byte) (int, error) {
	if f.File == nil {
		return 0, f.s.broken()
	}
	return f.File.Read(p)
}

func (f *logFile) ReadAt(p []byte, off int64) (int, error) {
	if f.File == nil {
		return 0, f.s.broken()
	}
	return f.File.ReadAt(p, off)
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
