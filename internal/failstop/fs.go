package failstop

import (
	"errors"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Wrap gives the file system through which all is done with fs until l trips.
func Wrap(fs vfs.FS, l *Latch) vfs.FS { return stopFS{FS: fs, l: l, ours: anything} }

// WrapDir is Wrap for the files of one directory. What is done elsewhere, as
// to a checkpoint, succeeds or fails as it does in fs: whoever wants it can
// give it up.
func WrapDir(fs vfs.FS, l *Latch, dir string) vfs.FS {
	inside := fs.PathDir(fs.PathJoin(dir, "x"))
	return stopFS{FS: fs, l: l, ours: func(name string) bool { return fs.PathDir(name) == inside }}
}

func anything(string) bool { return true }

type stopFS struct {
	vfs.FS
	l    *Latch
	ours func(name string) bool // whether a failure to change name trips the latch
}

// change runs an operation that changes what is at name.
func (f stopFS) change(name string, op func() error) error {
	if !f.ours(name) {
		return op()
	}
	f.l.do(op)
	return nil
}

// open runs an operation that gives a file to write to.
func (f stopFS) open(name string, op func() (vfs.File, error)) (vfs.File, error) {
	if !f.ours(name) {
		return op()
	}
	return f.guarded(name, op), nil
}

func (f stopFS) guarded(name string, op func() (vfs.File, error)) vfs.File {
	out := &stopFile{l: f.l, name: name}
	f.l.do(func() error {
		file, err := op()
		if err == nil {
			out.File = file
		}
		return err
	})
	return out
}

// Create syncs the directory before it makes a marker file. A marker names
// another new file of its directory, and Pebble syncs the two names together:
// a crash may keep the marker alone, and the database could not be opened.
func (f stopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.ours(name) && strings.HasPrefix(f.PathBase(name), "marker.") {
		f.l.do(func() error { return f.syncDir(f.PathDir(name)) })
	}
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f stopFS) syncDir(path string) error {
	dir, err := f.FS.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f stopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f stopFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

// OpenDir opens a directory to sync it: it is ours if its files are.
func (f stopFS) OpenDir(name string) (vfs.File, error) {
	return f.open(f.PathJoin(name, "x"), func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f stopFS) Link(oldname, newname string) error {
	return f.change(newname, func() error { return f.FS.Link(oldname, newname) })
}

func (f stopFS) Rename(oldname, newname string) error {
	return f.change(newname, func() error { return f.FS.Rename(oldname, newname) })
}

func (f stopFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.change(dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

// Remove passes its error on without tripping the latch: a file too many harms
// nothing, and Pebble expects to be told of one that is not there.
func (f stopFS) Remove(name string) error {
	if f.ours(name) && f.l.Err() != nil {
		return nil
	}
	return f.FS.Remove(name)
}

func (f stopFS) RemoveAll(name string) error {
	if f.ours(name) && f.l.Err() != nil {
		return nil
	}
	return f.FS.RemoveAll(name)
}

// Unwrap serves vfs.Root.
func (f stopFS) Unwrap() vfs.FS { return f.FS }
