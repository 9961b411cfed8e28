package snapshot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// isDirect says whether a file is used past the page cache now.
func isDirect(f vfs.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_DIRECT != 0
}

// directDisk is the machine's file system, seen through files that count what
// passes the page cache and that may refuse it, as some file systems do.
type directDisk struct {
	vfs.FS
	refuse              bool
	direct, cached      atomic.Int64 // bytes of tables written
	directIn, cachedIn  atomic.Int64 // and read with ReadAt
	refusals, syncedTos atomic.Int64
}

type directDiskFile struct {
	vfs.File
	d     *directDisk
	table bool
}

func (d *directDisk) wrap(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &directDiskFile{f, d, strings.HasSuffix(name, ".sst")}, nil
}

func (d *directDisk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.Open(name, opts...)
	return d.wrap(f, name, err)
}

func (d *directDisk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, c, opts...)
	return d.wrap(f, name, err)
}

// passes does op and counts it, unless it is to be refused.
func (f *directDiskFile) passes(direct, cached *atomic.Int64, op func() (int, error)) (int, error) {
	count := cached
	if isDirect(f.File) {
		if f.d.refuse {
			f.d.refusals.Add(1)
			return 0, &os.PathError{Op: "io", Path: "x", Err: syscall.EINVAL}
		}
		count = direct
	}
	n, err := op()
	if f.table {
		count.Add(int64(n))
	}
	return n, err
}

func (f *directDiskFile) WriteAt(p []byte, off int64) (int, error) {
	return f.passes(&f.d.direct, &f.d.cached, func() (int, error) { return f.File.WriteAt(p, off) })
}

func (f *directDiskFile) ReadAt(p []byte, off int64) (int, error) {
	return f.passes(&f.d.directIn, &f.d.cachedIn, func() (int, error) { return f.File.ReadAt(p, off) })
}

func (f *directDiskFile) SyncTo(n int64) (bool, error) {
	f.d.syncedTos.Add(1)
	return f.File.SyncTo(n)
}

// tableBytes is what a seed has in tables: all of it, and what of that is whole
// blocks of a chunk.
func tableBytes(seed *Seed) (all, blocks int64) {
	for _, f := range seed.m.Files {
		if f.Kind == manifest.KindTable {
			all += int64(f.Size)
			blocks += int64(f.Size / diskBlock * diskBlock)
		}
	}
	return all, blocks
}

// needsDirect skips a test on a disk that can not be used past the cache.
func needsDirect(t *testing.T, dir string) {
	t.Helper()
	f, err := vfs.Default.Create(filepath.Join(dir, "probe"), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if !setDirect(f, true) {
		t.Skip("files here can not be used past the page cache")
	}
	if _, err := f.Write(make([]byte, diskBlock)); errors.Is(err, syscall.EINVAL) {
		t.Skip("files here are not written past the page cache")
	}
}

// A stage writes and reads back whole blocks past the page cache; what is left
// of a file goes through it. Where a file system refuses the one, the other
// does for all.
func TestStagePassesThePageCache(t *testing.T) {
	seed := newTestSeed(t)
	all, blocks := tableBytes(seed)
	if blocks == 0 || blocks == all {
		t.Fatalf("%d bytes of tables, %d in whole blocks", all, blocks)
	}
	for name, refuse := range map[string]bool{"direct": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			needsDirect(t, dir)
			disk := &directDisk{FS: vfs.Default, refuse: refuse}
			st := staged(t, datadir.At(disk, filepath.Join(dir, "node")), seed)
			wantDirect, wantCached := blocks, all-blocks
			if refuse {
				wantDirect, wantCached = 0, all
			}
			if d, c := disk.direct.Load(), disk.cached.Load(); d != wantDirect || c != wantCached {
				t.Errorf("%d and %d bytes written past and through the cache, want %d and %d", d, c, wantDirect, wantCached)
			}
			if d, c := disk.directIn.Load(), disk.cachedIn.Load(); d != wantDirect || c != wantCached {
				t.Errorf("%d and %d bytes read back past and through the cache, want %d and %d", d, c, wantDirect, wantCached)
			}
			if refuse != (disk.refusals.Load() > 0) || disk.syncedTos.Load() == 0 {
				t.Errorf("%d refusals, %d calls of SyncTo", disk.refusals.Load(), disk.syncedTos.Load())
			}
			if err := st.Install(t.Context(), anIdentity(), InstallOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := checkWhole(vfs.Default, filepath.Join(dir, "node"), seed); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever is written in pieces of any size, at any place, from any address in
// memory, is what is read, past the cache and through it.
func TestDirectFile(t *testing.T) {
	dir := t.TempDir()
	noise := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(noise) // never fails
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(dir, "file")
		if err := os.RemoveAll(path); err != nil {
			rt.Fatal(err)
		}
		f, err := vfs.Default.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		d := &directFile{File: f}
		var want []byte
		at := rapid.OneOf(rapid.IntRange(0, 20<<10), rapid.Map(rapid.IntRange(0, 5), func(i int) int { return i * diskBlock }))
		for range rapid.IntRange(1, 6).Draw(rt, "pieces") {
			off, n := at.Draw(rt, "offset"), at.Draw(rt, "length")
			from := at.Draw(rt, "from")
			p := noise[from : from+n]
			done, err := d.direct(p, int64(off), f.WriteAt)
			if err == nil && done < n {
				var m int
				m, err = d.cached(p[done:], int64(off+done), f.WriteAt)
				done += m
			}
			if err != nil || done != n {
				rt.Fatalf("%d of %d bytes at %d: %v", done, n, off, err)
			}
			if n > 0 {
				want = append(want, make([]byte, max(0, off+n-len(want)))...)
				copy(want[off:], p)
			}
		}
		got := make([]byte, len(want)+3*diskBlock)
		shift := rapid.IntRange(0, 2).Draw(rt, "shift") * 100
		off := min(at.Draw(rt, "read at"), len(want))
		n, err := d.ReadAt(got[shift:shift+len(want)-off], int64(off))
		if err != nil || !bytes.Equal(got[shift:shift+n], want[off:]) {
			rt.Fatalf("%d of %d bytes from %d: %v", n, len(want)-off, off, err)
		}
		n, err = d.ReadAt(got[:len(want)-off+2*diskBlock], int64(off))
		if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want[off:]) {
			rt.Fatalf("%d of %d bytes past the end from %d: %v", n, len(want)-off, off, err)
		}
		if whole, err := os.ReadFile(path); err != nil || !bytes.Equal(whole, want) {
			rt.Fatalf("the file has %d bytes, not the %d written: %v", len(whole), len(want), err)
		}
	})
}
