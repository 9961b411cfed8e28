package sim

import (
	"io"
	"math/rand/v2"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is a file system in memory that can crash. Pebble's MemFS deadlocks when
// it is cloned during some operations, which the lock keeps apart.
type disk struct {
	vfs.FS
	mem *vfs.MemFS
	mu  sync.RWMutex
}

func newDisk() *disk { return diskOf(vfs.NewCrashableMem()) }

func diskOf(mem *vfs.MemFS) *disk { return &disk{FS: mem, mem: mem} }

// crash gives what is left after the power fails: all that was synced, and of
// the rest each block with the given probability.
func (d *disk) crash(percent int, rng *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return diskOf(d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
}

// Unwrap gives the file system underneath, for those who look for its kind.
func (d *disk) Unwrap() vfs.FS { return d.mem }

// Link implements vfs.FS.
func (d *disk) Link(from, to string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.FS.Link(from, to)
}

// Lock implements vfs.FS.
func (d *disk) Lock(name string) (io.Closer, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.FS.Lock(name)
}

// ReuseForWrite implements vfs.FS.
func (d *disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.FS.ReuseForWrite(from, to, c)
}
