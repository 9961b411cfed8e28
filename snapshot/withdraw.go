package snapshot

import (
	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Withdraw takes back a seed that was installed but never admitted: the
// directory holds no node from then on, its files are staged, and OpenStage
// shares them with a newer seed. The caller holds the directory's lock, runs no
// node in it and knows that the cluster never made a member of it: its vote and
// its log are lost. What else lies in staging/ stays. A crash on the way leaves
// the node, or none; running it again is fine.
func Withdraw(d *datadir.Dir) error {
	fs := d.FS()
	encoded, err := readBounded(fs, d.Manifest(), manifest.MaxBytes)
	if err != nil {
		return err
	}
	for _, path := range []string{d.Seeds(), fs.PathJoin(d.Staging(), stagedFiles), fs.PathJoin(d.Staging(), stagedPrevious)} {
		if err := removeAll(fs, path); err != nil {
			return err
		}
	}
	if err := datadir.MkdirAllSynced(fs, d.Staging()); err != nil {
		return err
	}
	// The manifest tells later which file is which; without one they are known
	// by name.
	if len(encoded) > 0 {
		if err := datadir.WriteFileSynced(fs, fs.PathJoin(d.Staging(), stagedManifest), encoded); err != nil {
			return err
		}
	}
	// The removal of seeds/ must not be lost after that of the identity was
	// kept: without one the directory must hold nothing unknown.
	if err := datadir.SyncDir(fs, d.Path()); err != nil {
		return err
	}
	if err := removeAll(fs, d.Identity()); err != nil {
		return err
	}
	return datadir.SyncDir(fs, d.Path())
}
