package datadir

import (
	"errors"
	"io"
	"math"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// SyncDir makes the names in the directory at path durable.
func SyncDir(fs vfs.FS, path string) error {
	f, err := fs.OpenDir(path)
	if err != nil {
		return fault.New(fault.FileCode(err), "sync directory", err).At(path)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fault.New(fault.FileCode(err), "sync directory", err).At(path)
	}
	return nil
}

// MkdirAllSynced creates the directory at path and every missing parent, and
// makes them durable. One that exists is synced again together with its
// parent, since whoever created it may have crashed before the sync.
func MkdirAllSynced(fs vfs.FS, path string) error { return mkdirAllSynced(fs, path, 0o755) }

func mkdirAllSynced(fs vfs.FS, path string, mode os.FileMode) error {
	created := []string{path}
	for dir := path; ; {
		parent := fs.PathDir(dir)
		if parent == dir {
			break
		}
		created = append(created, parent)
		if _, err := fs.Stat(parent); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.FileCode(err), "create directory", err).At(parent)
		}
		dir = parent
	}
	if err := fs.MkdirAll(path, mode); err != nil {
		return fault.New(fault.FileCode(err), "create directory", err).At(path)
	}
	for _, dir := range created {
		if err := SyncDir(fs, dir); err != nil {
			return err
		}
	}
	return nil
}

// WriteFileSynced replaces the file at path by data: it writes path+".tmp",
// syncs and closes it, renames it and syncs the directory. After a crash path
// holds the old bytes or the new ones. The directory must exist. data is not
// kept.
func WriteFileSynced(fs vfs.FS, path string, data []byte) error {
	return writeFileSynced(fs, path, data, anyMode)
}

// writeFileSynced calls created for the file while it is empty.
func writeFileSynced(fs vfs.FS, path string, data []byte, created func(fs vfs.FS, path string) error) error {
	tmp := path + tmpSuffix
	if err := writeSynced(fs, tmp, data, created); err != nil {
		// What is left of tmp carries nothing, so failing to remove it adds nothing.
		_ = fs.Remove(tmp)
		return fault.New(fault.FileCode(err), "write file", err).At(path)
	}
	if err := fs.Rename(tmp, path); err != nil {
		_ = fs.Remove(tmp)
		return fault.New(fault.FileCode(err), "write file", err).At(path)
	}
	return SyncDir(fs, fs.PathDir(path))
}

// anyMode leaves a file as the file system makes it.
func anyMode(vfs.FS, string) error { return nil }

func writeSynced(fs vfs.FS, path string, data []byte, created func(fs vfs.FS, path string) error) (err error) {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := created(fs, path); err != nil {
		return err
	}
	// A vfs.File may scribble on what it is given to write.
	n, err := f.Write(append([]byte(nil), data...))
	if err != nil {
		return err
	}
	if n != len(data) {
		return io.ErrShortWrite
	}
	return f.Sync()
}

// FreeSpace gives the bytes this process may still write to the directory's
// file system, math.MaxUint64 where that is not known. The directory itself
// need not exist yet.
func (d *Dir) FreeSpace() (uint64, error) {
	path := d.path
	for {
		_, err := d.fs.Stat(path)
		if err == nil {
			break
		}
		parent := d.fs.PathDir(path)
		if !errors.Is(err, os.ErrNotExist) || parent == path {
			return 0, fault.New(fault.FileCode(err), "free space", err).At(path)
		}
		path = parent
	}
	usage, err := d.fs.GetDiskUsage(path)
	if errors.Is(err, vfs.ErrUnsupported) {
		return math.MaxUint64, nil
	}
	if err != nil {
		return 0, fault.New(fault.FileCode(err), "free space", err).At(path)
	}
	return usage.AvailBytes, nil
}
