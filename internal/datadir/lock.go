package datadir

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// Lock takes the directory for this process, creating it (and its parents,
// durably) when it is absent. A directory held by another process or by this
// one gives fault.InUse. The lock ends with Close or with the process.
func (d *Dir) Lock() (io.Closer, error) {
	const op = "lock data directory"
	if err := MkdirAllSynced(d.fs, d.path); err != nil {
		return nil, err
	}
	path, err := d.canonical()
	if err != nil {
		return nil, fault.New(fault.FileCode(err), op, err).At(d.path)
	}
	lock, err := d.fs.Lock(d.fs.PathJoin(path, lockName))
	if err == nil {
		return lock, nil
	}
	if held(err) {
		return nil, fault.New(fault.InUse, op, err).At(d.path).
			WithHint("another process runs on this directory; stop it first")
	}
	return nil, fault.New(fault.FileCode(err), op, err).At(d.path)
}

// canonical gives the one spelling of the path. The lock of a process does not
// exclude the process itself, and vfs tells its locks apart by name; a second
// spelling would not only be let in: closing it would end the first lock.
func (d *Dir) canonical() (string, error) {
	if vfs.Root(d.fs) != vfs.Default {
		return d.path, nil
	}
	abs, err := filepath.Abs(d.path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// held tells "somebody has it" from "the lock file can not be made": the file
// system names the path in the latter. An error that is neither an errno nor
// about a path is vfs saying that this process holds the lock.
func held(err error) bool {
	var atPath *os.PathError
	if errors.As(err, &atPath) {
		return false
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno == syscall.EAGAIN || errno == syscall.EACCES
	}
	return !errors.Is(err, os.ErrNotExist)
}
