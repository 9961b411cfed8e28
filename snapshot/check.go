package snapshot

import (
	"context"
	"errors"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Verify makes what is staged durable, reads all of it back and compares it
// with the manifest, then opens it and asks it for its position, configuration
// and digest. A file that is not what it should be is fault.Corrupt; it is
// dropped, so that Missing names its chunks again and the stage stays usable.
// A failed sync ends the stage.
func (s *Stage) Verify(ctx context.Context) error {
	if err := s.broken(); err != nil {
		return err
	}
	if missing := s.Missing(); len(missing) > 0 {
		return fault.Newf(fault.Refused, "verify seed", "%d of %d bytes are staged", s.BytesDone(), s.BytesTotal())
	}
	if err := s.syncAll(ctx); err != nil {
		return s.breakWith(err)
	}
	if err := s.compareNames(); err != nil {
		return err
	}
	if err := s.readBack(ctx); err != nil {
		return err
	}
	return s.compareState()
}

// syncAll syncs what was staged by an earlier Stage, or has no bytes, and then
// the directories.
func (s *Stage) syncAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i := range s.files {
		f := &s.files[i]
		f.mu.Lock()
		synced := f.synced
		f.mu.Unlock()
		if synced {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return failure("sync", s.path(i), err)
			}
			if err := syncFile(s.fs, s.path(i)); err != nil {
				return errors.Join(err, s.fs.Remove(s.path(i)))
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.synced = true
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, dir := range []string{s.dir(), s.d.Staging(), s.d.Path()} {
		if err := datadir.SyncDir(s.fs, dir); err != nil {
			return err
		}
	}
	return nil
}

// compareNames checks that the directory holds the files of the manifest and
// nothing else.
func (s *Stage) compareNames() error {
	names, err := list(s.fs, s.dir())
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(s.m.Files, func(f manifest.File) bool { return f.Name == name }) {
			return fault.Newf(fault.Corrupt, "verify seed", "%q does not belong to the seed", name).At(s.dir())
		}
	}
	if len(names) != len(s.m.Files) {
		return fault.Newf(fault.Corrupt, "verify seed", "%d files, want %d", len(names), len(s.m.Files)).At(s.dir())
	}
	return nil
}

// readBack compares every byte with the manifest, but for files that were read
// back from the disk since they are whole and that nobody has written to.
func (s *Stage) readBack(ctx context.Context) error {
	s.checks.wait(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i := range s.m.Files {
		f := &s.files[i]
		f.mu.Lock()
		checked := f.checked
		f.mu.Unlock()
		group.Go(func() error {
			_, err := s.readBackFile(ctx, i, checked)
			if fault.Is(err, fault.Corrupt) {
				err = errors.Join(err, s.drop(i))
			}
			return err
		})
	}
	return group.Wait()
}

// readBackFile compares the bytes of one synced file, as the disk has them, with
// the manifest, unless it is the file that was checked before. It names what it
// has seen, zero when that can not be told from another file of the same name.
func (s *Stage) readBackFile(ctx context.Context, file int, checked sumKey) (seen sumKey, err error) {
	const op = "verify seed"
	entry, path := &s.m.Files[file], s.path(file)
	f, err := openToRead(s.fs, path)
	if err != nil {
		return sumKey{}, failure(op, path, err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return sumKey{}, failure(op, path, err)
	}
	if uint64(info.Size()) != entry.Size {
		return sumKey{}, fault.Newf(fault.Corrupt, op, "%d bytes on disk, want %d", info.Size(), entry.Size).At(path)
	}
	if key, ok := sumKeyOf(entry, info); ok {
		seen = key
	}
	if checked != (sumKey{}) && seen == checked {
		return seen, nil
	}
	forgetCached(f)
	sums, err := sumChunks(ctx, &inTurn{ctx, &directFile{File: f}, s}, entry.Size, s.m.ChunkSize, s.bufs)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return sumKey{}, fault.New(fault.Corrupt, op, err).At(path)
	}
	if err != nil {
		return sumKey{}, failure(op, path, err)
	}
	for i := range sums {
		if sums[i] != entry.Chunks[i] {
			return sumKey{}, fault.Newf(fault.Corrupt, op, "chunk %d on disk is not what was written", i).At(path).
				WithHint("the disk returned other bytes than it was given; check it, then run this again")
		}
	}
	if manifest.FileDigest(entry.Size, sums) != entry.Digest {
		return sumKey{}, fault.Newf(fault.Corrupt, op, "digest differs").At(path)
	}
	return seen, nil
}

// inTurn reads while nothing else is on its way to or from the disk, and little
// at a time: the kernel lets reads go before the writes that others wait for.
type inTurn struct {
	ctx context.Context
	f   io.ReaderAt
	s   *Stage
}

func (r *inTurn) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.once(p[n:min(len(p), n+r.s.piece())], off+int64(n))
		n += k
	}
	return n, err
}

func (r *inTurn) once(p []byte, off int64) (int, error) {
	if err := r.s.checks.leave(r.ctx, len(p)); err != nil {
		return 0, err
	}
	r.s.reading.Lock()
	defer r.s.reading.Unlock()
	return r.f.ReadAt(p, off)
}

// drop forgets a staged file, so that it is fetched again into a new inode.
func (s *Stage) drop(file int) error {
	if err := removeAll(s.fs, s.path(file)); err != nil {
		return s.breakWith(err)
	}
	f := &s.files[file]
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.have)
	f.missing, f.synced, f.checked = len(s.m.Files[file].Chunks), false, sumKey{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done -= s.m.Files[file].Size
	return nil
}

// compareState opens the staged state and compares what it says of itself with
// what the manifest says of it.
func (s *Stage) compareState() error {
	info, err := inspect(s.fs, s.dir())
	if err != nil {
		return err
	}
	differs := func(what string, got, want any) error {
		return fault.Newf(fault.Corrupt, "verify seed", "%s: the state has %v, the manifest %v", what, got, want).At(s.dir())
	}
	cluster := ident.Cluster{ID: info.Cluster.GetClusterId()}
	if cluster.Genesis, err = ident.NonceFrom(info.Cluster.GetGenesisNonce()); err != nil {
		return fault.New(fault.Corrupt, "verify seed", err).At(s.dir())
	}
	conf := &s.m.ConfState
	switch {
	case info.Position != s.m.Position:
		return differs("position", info.Position, s.m.Position)
	case !slices.Equal(info.ConfState.GetVoters(), conf.Voters):
		return differs("voters", info.ConfState.GetVoters(), conf.Voters)
	case !slices.Equal(info.ConfState.GetLearners(), conf.Learners):
		return differs("learners", info.ConfState.GetLearners(), conf.Learners)
	case cluster != s.m.Cluster:
		return differs("cluster", cluster, s.m.Cluster)
	case info.Digest != s.m.StateDigest:
		return differs("digest", info.Digest, s.m.StateDigest)
	case info.Revision != s.m.Revision:
		return differs("revision", info.Revision, s.m.Revision)
	case info.FormatMajorVersion != s.m.FormatMajorVersion || info.SchemaVersion != s.m.SchemaVersion:
		return differs("format", info.FormatMajorVersion, s.m.FormatMajorVersion)
	}
	return nil
}
