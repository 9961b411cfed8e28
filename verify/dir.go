package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
)

// verifier is one run of Dir. What a check could read is there for the later
// ones; nil means it could not be read.
type verifier struct {
	fs     vfs.FS
	dir    *datadir.Dir
	o      Options
	report *Report
	found  int

	identity *datadir.Identity
	manifest *seedManifest
	log      *raftlog.Info // nil when the log has findings
	stateDir string
	store    *store.Store
	view     *store.View
	engines  []*engine
	broken   bool // a store could not be opened below
}

// Dir judges the data directory of a stopped member and changes nothing in it.
// The report holds what is wrong; an error means that there is nothing to
// judge or that it could not be done: fault.InUse for a running member,
// fault.Refused where there is no member or a newer program wrote it. Dir holds
// the member's lock meanwhile.
func Dir(ctx context.Context, fs vfs.FS, dataDir string, o Options) (report *Report, err error) {
	ro := readOnlyFS{fs}
	v := &verifier{fs: ro, dir: datadir.At(ro, dataDir), o: o.withDefaults(), report: &Report{}}
	if err := v.isMember(); err != nil {
		return nil, err
	}
	unlock, err := lock(fs, dataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.close(), unlock()) }()
	err = v.perform(ctx, []step{
		{"identity", v.checkIdentity},
		{"seed_manifest", v.seedManifest},
		{"raft_log", v.raftLog},
		{"state", v.openState},
		{"applied", v.applied},
		{"members", v.members},
		{"leases", v.leases},
		{"users", v.users},
		{"alarms", v.alarms},
		{"block_checksums", v.blockChecksums},
		{"levels", v.levels},
		{"digest", v.digest},
	})
	if err != nil {
		return nil, err
	}
	return v.report, nil
}

// isMember refuses a directory that holds no member.
func (v *verifier) isMember() error {
	class, err := v.dir.Classify()
	if err != nil {
		return err
	}
	const op = "verify"
	switch class {
	case datadir.Complete:
		return nil
	case datadir.Staged:
		return fault.Newf(fault.Refused, op, "the directory holds an unfinished seed").At(v.dir.Path()).
			WithHint("finish it by running the same cfseed pull again")
	case datadir.Empty, datadir.Foreign:
	}
	return fault.Newf(fault.Refused, op, "the directory holds no member").At(v.dir.Path())
}

// lock keeps a member from starting meanwhile, and finds a running one. A
// directory without a lock file was never started, and one on a read-only file
// system can not be.
func lock(fs vfs.FS, dataDir string) (unlock func() error, err error) {
	free := func() error { return nil }
	if _, err := fs.Stat(fs.PathJoin(dataDir, lockName)); errors.Is(err, os.ErrNotExist) {
		return free, nil
	}
	held, err := datadir.At(fs, dataDir).Lock()
	switch {
	case errors.Is(err, syscall.EROFS), fault.Is(err, fault.Permission):
		return free, nil
	case err != nil:
		return nil, err
	}
	return held.Close, nil
}

// lockName is the lock file of a data directory.
const lockName = "LOCK"

func (v *verifier) close() error {
	var errs []error
	for _, e := range v.engines {
		errs = append(errs, e.close())
	}
	if v.view != nil {
		errs = append(errs, v.view.Close())
	}
	if v.store != nil {
		_, err := guarded(func() (struct{}, error) { return struct{}{}, v.store.Close() })
		errs = append(errs, err)
	}
	if v.found > 0 {
		return nil // the findings say why closing failed
	}
	return errors.Join(errs...)
}

func (v *verifier) checkIdentity(context.Context) (string, error) {
	id, err := v.dir.ReadIdentity()
	switch {
	case damage(err):
		v.find(fault.Corrupt, v.dir.Identity(), "%v", err)
		return "", nil
	case err != nil:
		return "", err
	}
	v.identity, v.report.Cluster = &id, id.Cluster
	detail := fmt.Sprintf("member %016x of cluster %016x", id.MemberID, id.Cluster.ID)
	if id.MemberID == 0 {
		detail = fmt.Sprintf("a seed of cluster %016x, not yet a member", id.Cluster.ID)
	}
	if err := v.dir.CheckInode(id); err != nil {
		detail += "; the directory was moved or copied"
	}
	return detail, nil
}
