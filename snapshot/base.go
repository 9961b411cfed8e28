package snapshot

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
)

// Base is the data directory of a stopped or former member, or the state of one
// that runs, of which files and records are taken. It is left as it was, and the
// directory of a member that does not run is locked while it is open.
type Base struct {
	fs     vfs.FS
	path   string
	states []string // directories
	unlock func() error
}

// OpenBase opens a data directory, to be closed, whichever state it has. One that
// is in use is fault.InUse, one without a member or of another cluster
// fault.Refused.
func OpenBase(ctx context.Context, fs vfs.FS, dataDir string, cluster ident.Cluster) (_ *Base, err error) {
	const op = "open the old directory"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, dataDir, err)
	}
	d, unlock, err := lockStopped(fs, dataDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unlock())
		}
	}()
	id, err := d.ReadIdentity()
	if err != nil {
		return nil, err
	}
	if !id.Cluster.Same(cluster) {
		return nil, fault.Newf(fault.Refused, op, "it is of cluster %s, the seed of cluster %s",
			ident.FormatID(id.Cluster.ID), ident.FormatID(cluster.ID)).At(dataDir).
			WithHint("name the old directory of a member of this cluster, or none")
	}
	states, err := d.States()
	if err != nil {
		return nil, err
	}
	b := &Base{fs: fs, path: dataDir, unlock: unlock}
	for _, n := range states {
		b.states = append(b.states, d.State(n))
	}
	return b, nil
}

// RunningBase is the state directory of a member that runs, and whose tables may be
// merged and removed meanwhile: what is gone is fetched.
func RunningBase(fs vfs.FS, state string) *Base {
	return &Base{fs: fs, path: state, states: []string{state}}
}

// Close gives the directory free. No Match of it may be in use. Closing it again
// is fine.
func (b *Base) Close() error {
	unlock := b.unlock
	if b.unlock = nil; unlock == nil {
		return nil
	}
	return unlock()
}

// baseTable is a table of the base of which records are taken.
type baseTable struct {
	path              string
	size              uint64
	smallest, largest []byte
	damaged           atomic.Bool // it was found to be, and is not read again
}

// newBaseTable looks at a table; nil: nothing can be taken of it.
func newBaseTable(ctx context.Context, fs vfs.FS, path string, size uint64) *baseTable {
	t, err := store.OpenTable(ctx, fs, path)
	if err != nil {
		return nil
	}
	b := &baseTable{path: path, size: size}
	b.smallest, b.largest, err = t.Bounds()
	if err := errors.Join(err, t.Close()); err != nil || b.smallest == nil || b.largest == nil {
		return nil
	}
	return b
}

// overlaps reports whether the table has keys from lo to hi, as its own bounds say.
func (b *baseTable) overlaps(lo, hi []byte) bool {
	compare := store.Comparer().Compare
	return !b.damaged.Load() && compare(b.smallest, hi) <= 0 && compare(b.largest, lo) >= 0
}

// within is about how many bytes of the table hold records from lo to hi.
func (b *baseTable) within(fs vfs.FS, lo, hi []byte) uint64 {
	compare := store.Comparer().Compare
	if !b.overlaps(lo, hi) {
		return 0
	}
	if compare(lo, b.smallest) <= 0 && compare(b.largest, hi) <= 0 {
		return b.size
	}
	t, err := store.OpenTable(context.Background(), fs, b.path)
	if err != nil {
		return 0
	}
	n, err := t.Extent(lo, hi)
	if err = errors.Join(err, t.Close()); err != nil {
		return 0
	}
	return min(n, b.size)
}
