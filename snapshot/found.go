package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot/archive"
)

// Fill stages what an archive of this seed holds. nil says that it was read to
// its end and is whole. moved is called after each chunk; it may be nil.
func (s *Stage) Fill(ctx context.Context, a *archive.Reader, moved func()) error {
	const op = "read archive"
	if !bytes.Equal(a.ManifestBytes(), s.encoded) {
		return fault.Newf(fault.Usage, op, "it holds another seed")
	}
	for {
		if err := ctx.Err(); err != nil {
			return failure(op, s.d.Path(), err)
		}
		file, index, data, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.Put(file, index, data)
		}
		if err != nil {
			return err
		}
		if moved != nil {
			moved()
		}
	}
}

// Found verifies the seed, makes of its state that of a new cluster (see
// state.Found) and the directory that of its member id, and gives the position
// at which the cluster begins: state and log are alike at all who found it with
// the same f. The inode is filled in where it is not set. A cluster that is the
// seed's is fault.Refused.
//
// Once it returns nil the directory holds a whole node; after an error it holds
// none, and what was staged, which may be the seed no longer, is removed. (Only
// an error in removing staging/, after the commit, finds a whole node.) The
// stage is closed either way.
func (s *Stage) Found(ctx context.Context, id datadir.Identity, f state.Founding, raft raftlog.Options) (pos ident.Position, err error) {
	if s.member {
		return pos, fault.Newf(fault.NotEmpty, "found cluster", "the directory holds a member").At(s.d.Path())
	}
	committed := false
	defer func() {
		if err != nil && !committed {
			err = errors.Join(err, s.abandon())
		}
	}()
	if id.Cluster.ID == s.m.Cluster.ID || id.Seed != nil {
		return pos, fault.Newf(fault.Refused, "found cluster", "cluster %s is the seed's", ident.FormatID(id.Cluster.ID)).At(s.d.Path()).
			WithHint("a new cluster needs an ID of its own")
	}
	if err := s.Verify(ctx); err != nil {
		return pos, err
	}
	if err := ctx.Err(); err != nil {
		return pos, failure("found cluster", s.d.Path(), err)
	}
	if pos, err = s.change(f); err != nil {
		return pos, s.breakWith(err)
	}
	if err := s.place(InstallOptions{Raft: raft, Start: raftlog.SeedState{Position: pos}}); err != nil {
		return pos, s.breakWith(err)
	}
	if id.Inode == 0 {
		if id.Inode, err = s.d.Inode(); err != nil {
			return pos, err
		}
	}
	if err := s.commit(id); err != nil {
		return pos, s.breakWith(err)
	}
	committed = true
	if err := s.d.RemoveStaging(); err != nil {
		return pos, s.breakWith(err)
	}
	return pos, s.Close()
}

// abandon is Discard after a commit that failed: an identity that was taken back
// must not come back, after a crash, without what it speaks of.
func (s *Stage) abandon() error {
	if err := datadir.SyncDir(s.fs, s.d.Path()); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.Discard()
}

// change makes of the staged state that of a new cluster, durably, and looks at
// what has come of it.
func (s *Stage) change(f state.Founding) (ident.Position, error) {
	pos, digest, err := s.founded(f)
	if err != nil {
		return pos, failure("found cluster", s.dir(), err)
	}
	names, err := list(s.fs, s.dir())
	if err != nil {
		return pos, err
	}
	for _, name := range names {
		if err := syncFile(s.fs, s.fs.PathJoin(s.dir(), name)); err != nil {
			return pos, err
		}
	}
	if err := datadir.SyncDir(s.fs, s.dir()); err != nil {
		return pos, err
	}
	info, err := inspect(s.fs, s.dir())
	if err != nil {
		return pos, err
	}
	var voters []uint64
	for _, v := range f.Voters {
		voters = append(voters, v.GetId())
	}
	slices.Sort(voters)
	if info.Position != pos || info.Digest != digest || info.Cluster != nil ||
		!slices.Equal(info.ConfState.GetVoters(), voters) || len(info.ConfState.GetLearners()) > 0 {
		return pos, fault.Newf(fault.Corrupt, "found cluster", "the state is at %s with configuration %v, was founded at %s", info.Position, info.ConfState, pos).
			At(s.dir()).WithHint("the disk returned other bytes than it was given; check it, then run this again")
	}
	return pos, nil
}

// founded opens the staged state for the one change. A panic of the engine about
// a write that failed is an error like any other.
func (s *Stage) founded(f state.Founding) (pos ident.Position, digest [16]byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			cause, ok := r.(error)
			if !ok {
				panic(r)
			}
			err = cause
		}
	}()
	st, err := store.Open(s.dir(), store.Options{FS: s.fs, Brief: true})
	if err != nil {
		return pos, digest, err
	}
	pos, err = state.Found(st, f)
	digest = st.Digest()
	return pos, digest, errors.Join(err, st.Close())
}
