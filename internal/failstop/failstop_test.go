package failstop

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

const dir = "data/db"

var errFirst = errors.New("first")

func wrapped(cause error) error { return fmt.Errorf("%w: %w", errFirst, cause) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// disk is a file system that fails on demand and counts what it is asked to
// change.
type disk struct {
	vfs.FS
	mem    *vfs.MemFS
	fail   atomic.Bool
	writes atomic.Int64
}

func newDisk(t *testing.T) *disk {
	d := &disk{mem: vfs.NewCrashableMem()}
	must(t, d.mem.MkdirAll(dir, 0o755), d.mem.MkdirAll("data/elsewhere", 0o755))
	for _, name := range []string{"old", "link", "elsewhere"} {
		write(t, d.mem, "data/db/"+name, "before")
	}
	d.FS = errorfs.Wrap(d.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite && op.Kind != errorfs.OpOpen { // files are opened to write only
			return nil
		}
		d.writes.Add(1)
		if d.fail.Load() {
			return syscall.EIO
		}
		return nil
	}))
	return d
}

func write(t *testing.T, fs vfs.FS, name, text string) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write([]byte(text))
	must(t, err, f.Sync(), f.Close())
}

// changes are the operations that Pebble changes a directory with. Each opens
// what it needs before ready is called, which makes the operation fail.
var changes = map[string]func(t *testing.T, fs vfs.FS, ready func()) error{
	"create": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return opened(fs.Create("data/db/new", vfs.WriteCategoryUnspecified))
	},
	"create a marker": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return opened(fs.Create("data/db/marker.manifest.1.x", vfs.WriteCategoryUnspecified))
	},
	"open to write": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return opened(fs.OpenReadWrite("data/db/old", vfs.WriteCategoryUnspecified))
	},
	"reuse": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return opened(fs.ReuseForWrite("data/db/old", "data/db/new", vfs.WriteCategoryUnspecified))
	},
	"link": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return fs.Link("data/db/old", "data/db/new")
	},
	"rename": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return fs.Rename("data/db/old", "data/db/new")
	},
	"make a directory": func(_ *testing.T, fs vfs.FS, ready func()) error {
		ready()
		return fs.MkdirAll("data/db/sub", 0o755)
	},
	"write": onFile(func(f vfs.File) error { n, err := f.Write([]byte("xyz")); return whole(n, err) }),
	"write at": onFile(func(f vfs.File) error {
		n, err := f.WriteAt([]byte("xyz"), 0)
		return whole(n, err)
	}),
	"sync":      onFile(vfs.File.Sync),
	"sync data": onFile(vfs.File.SyncData),
	"sync to":   onFile(func(f vfs.File) error { _, err := f.SyncTo(1); return err }),
	"sync a directory": func(t *testing.T, fs vfs.FS, ready func()) error {
		f, err := fs.OpenDir(dir)
		must(t, err)
		ready()
		return errors.Join(f.Sync(), f.Close())
	},
}

func onFile(op func(vfs.File) error) func(*testing.T, vfs.FS, func()) error {
	return func(t *testing.T, fs vfs.FS, ready func()) error {
		f, err := fs.OpenReadWrite("data/db/old", vfs.WriteCategoryUnspecified)
		must(t, err)
		ready()
		return errors.Join(op(f), f.Close())
	}
}

func whole(n int, err error) error {
	if n != 3 {
		return errors.Join(err, io.ErrShortWrite)
	}
	return err
}

func opened(f vfs.File, err error) error {
	if err != nil {
		return err
	}
	_, err = f.Stat()
	return errors.Join(err, f.Close())
}

// TestFailureStopsTheDisk fails each change in turn: Pebble hears of nothing,
// the owner of everything, and no later change gets to the disk, though the
// disk would take it.
func TestFailureStopsTheDisk(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			for _, scope := range []string{"all", "one directory"} {
				d := newDisk(t)
				var told []error
				l := NewLatch(wrapped, func(err error) { told = append(told, err) })
				fs := Wrap(d, l)
				if scope != "all" {
					fs = WrapDir(d, l, dir)
				}
				if err := change(t, fs, func() { d.fail.Store(true) }); err != nil {
					t.Errorf("%s: Pebble is told: %v", scope, err)
				}
				if err := l.Err(); !errors.Is(err, errFirst) || !errors.Is(err, syscall.EIO) || len(told) != 1 || told[0] != err {
					t.Fatalf("%s: %v, told %v", scope, err, told)
				}
				d.fail.Store(false)
				d.checkStopped(t, fs)
				if len(told) != 1 {
					t.Errorf("%s: told again: %v", scope, told)
				}
			}
		})
	}
}

// checkStopped makes every change through a file system that has stopped.
func (d *disk) checkStopped(t *testing.T, fs vfs.FS) {
	t.Helper()
	before, writes := listing(t, d.mem), d.writes.Load()
	for name, change := range changes {
		if err := change(t, fs, func() {}); err != nil {
			t.Errorf("%s, later: %v", name, err)
		}
	}
	must(t, fs.Remove("data/db/old"), fs.RemoveAll("data/db/link"), fs.Remove("data/db/absent"))
	if after := listing(t, d.mem); after != before {
		t.Errorf("the disk changed from\n%sto\n%s", before, after)
	}
	if n := d.writes.Load() - writes; n != 0 {
		t.Errorf("the disk was asked for %d changes", n)
	}
}

func listing(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		f, err := fs.Open(fs.PathJoin(dir, name))
		must(t, err)
		st, err := f.Stat()
		must(t, err)
		text := make([]byte, st.Size())
		if !st.IsDir() {
			_, err = io.ReadFull(f, text)
		}
		must(t, err, f.Close())
		fmt.Fprintf(&b, "%s %q\n", name, text)
	}
	return b.String()
}

