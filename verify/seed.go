package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
)

// seedManifest checks the manifest of the seed this directory was installed
// from, and every file of the seed that the engine has not rewritten since.
func (v *verifier) seedManifest(ctx context.Context) (string, error) {
	path := v.dir.Manifest()
	raw, err := readFile(v.fs, path, manifestMax)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", errSkip("the state did not come from a seed, or was replaced by a Raft snapshot")
	case err != nil:
		return "", err
	}
	m, err := parseManifest(raw)
	if err != nil {
		v.find(fault.Corrupt, path, "%v", err)
		return "", nil
	}
	v.manifest = m
	if id := v.identity; id != nil {
		if id.Seed == nil || id.Seed.ManifestRoot != m.root || id.Seed.Position != m.position {
			v.find(fault.Different, path, "it is not the manifest that the identity file names")
		}
		if !id.Cluster.Same(m.cluster) {
			v.find(fault.Different, path, "it is of cluster %016x", m.cluster.ID)
		}
	}
	return v.seedFiles(ctx, m)
}

// seedFiles compares the seed's files in state-1 with the manifest.
func (v *verifier) seedFiles(ctx context.Context, m *seedManifest) (string, error) {
	dir := v.dir.State(1)
	var same, gone int
	for i := range m.files {
		f := &m.files[i]
		if !f.immutable() {
			continue
		}
		detail, err := v.seedFile(ctx, dir, m, f)
		switch {
		case errors.Is(err, os.ErrNotExist):
			gone++
		case err != nil:
			return "", err
		case detail != "":
			v.find(fault.Corrupt, v.fs.PathJoin(dir, f.name), "%s", detail)
		default:
			same++
		}
	}
	what := "byte for byte"
	if v.o.Quick {
		what = "by size"
	}
	return fmt.Sprintf("seed at %s: %d tables equal %s, %d compacted away since", m.position, same, what, gone), nil
}

// seedFile says what is wrong with one file.
func (v *verifier) seedFile(ctx context.Context, dir string, m *seedManifest, want *seedFile) (detail string, err error) {
	f, err := v.fs.Open(v.fs.PathJoin(dir, want.name))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if uint64(info.Size()) != want.size {
		return fmt.Sprintf("%d bytes, the seed had %d", info.Size(), want.size), nil
	}
	if v.o.Quick {
		return "", nil
	}
	buf := make([]byte, m.chunkSize)
	for i, sum := range want.sums {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		chunk := buf[:min(m.chunkSize, want.size-uint64(i)*m.chunkSize)]
		if _, err := io.ReadFull(f, chunk); err != nil {
			return "", err
		}
		if xxh3.Hash(chunk) != sum {
			return fmt.Sprintf("bytes from %d on are not those of the seed", uint64(i)*m.chunkSize), nil
		}
	}
	return "", nil
}

// readFile reads a whole file of at most limit bytes; of a larger one it gives
// limit+1 bytes.
func readFile(fs vfs.FS, path string, limit int64) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	return b, errors.Join(err, f.Close())
}
