package raftlog

import (
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// ErrBroken is in the chain of every error of a log that failed once.
var ErrBroken = errors.New("the Raft log is broken")

// guard remembers the first failure. There is no way back.
type guard struct {
	broken atomic.Bool
	mu     sync.Mutex
	first  error
}

// fail breaks the log and gives the first failure, which may not be err.
func (g *guard) fail(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first == nil {
		g.first = brokenBy(err)
		g.broken.Store(true)
	}
	return g.first
}

// err gives the failure that broke the log, or nil.
func (g *guard) err() error {
	if !g.broken.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first
}

func brokenBy(err error) error {
	code := fault.CodeOf(err)
	hint := fault.HintOf(err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code, hint = fault.NoSpace, "make room on the disk of the data directory, then start the node again"
	case hint == "":
		hint = "the node must stop; check the disk, then start it again"
	}
	return fault.Newf(code, "raft log", "%w: %w", ErrBroken, err).WithHint("%s", hint)
}

// guardFS is the file system Pebble writes the log through. At the first
// failure of an operation that changes the disk it breaks the log, and from
// then on it changes nothing: whatever Pebble asks for is dropped and reported
// as done. So a failed fsync can not be followed by one that "succeeds".
//
// Pebble is not told because it can not take it: a failed rotation of its
// write-ahead log unlocks a mutex twice, which no recover can stop; a failed
// move of a marker panics, mostly in a goroutine of Pebble's; a failed flush
// is retried in a busy loop. Nothing is acknowledged on the strength of a
// dropped write, since Open and Append look at the guard before they return.
type guardFS struct {
	vfs.FS
	g *guard
}

// do runs a changing operation unless the log is broken.
func (g *guard) do(op func() error) error {
	if g.broken.Load() {
		return nil
	}
	if err := op(); err != nil {
		_ = g.fail(err)
	}
	return nil
}

// open runs an operation that gives a file to write to.
func (g *guard) open(name string, op func() (vfs.File, error)) (vfs.File, error) {
	file := &guardFile{g: g, name: name}
	err := g.do(func() error {
		opened, err := op()
		if err == nil {
			file.File = opened
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Create syncs the directory before it makes a marker file. A marker names
// another new file of its directory, and Pebble syncs the two names together:
// a crash may keep the marker alone, and the store could not be opened.
func (f guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := f.syncDir(f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return f.g.open(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f guardFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.g.open(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.g.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f guardFS) OpenDir(name string) (vfs.File, error) {
	return f.g.open(name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f guardFS) syncDir(path string) error {
	dir, err := f.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f guardFS) Link(oldname, newname string) error {
	return f.g.do(func() error { return f.FS.Link(oldname, newname) })
}

func (f guardFS) Rename(oldname, newname string) error {
	return f.g.do(func() error { return f.FS.Rename(oldname, newname) })
}

func (f guardFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.g.do(func() error { return f.FS.MkdirAll(dir, perm) })
}

// Remove passes its error on without breaking the log: a file too many harms
// nothing, and Pebble expects to be told of one that is not there.
func (f guardFS) Remove(name string) error {
	if f.g.broken.Load() {
		return nil
	}
	return f.FS.Remove(name)
}

func (f guardFS) RemoveAll(name string) error {
	if f.g.broken.Load() {
		return nil
	}
	return f.FS.RemoveAll(name)
}

// Unwrap serves vfs.Root.
func (f guardFS) Unwrap() vfs.FS { return f.FS }

// guardFile is a file opened for writing, or a directory opened for sync. Its
// File is nil when the log was broken before it was opened.
type guardFile struct {
	vfs.File
	g    *guard
	name string
}

func (f *guardFile) Write(p []byte) (int, error) {
	err := f.g.do(func() error { _, err := f.File.Write(p); return err })
	return len(p), err
}

func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.g.do(func() error { _, err := f.File.WriteAt(p, off); return err })
	return len(p), err
}

func (f *guardFile) Sync() error     { return f.g.do(func() error { return f.File.Sync() }) }
func (f *guardFile) SyncData() error { return f.g.do(func() error { return f.File.SyncData() }) }

func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	err = f.g.do(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// Preallocate is a hint; not every file system takes it.
func (f *guardFile) Preallocate(off, length int64) error {
	if !f.g.broken.Load() {
		_ = f.File.Preallocate(off, length)
	}
	return nil
}

// Close always releases the descriptor.
func (f *guardFile) Close() error {
	if f.File == nil {
		return nil
	}
	err := f.File.Close()
	return f.g.do(func() error { return err })
}

func (f *guardFile) Read(p []byte) (int, error) {
	if f.File == nil {
		return 0, f.g.err()
	}
	return f.File.Read(p)
}

func (f *guardFile) ReadAt(p []byte, off int64) (int, error) {
	if f.File == nil {
		return 0, f.g.err()
	}
	return f.File.ReadAt(p, off)
}

func (f *guardFile) Prefetch(off, length int64) error {
	if f.File == nil {
		return nil
	}
	return f.File.Prefetch(off, length)
}

func (f *guardFile) Fd() uintptr {
	if f.File == nil {
		return vfs.InvalidFd
	}
	return f.File.Fd()
}

// Stat must not fail on a dropped file: Pebble asks for the size of a recycled
// log while it holds its locks.
func (f *guardFile) Stat() (vfs.FileInfo, error) {
	if f.File == nil {
		return droppedFile(f.name), nil
	}
	info, err := f.File.Stat()
	if err != nil && f.g.broken.Load() {
		return droppedFile(f.name), nil
	}
	return info, err
}

// droppedFile describes a file that was never made.
type droppedFile string

func (d droppedFile) Name() string         { return string(d) }
func (droppedFile) Size() int64            { return 0 }
func (droppedFile) Mode() os.FileMode      { return 0o644 }
func (droppedFile) ModTime() time.Time     { return time.Time{} }
func (droppedFile) IsDir() bool            { return false }
func (droppedFile) Sys() any               { return nil }
func (droppedFile) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
