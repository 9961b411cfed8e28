package snapshot

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// FromStopped captures the state of a member that does not run from its data
// directory, using scratch, which must not exist and is best on the donor's file
// system: tables are linked where that is possible. Only state travels; the
// donor's identity, vote and log do not. The donor is locked while it is read
// and is left as it was. Removing the seed leaves an empty scratch behind.
//
// A donor that runs is fault.InUse, a directory without a member fault.Refused.
func FromStopped(ctx context.Context, fs vfs.FS, donorDir, scratch string) (seed *Seed, err error) {
	const op = "capture stopped member"
	if there, err := exists(fs, scratch); err != nil {
		return nil, err
	} else if there {
		return nil, fault.Newf(fault.NotEmpty, op, "the scratch directory exists").At(scratch)
	}
	if err := datadir.MkdirAllSynced(fs, scratch); err != nil {
		return nil, err
	}
	work := fs.PathJoin(scratch, "work")
	defer func() {
		leftover := work
		if err != nil {
			leftover = scratch
		}
		err = errors.Join(err, removeAll(fs, leftover))
	}()
	cluster, err := copyStopped(ctx, fs, donorDir, work)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(work, store.Options{FS: fs}) // replays the donor's write-ahead log
	if err != nil {
		return nil, failure(op, donorDir, err)
	}
	c := capturer{fs: fs, chunkSize: chunk.Size}
	seed, err = c.capture(ctx, st, fs.PathJoin(scratch, "seed"))
	if err := errors.Join(err, st.Close()); err != nil {
		return nil, failure(op, donorDir, err)
	}
	if !seed.m.Cluster.Same(cluster) {
		return nil, fault.Newf(fault.Corrupt, op, "its identity names cluster %x, its state %x",
			cluster.ID, seed.m.Cluster.ID).At(donorDir)
	}
	return seed, nil
}

// copyStopped copies the donor's current state to work, under the donor's lock,
// and gives the cluster its identity names.
func copyStopped(ctx context.Context, fs vfs.FS, donorDir, work string) (cluster ident.Cluster, err error) {
	donor, unlock, err := lockStopped(fs, donorDir)
	if err != nil {
		return cluster, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	id, err := donor.ReadIdentity()
	if err != nil {
		return cluster, err
	}
	n, err := currentState(fs, donor)
	if err != nil {
		return cluster, err
	}
	return id.Cluster, copyStore(ctx, fs, donor.State(n), work)
}

// lockStopped keeps a member's data directory from being used; unlock leaves it
// as it was.
func lockStopped(fs vfs.FS, dir string) (d *datadir.Dir, unlock func() error, err error) {
	d = datadir.At(fs, dir)
	if there, err := exists(fs, d.Identity()); err != nil {
		return nil, nil, err
	} else if !there { // before Lock, which would create the directory
		return nil, nil, fault.Newf(fault.Refused, "read stopped member", "no member's data directory").At(dir)
	}
	lockFile := fs.PathJoin(dir, lockName)
	hadLock, err := exists(fs, lockFile)
	if err != nil {
		return nil, nil, err
	}
	lock, err := d.Lock()
	if err != nil {
		return nil, nil, err
	}
	return d, func() error {
		err := lock.Close()
		if !hadLock {
			err = errors.Join(err, removeAll(fs, lockFile))
		}
		return err
	}, nil
}

// StoppedMember reads who a data directory belongs to, of a member that does not
// run; errors as of FromStopped.
func StoppedMember(fs vfs.FS, dir string) (id datadir.Identity, err error) {
	d, unlock, err := lockStopped(fs, dir)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return d.ReadIdentity()
}

// statesOf lists the numbers of a member's state directories.
func statesOf(fs vfs.FS, d *datadir.Dir) ([]uint64, error) {
	names, err := list(fs, d.Path())
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(fs.PathBase(d.State(0)), "0")
	var states []uint64
	for _, name := range names {
		if number, ok := strings.CutPrefix(name, prefix); ok {
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				states = append(states, n)
			}
		}
	}
	return states, nil
}

// currentState finds out which state-<n> is the donor's. If there are several,
// an exchange was interrupted and the log knows.
func currentState(fs vfs.FS, donor *datadir.Dir) (n uint64, err error) {
	const op = "capture stopped member"
	states, err := statesOf(fs, donor)
	if err != nil {
		return 0, err
	}
	if len(states) == 1 {
		return states[0], nil
	}
	lockFile := fs.PathJoin(donor.Raft(), lockName)
	hadLock, err := exists(fs, lockFile)
	if err != nil {
		return 0, err
	}
	info, findings, err := raftlog.Inspect(donor.Raft(), raftlog.Options{FS: fs})
	if !hadLock {
		err = errors.Join(err, removeAll(fs, lockFile))
	}
	if err != nil {
		return 0, err
	}
	if len(findings) > 0 {
		return 0, fault.Newf(findings[0].Code, op, "%s", findings[0].Detail).At(findings[0].Path)
	}
	return info.State, nil
}

// copyStore copies a closed Pebble store. Tables are never written again, so
// they are linked where the file system can.
func copyStore(ctx context.Context, fs vfs.FS, from, to string) error {
	const op = "copy stopped member"
	names, err := fs.List(from)
	if err != nil {
		return failure(op, from, err)
	}
	if err := fs.MkdirAll(to, 0o755); err != nil {
		return failure(op, to, err)
	}
	for _, name := range names {
		if name == lockName {
			continue
		}
		if err := ctx.Err(); err != nil {
			return failure(op, from, err)
		}
		src, dst := fs.PathJoin(from, name), fs.PathJoin(to, name)
		if kind, _ := manifest.KindOf(name); kind == manifest.KindTable {
			if err := fs.Link(src, dst); err == nil {
				continue
			} else if errors.Is(err, os.ErrNotExist) {
				return failure(op, src, err)
			}
		}
		if err := vfs.Copy(fs, src, dst); err != nil {
			return failure(op, src, err)
		}
	}
	return nil
}
