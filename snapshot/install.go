package snapshot

import (
	"context"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/raftlog"
)

// InstallOptions refine Install. The zero value is usable.
type InstallOptions struct {
	// Raft is how the log is opened; its FS is the data directory's.
	Raft raftlog.Options
	// Start may carry a Tail: entries behind the seed's position that the source
	// has applied. Position and State are filled in.
	Start raftlog.SeedState
}

// Install verifies the seed and makes the directory that of the member id. The
// ticket in id.Seed and the inode are filled in where they are not set; a
// cluster or ticket that is not the seed's is fault.Refused. Once it returns
// nil the directory holds a whole node; after an error it holds none, and
// opening the stage again resumes. (Only an error in removing staging/, after
// the commit, finds a whole node: datadir.Classify tells.) The stage is closed
// either way unless the seed was found damaged, see Verify.
func (s *Stage) Install(ctx context.Context, id datadir.Identity, o InstallOptions) error {
	if s.member {
		return fault.Newf(fault.NotEmpty, "install seed", "the directory holds a member").At(s.d.Path())
	}
	if err := s.complete(&id); err != nil {
		return err
	}
	if err := s.Verify(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // the last moment to stop: what follows is short
		return failure("install seed", s.d.Path(), err)
	}
	if err := s.install(id, o); err != nil {
		return s.breakWith(err)
	}
	if err := s.d.RemoveStaging(); err != nil {
		return s.breakWith(err)
	}
	return s.Close()
}

// complete fills in id and checks that it is for this seed.
func (s *Stage) complete(id *datadir.Identity) error {
	const op = "install seed"
	if !id.Cluster.Same(s.m.Cluster) {
		return fault.Newf(fault.Refused, op, "the seed is of cluster %x/%s, want %x/%s",
			s.m.Cluster.ID, s.m.Cluster.Genesis, id.Cluster.ID, id.Cluster.Genesis).At(s.d.Path())
	}
	id.Cluster = s.m.Cluster
	ticket := datadir.SeedRef{}
	if id.Seed != nil {
		ticket = *id.Seed
		if ticket.Position != s.m.Position || ticket.ManifestRoot != s.root {
			return fault.Newf(fault.Refused, op, "the ticket is for another seed, at %s", ticket.Position).At(s.d.Path())
		}
	}
	ticket.Position, ticket.ManifestRoot = s.m.Position, s.root
	id.Seed = &ticket
	if id.Inode != 0 {
		return nil
	}
	inode, err := s.d.Inode()
	id.Inode = inode
	return err
}

// install does the steps from the move on; what is staged is verified.
func (s *Stage) install(id datadir.Identity, o InstallOptions) error {
	o.Start.Position = s.m.Position
	if err := s.place(o); err != nil {
		return err
	}
	if err := datadir.WriteFileSynced(s.fs, s.d.Manifest(), s.encoded); err != nil {
		return err
	}
	return s.commit(id)
}

// place makes what is staged state-1, beside a log that begins at
// o.Start.Position.
func (s *Stage) place(o InstallOptions) error {
	if err := s.move(1); err != nil {
		return err
	}
	o.Raft.FS = s.fs
	o.Start.State = 1
	if err := raftlog.Seed(s.d.Raft(), o.Raft, o.Start); err != nil {
		return failure("install seed", s.d.Raft(), err)
	}
	return nil
}

// commit writes the identity: the directory holds a node once it returns nil.
func (s *Stage) commit(id datadir.Identity) error {
	if err := s.d.CommitIdentity(id); err != nil {
		// The file may be in place although its directory was not synced. A
		// commit that may not last is none.
		_ = s.fs.Remove(s.d.Identity())
		return err
	}
	return nil
}

// move makes the staged files state-<n>, durably. The new name is synced before
// the loss of the old one, so that there is always one of them.
func (s *Stage) move(n uint64) error {
	to := s.d.State(n)
	if err := s.fs.Rename(s.dir(), to); err != nil {
		return failure("install seed", to, err)
	}
	for _, dir := range []string{s.d.Path(), s.d.Staging()} {
		if err := datadir.SyncDir(s.fs, dir); err != nil {
			return err
		}
	}
	return nil
}

// InstallState verifies the seed and makes it state-<n> of the member in the
// directory, durably; the member goes on with its own state until its log is
// reset to the new one. A state-<n> left by an attempt that went no further is
// replaced; one that is in use is fault.InUse. The caller sees to it that n is
// not the member's current state. The stage is closed unless the seed was found
// damaged.
func (s *Stage) InstallState(ctx context.Context, n uint64) error {
	const op = "install state"
	if !s.member || n == 0 {
		return fault.Newf(fault.Usage, op, "state-%d of a directory without a member", n).At(s.d.Path())
	}
	id, err := s.d.ReadIdentity()
	if err != nil {
		return err
	}
	if !id.Cluster.Same(s.m.Cluster) {
		return fault.Newf(fault.Refused, op, "the seed is of another cluster").At(s.d.Path())
	}
	if err := s.Verify(ctx); err != nil {
		return err
	}
	if err := s.clearState(n); err != nil {
		return err
	}
	if err := s.move(n); err != nil {
		return s.breakWith(err)
	}
	// It describes state-1, and no state from now on.
	if err := removeAll(s.fs, s.d.Manifest()); err != nil {
		return s.breakWith(err)
	}
	if err := s.d.RemoveStaging(); err != nil {
		return s.breakWith(err)
	}
	return s.Close()
}

// clearState removes state-<n> unless somebody has it open.
func (s *Stage) clearState(n uint64) error {
	dir := s.d.State(n)
	if there, err := exists(s.fs, dir); err != nil || !there {
		return err
	}
	lock, err := s.fs.Lock(s.fs.PathJoin(dir, lockName))
	if err != nil {
		return fault.New(fault.InUse, "install state", err).At(dir)
	}
	if err := lock.Close(); err != nil {
		return failure("install state", dir, err)
	}
	return removeAll(s.fs, dir)
}