// TestElsewhere: of other directories Pebble hears itself, before and after.
func TestElsewhere(t *testing.T) {
	d := newDisk(t)
	l := NewLatch(wrapped, nil)
	fs := WrapDir(d, l, dir)
	try := func() map[string]error {
		out := map[string]error{"link": fs.Link("data/db/old", "data/elsewhere/link"), "make": fs.MkdirAll("data/elsewhere/sub", 0o755)}
		_, out["create"] = fs.Create("data/elsewhere/new", vfs.WriteCategoryUnspecified)
		f, err := fs.OpenDir("data/elsewhere")
		must(t, err)
		out["sync"] = errors.Join(f.Sync(), f.Close())
		out["rename"] = fs.Rename("data/elsewhere/new", "data/elsewhere/renamed")
		out["remove"] = fs.RemoveAll("data/elsewhere/link")
		return out
	}
	d.fail.Store(true)
	for what, err := range try() {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, l.Err())
	_ = l.Fail(syscall.EIO)
	d.fail.Store(false)
	for what, err := range try() {
		if err != nil {
			t.Errorf("%s, after the database failed: %v", what, err)
		}
	}
	if _, err := d.mem.Stat("data/elsewhere/renamed"); err != nil {
		t.Error(err)
	}
}

// TestRemoveTellsPebble: a file that is not there, or stays, harms nothing.
func TestRemoveTellsPebble(t *testing.T) {
	d := newDisk(t)
	l := NewLatch(wrapped, nil)
	if err := Wrap(d.mem, l).Remove("data/db/absent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	for _, fs := range []vfs.FS{Wrap(d, l), WrapDir(d, l, dir)} {
		d.fail.Store(true)
		if err := fs.Remove("data/db/old"); !errors.Is(err, syscall.EIO) {
			t.Errorf("failed: %v", err)
		}
		if err := fs.RemoveAll("data/db/old"); !errors.Is(err, syscall.EIO) {
			t.Errorf("failed: %v", err)
		}
		d.fail.Store(false)
		must(t, l.Err())
	}
}

// TestLostFile: a file that was never made can be asked about, and reading it
// gives the failure.
func TestLostFile(t *testing.T) {
	l := NewLatch(wrapped, nil)
	_ = l.Fail(syscall.ENOSPC)
	f, err := Wrap(vfs.NewMem(), l).Create("data/db/000007.log", vfs.WriteCategoryUnspecified)
	must(t, err)
	st, err := f.Stat()
	must(t, err, f.Preallocate(0, 10), f.Prefetch(0, 10))
	if st.Size() != 0 || st.IsDir() || f.Fd() != vfs.InvalidFd {
		t.Errorf("%+v, descriptor %d", st, f.Fd())
	}
	_, rerr := f.Read(make([]byte, 1))
	_, aerr := f.ReadAt(make([]byte, 1), 0)
	if rerr != l.Err() || aerr != l.Err() {
		t.Errorf("read: %v, %v", rerr, aerr)
	}
	must(t, f.Close())
}

// TestHealthyDisk: without a failure everything gets to the disk, and reading
// goes on after one.
func TestHealthyDisk(t *testing.T) {
	for name, change := range changes {
		d := newDisk(t)
		l := NewLatch(wrapped, nil)
		if err := errors.Join(change(t, WrapDir(d, l, dir), func() {}), l.Err()); err != nil || d.writes.Load() == 0 {
			t.Errorf("%s: %v, %d changes", name, err, d.writes.Load())
		}
	}
	d := newDisk(t)
	l := NewLatch(wrapped, nil)
	fs := Wrap(d, l)
	f, err := fs.OpenReadWrite("data/db/old", vfs.WriteCategoryUnspecified)
	must(t, err)
	_ = l.Fail(syscall.EIO)
	got := make([]byte, 6)
	_, err = f.ReadAt(got, 0)
	must(t, err, f.Close())
	if string(got) != "before" {
		t.Errorf("read %q", got)
	}
	if vfs.Root(fs) != vfs.Root(d) {
		t.Error("the file system underneath is hidden")
	}
}

// TestMarkerComesLast: whatever a crash keeps, a marker is not there without
// the file it names.
func TestMarkerComesLast(t *testing.T) {
	for seed := range uint64(200) {
		d := newDisk(t)
		fs := WrapDir(d, NewLatch(wrapped, nil), dir)
		write(t, fs, "data/db/MANIFEST-000001", "content")
		f, err := fs.Create("data/db/marker.manifest.000001.MANIFEST-000001", vfs.WriteCategoryUnspecified)
		must(t, err, f.Close())
		crashed := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 1))})
		names, err := crashed.List(dir)
		if err == nil && len(names) > 0 && !slices.Contains(names, "MANIFEST-000001") {
			t.Fatalf("seed %d: left %v", seed, names)
		}
	}
}

// TestLatchTripsOnce: of failures at one moment everyone gets the same.
func TestLatchTripsOnce(t *testing.T) {
	var told atomic.Int64
	l := NewLatch(wrapped, func(error) { told.Add(1) })
	must(t, l.Err())
	got := make([]error, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Add(1)
		go func() { defer wg.Done(); got[i] = l.Fail(fmt.Errorf("cause %d", i)) }()
	}
	wg.Wait()
	for _, err := range got {
		if err != l.Err() || !errors.Is(err, errFirst) {
			t.Errorf("%v, first %v", err, l.Err())
		}
	}
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
}
