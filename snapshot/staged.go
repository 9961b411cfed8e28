package snapshot

import (
	"os"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// StagedRoot names the seed that an earlier attempt has staged in part, so that
// a source can be asked for the same one. ok is false when there is none, or
// none that can be read; OpenStage deals with either.
func StagedRoot(d *datadir.Dir) (root [32]byte, ok bool) {
	path := d.FS().PathJoin(d.Staging(), stagedManifest)
	encoded, err := readBounded(d.FS(), path, manifest.MaxBytes)
	if err != nil || len(encoded) == 0 {
		return root, false
	}
	if _, err := manifest.Unmarshal(encoded); err != nil {
		return root, false
	}
	return manifest.RootOf(encoded), true
}

// InstalledManifest reads the manifest of the seed that the directory's member
// was installed from. os.ErrNotExist when it was not installed from one, or no
// longer has that state.
func InstalledManifest(d *datadir.Dir) (*manifest.Manifest, error) {
	encoded, err := readBounded(d.FS(), d.Manifest(), manifest.MaxBytes)
	if err != nil {
		return nil, err
	}
	if len(encoded) == 0 {
		return nil, fault.New(fault.Refused, "read seed manifest", os.ErrNotExist).At(d.Manifest())
	}
	return manifest.Unmarshal(encoded)
}
