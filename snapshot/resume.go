package snapshot

import (
	"context"
	"errors"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// takeBack undoes the steps of an install that did not reach its commit point,
// keeping its files: state-1 becomes staging/files again. The steps need not be
// durable, since whatever a crash leaves is read back before it is trusted; but
// an identity whose commit failed must not come back while they are taken.
func (s *Stage) takeBack() error {
	if err := datadir.SyncDir(s.fs, s.d.Path()); err != nil {
		return err
	}
	names, err := list(s.fs, s.d.Path())
	if err != nil {
		return err
	}
	staged, err := exists(s.fs, s.dir())
	if err != nil {
		return err
	}
	if moved, err := exists(s.fs, s.d.State(1)); err != nil {
		return err
	} else if moved && !staged {
		if err := s.fs.Rename(s.d.State(1), s.dir()); err != nil {
			return failure("resume stage", s.d.State(1), err)
		}
	}
	statePrefix := strings.TrimSuffix(s.fs.PathBase(s.d.State(0)), "0")
	for _, path := range []string{s.d.Raft(), s.d.Manifest(), s.d.Manifest() + ".tmp", s.d.Identity() + ".tmp"} {
		if err := removeAll(s.fs, path); err != nil {
			return err
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, statePrefix) {
			if err := removeAll(s.fs, s.fs.PathJoin(s.d.Path(), name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeOver sorts out the files of another seed, if that is what is staged: a
// file that this seed has as well, by digest, gets its new name; so does one
// of equal name, for the sake of a crash between this and the new manifest.
// All others go.
func (s *Stage) takeOver() error {
	encoded, err := readBounded(s.fs, s.manifestPath(), manifest.MaxBytes)
	if err != nil {
		return err
	}
	previous := s.fs.PathJoin(s.d.Staging(), stagedPrevious)
	if string(encoded) == string(s.encoded) {
		return removeAll(s.fs, previous)
	}
	sorting, err := exists(s.fs, previous)
	if err != nil {
		return err
	}
	staged, err := exists(s.fs, s.dir())
	if err != nil {
		return err
	}
	if staged && !sorting {
		if err := s.fs.Rename(s.dir(), previous); err != nil {
			return failure("resume stage", s.dir(), err)
		}
	}
	if err := s.fs.MkdirAll(s.dir(), 0o755); err != nil {
		return failure("resume stage", s.dir(), err)
	}
	names := map[[32]byte]string{}
	if old, err := manifest.Unmarshal(encoded); err == nil { // else nothing is known of them
		for i := range old.Files {
			names[old.Files[i].Digest] = old.Files[i].Name
		}
	}
	// The same content first: the name of one may be that of another's content.
	for _, nameOf := range []func(*manifest.File) string{
		func(f *manifest.File) string { return names[f.Digest] }, func(f *manifest.File) string { return f.Name }} {
		for i := range s.m.Files {
			name := nameOf(&s.m.Files[i])
			if name == "" || s.m.Files[i].Size == 0 {
				continue
			}
			if err := s.moveInto(s.fs.PathJoin(previous, name), s.path(i)); err != nil {
				return err
			}
		}
	}
	return removeAll(s.fs, previous)
}

// moveInto renames a file unless it is absent or its new name is taken.
func (s *Stage) moveInto(from, to string) error {
	if there, err := exists(s.fs, from); err != nil || !there {
		return err
	}
	if taken, err := exists(s.fs, to); err != nil || taken {
		return err
	}
	if err := s.fs.Rename(from, to); err != nil {
		return failure("resume stage", from, err)
	}
	return nil
}

// scan reads everything staged and notes the chunks whose sums match. What the
// manifest does not have is removed.
func (s *Stage) scan(ctx context.Context) error {
	names, err := list(s.fs, s.dir())
	if err != nil {
		return err
	}
	index := make(map[string]int, len(s.m.Files))
	for i := range s.m.Files {
		index[s.m.Files[i].Name] = i
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	bufs := newBuffers(s.m.ChunkSize)
	for _, name := range names {
		i, known := index[name]
		if !known {
			if err := removeAll(s.fs, s.fs.PathJoin(s.dir(), name)); err != nil {
				return errors.Join(err, group.Wait())
			}
			continue
		}
		group.Go(func() error { return s.scanFile(ctx, i, bufs) })
	}
	return group.Wait()
}

func (s *Stage) scanFile(ctx context.Context, file int, bufs buffers) error {
	const op = "resume stage"
	entry, path := &s.m.Files[file], s.path(file)
	f, err := openToRead(s.fs, path)
	if err != nil {
		return failure(op, path, err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return failure(op, path, err)
	}
	if uint64(info.Size()) > entry.Size || info.IsDir() {
		return removeAll(s.fs, path)
	}
	buf := bufs.get()
	defer bufs.put(buf)
	state := &s.files[file]
	state.mu.Lock()
	defer state.mu.Unlock()
	var bytes uint64
	for i, want := range entry.Chunks {
		if err := ctx.Err(); err != nil {
			return failure(op, path, err)
		}
		offset, length := chunk.Bounds(entry.Size, s.m.ChunkSize, uint64(i))
		err := readAt(f, buf[:length], offset)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil || chunk.Sum(buf[:length]) != want {
			continue // unreadable bytes are as good as absent ones
		}
		state.have[i/64] |= 1 << (i % 64)
		state.missing--
		bytes += uint64(length)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done += bytes
	s.reused += bytes
	return nil
}
