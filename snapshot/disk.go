package snapshot

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// lockName is the file by which the storage engine keeps others out of a
// directory; never part of a seed.
const lockName = "LOCK"

// openToRead opens a file of which much is read, without the kernel's readahead:
// megabytes of it keep the syncs of a log on that disk waiting.
func openToRead(fs vfs.FS, path string) (vfs.File, error) {
	return fs.Open(path, vfs.RandomReadsOption)
}

// failure gives err the class that belongs to it, unless it has one.
func failure(op, path string, err error) error {
	var typed *fault.Error
	if errors.As(err, &typed) {
		return err
	}
	code := fault.FileCode(err)
	switch {
	case errors.Is(err, context.Canceled):
		code = fault.Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		code = fault.Timeout
	case code == fault.NoSpace:
		return fault.New(code, op, err).At(path).WithHint("free some space and run it again: what is staged is kept")
	}
	return fault.New(code, op, err).At(path)
}

// exists reports whether path names anything.
func exists(fs vfs.FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, failure("stat", path, err)
	}
	return true, nil
}

// list gives the names in a directory, nil when it does not exist.
func list(fs vfs.FS, dir string) ([]string, error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failure("list directory", dir, err)
	}
	return names, nil
}

// readAt fills buf from offset; a file that ends before gives
// io.ErrUnexpectedEOF.
func readAt(f io.ReaderAt, buf []byte, offset uint64) error {
	n, err := f.ReadAt(buf, int64(offset))
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readBounded reads a whole file of at most limit bytes; nil when it does not
// exist or is longer.
func readBounded(fs vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failure("read", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, failure("read", path, err)
	}
	if int64(len(b)) > limit {
		return nil, nil
	}
	return b, nil
}

// removeAll removes a directory or file if it exists.
func removeAll(fs vfs.FS, path string) error {
	if err := fs.RemoveAll(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return failure("remove", path, err)
	}
	return nil
}

// syncFile makes the bytes of a file durable.
func syncFile(fs vfs.FS, path string) error {
	f, err := fs.Open(path)
	if err != nil {
		return failure("sync", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return failure("sync", path, err)
	}
	return nil
}
