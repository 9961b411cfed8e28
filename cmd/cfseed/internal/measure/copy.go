package measure

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// Copied is what `cp -r`, with everything synced, took.
type Copied struct {
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
	Files   int     `json:"files"`
	Gone    int     `json:"gone"` // files that went while they were to be copied
}

// CopyTree copies a directory file by file, as cp does, and syncs each file and
// directory. Nobody could start from such a copy of a running member: it is
// what moving the bytes costs.
func CopyTree(from, to string) (c Copied, err error) {
	began := time.Now()
	var dirs []string
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != from {
			c.Gone++
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			dirs = append(dirs, target)
			return os.MkdirAll(target, 0o750)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		n, err := copyFile(path, target)
		if errors.Is(err, fs.ErrNotExist) {
			c.Gone++
			return nil
		}
		c.Files, c.Bytes = c.Files+1, c.Bytes+n
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, syncOne(dir))
	}
	if err != nil {
		return c, fault.New(fault.Internal, "copy", err).At(from)
	}
	c.Seconds = time.Since(began).Seconds()
	return c, nil
}

func copyFile(from, to string) (n int64, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer func() { _ = src.Close() }() // only read
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(dst, src) // in the kernel, where it can
	if err == nil {
		err = dst.Sync()
	}
	return n, errors.Join(err, dst.Close())
}

// SyncTree syncs every file and directory of a tree that another program wrote.
func SyncTree(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !(d.IsDir() || d.Type().IsRegular()) {
			return err
		}
		return syncOne(path)
	})
	if err != nil {
		return fault.New(fault.Internal, "sync", err).At(dir)
	}
	return nil
}

func syncOne(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
