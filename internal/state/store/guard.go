package store

import (
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS keeps failures to change the store's directory from Pebble, which can
// not take them: a log that can not be written panics, and while Pebble rotates
// its log that unlocks a mutex twice, which no recover can stop; a table that
// can not be written is tried again in a busy loop, and in the end commits wait
// for it for ever. The first failure breaks the store, which tells everyone who
// uses it. From then on nothing changes on disk: what Pebble asks for is
// dropped and reported as done. Other directories, those of checkpoints, are
// Pebble's own affair: one that fails is given up.
type guardFS struct {
	vfs.FS
	s *Store
}

// Unwrap serves vfs.Root.
func (f guardFS) Unwrap() vfs.FS { return f.FS }

// ours reports whether a path is one of the store's.
func (f guardFS) ours(name string) bool {
	return f.PathDir(name) == f.PathDir(f.PathJoin(f.s.dir, "x"))
}

func (f guardFS) open(name string, op func() (vfs.File, error)) (vfs.File, error) {
	if !f.ours(name) {
		return op()
	}
	return f.guard(name, op)
}

// guard runs an operation that gives a file to write to.
func (f guardFS) guard(name string, op func() (vfs.File, error)) (vfs.File, error) {
	out := &guardFile{s: f.s, name: name}
	if f.s.broken() != nil {
		return out, nil
	}
	file, err := op()
	if err != nil {
		f.s.fail(err)
		return out, nil
	}
	out.File = file
	return out, nil
}

func (f guardFS) change(name string, op func() error) error {
	if !f.ours(name) {
		return op()
	}
	if f.s.broken() == nil {
		if err := op(); err != nil {
			f.s.fail(err)
		}
	}
	return nil
}

func (f guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f guardFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f guardFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f guardFS) OpenDir(name string) (vfs.File, error) {
	if !f.ours(f.PathJoin(name, "x")) {
		return f.FS.OpenDir(name)
	}
	return f.guard(name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f guardFS) Link(oldname, newname string) error {
	return f.change(newname, func() error { return f.FS.Link(oldname, newname) })
}

func (f guardFS) Rename(oldname, newname string) error {
	return f.change(newname, func() error { return f.FS.Rename(oldname, newname) })
}

// Remove passes its error on: a file too many harms nothing, and Pebble expects
// to be told of one that is not there.
func (f guardFS) Remove(name string) error {
	if f.ours(name) && f.s.broken() != nil {
		return nil
	}
	return f.FS.Remove(name)
}

// guardFile is a file of the store that is written, or its directory. Its File
// is nil when the store was broken before it was opened.
type guardFile struct {
	vfs.File
	s    *Store
	name string
}

// do runs a changing operation unless the store is broken. It never fails.
func (f *guardFile) do(op func() error) error {
	if f.File == nil || f.s.broken() != nil {
		return nil
	}
	if err := op(); err != nil {
		f.s.fail(err)
	}
	return nil
}

func (f *guardFile) Write(p []byte) (int, error) {
	return len(p), f.do(func() error { _, err := f.File.Write(p); return err })
}

func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.do(func() error { _, err := f.File.WriteAt(p, off); return err })
}

func (f *guardFile) Sync() error     { return f.do(func() error { return f.File.Sync() }) }
func (f *guardFile) SyncData() error { return f.do(func() error { return f.File.SyncData() }) }

func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	err = f.do(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// Preallocate is a hint; not every file system takes it.
func (f *guardFile) Preallocate(off, length int64) error {
	if f.File != nil {
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
	return f.do(func() error { return err })
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

// Stat must not fail: Pebble asks for the size of a recycled log while it holds
// its locks.
func (f *guardFile) Stat() (vfs.FileInfo, error) {
	if f.File != nil {
		if info, err := f.File.Stat(); err == nil || f.s.broken() == nil {
			return info, err
		}
	}
	return lostFile(f.name), nil
}

func (f *guardFile) Read(p []byte) (int, error) {
	if f.File == nil {
		return 0, f.s.broken()
	}
	return f.File.Read(p)
}

func (f *guardFile) ReadAt(p []byte, off int64) (int, error) {
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
