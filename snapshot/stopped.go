package snapshot

import (
	"context"
	"errors"
	"os"
	"slices"

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
// A donor that runs is fault.InUse, a directory without a member fault.Refused,
// one that does not fit beside scratch fault.NoSpace, before anything is copied.
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
	cluster, shared, err := copyStopped(ctx, fs, donorDir, work)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(work, store.Options{FS: fs, Brief: true}) // replays the donor's write-ahead log
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
	seed.shared = shared
	return seed, nil
}

// StageIn moves the files of a seed that FromStopped had to copy to where
// OpenStage finds them staged, in place of what is staged there, so that they
// are not copied twice; the seed is used up. It gives the bytes moved: none, and
// all is as before, if files are shared with the donor, which a stage could
// write to. d is on the file system of the seed.
func (s *Seed) StageIn(d *datadir.Dir) (uint64, error) {
	if s.shared {
		return 0, nil
	}
	files := s.fs.PathJoin(d.Staging(), stagedFiles)
	for _, path := range []string{s.fs.PathJoin(d.Staging(), stagedManifest), s.fs.PathJoin(d.Staging(), stagedPrevious), files} {
		if err := removeAll(s.fs, path); err != nil {
			return 0, err
		}
	}
	if err := s.fs.Rename(s.dir, files); err != nil {
		return 0, failure("stage seed", files, err)
	}
	s.removed.Store(true)
	return s.m.TotalBytes(), nil
}

// copyStopped copies the donor's current state to work, under the donor's lock,
// and gives the cluster its identity names. shared: the two have tables in common.
func copyStopped(ctx context.Context, fs vfs.FS, donorDir, work string) (cluster ident.Cluster, shared bool, err error) {
	donor, unlock, err := lockStopped(fs, donorDir)
	if err != nil {
		return cluster, false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	id, err := donor.ReadIdentity()
	if err != nil {
		return cluster, false, err
	}
	n, err := currentState(fs, donor)
	if err != nil {
		return cluster, false, err
	}
	shared, err = copyStore(ctx, fs, donor.State(n), work)
	return id.Cluster, shared, err
}

// lockStopped keeps a member's data directory from being used; unlock leaves it
// as it was.
func lockStopped(fs vfs.FS, dir string) (d *datadir.Dir, unlock func() error, err error) {
	d = datadir.At(fs, dir)
	if there, err := exists(fs, d.Identity()); err != nil {
		return nil, nil, err
	} else if !there { // before Lock, which would create the directory
		return nil, nil, fault.Newf(fault.Refused, "read stopped member", "no member's data directory").At(dir).
			WithHint("name the data directory of a member, with the file identity in it")
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

// currentState finds out which state-<n> is the donor's. If there are several,
// an exchange was interrupted and the log knows.
func currentState(fs vfs.FS, donor *datadir.Dir) (n uint64, err error) {
	const op = "capture stopped member"
	states, err := donor.States()
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
// they are linked where the file system can; then shared is true.
func copyStore(ctx context.Context, fs vfs.FS, from, to string) (shared bool, err error) {
	const op = "copy stopped member"
	names, err := fs.List(from)
	if err != nil {
		return false, failure(op, from, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == lockName })
	if err := fs.MkdirAll(to, 0o755); err != nil {
		return false, failure(op, to, err)
	}
	if shared, err = checkRoom(fs, from, to, names); err != nil {
		return false, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return false, failure(op, from, err)
		}
		src, dst := fs.PathJoin(from, name), fs.PathJoin(to, name)
		if shared && isTable(name) {
			if err := fs.Link(src, dst); err != nil {
				return false, failure(op, src, err)
			}
			continue
		}
		if err := vfs.Copy(fs, src, dst); err != nil {
			return false, failure(op, src, err)
		}
	}
	return shared, nil
}

func isTable(name string) bool {
	kind, _ := manifest.KindOf(name)
	return kind == manifest.KindTable
}

// checkRoom finds out whether tables can be linked, and refuses a copy that
// does not fit. What the donor's log holds is written once more, as tables;
// where nothing can be linked, the capture copies all again.
func checkRoom(fs vfs.FS, from, to string, names []string) (links bool, err error) {
	const op = "copy stopped member"
	var tables, others uint64
	table := ""
	for _, name := range names {
		info, err := fs.Stat(fs.PathJoin(from, name))
		if err != nil {
			return false, failure(op, fs.PathJoin(from, name), err)
		}
		if isTable(name) {
			tables += uint64(info.Size())
			table = fs.PathJoin(from, name)
		} else {
			others += uint64(info.Size())
		}
	}
	if table != "" {
		if links, err = canLink(fs, table, fs.PathJoin(to, "link")); err != nil {
			return false, err
		}
	}
	need := 2*others + captureReserve
	if !links {
		need += tables
		inside, err := linksInside(fs, to)
		if err != nil {
			return false, err
		}
		if !inside {
			need += tables
		}
	}
	free, err := datadir.At(fs, to).FreeSpace()
	if err != nil {
		return false, err
	}
	if free < need {
		return false, fault.Newf(fault.NoSpace, op, "need %d bytes, %d are free", need, free).At(to).
			WithHint("choose a --data-dir on a larger disk, or on the disk of the stopped member, or free %d bytes", need-free)
	}
	return links, nil
}

// canLink tries a link and removes it.
func canLink(fs vfs.FS, from, link string) (bool, error) {
	if err := fs.Link(from, link); errors.Is(err, os.ErrNotExist) {
		return false, failure("link file", from, err)
	} else if err != nil {
		return false, nil
	}
	return true, removeAll(fs, link)
}

// linksInside reports whether files of dir can be linked at all.
func linksInside(fs vfs.FS, dir string) (bool, error) {
	path := fs.PathJoin(dir, "file")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false, failure("create file", path, err)
	}
	links, err := canLink(fs, path, fs.PathJoin(dir, "link"))
	return links, errors.Join(err, f.Close(), removeAll(fs, path))
}
