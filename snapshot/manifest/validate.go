package manifest

import (
	"fmt"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Validate checks exactly these properties; its error is fault.Corrupt and
// gives the property's number.
//
//  1. Version is 1.
//  2. ChunkSize is a power of two from 4 KiB to 4 MiB.
//  3. The cluster's ID and genesis nonce are known.
//  4. Position is that of an entry: term and index are not 0.
//  5. There is a voter; voters and learners ascend, without 0, nobody in both,
//     at most 4096 of each.
//  6. Revision is not negative; format and schema versions are not 0.
//  7. There are at most 100,000 files; names ascend bytewise, so each is unique.
//  8. Every name is spelled as the engine spells names of its kind: one path
//     element, no other case or number of digits, at most 64 bytes.
//  9. There is one MANIFEST, one OPTIONS, one manifest marker, which names that
//     MANIFEST, and one format-version marker, which says FormatMajorVersion.
//  10. Markers are empty, other files are not.
//  11. All files together have at most 2^46 bytes.
//  12. Every file has as many chunk sums as its size needs.
//  13. Every file's digest is that of its size and chunk sums.
//  14. The encoding has at most 64 MiB.
func (m *Manifest) Validate() error {
	for _, check := range []func() error{
		m.checkHeader, m.checkMembers, m.checkNames, m.checkEngineFiles, m.checkSizes,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func property(number int, format string, args ...any) error {
	return corrupt("property %d: %s", number, fmt.Sprintf(format, args...))
}

func (m *Manifest) checkChunkSize() error {
	if c := m.ChunkSize; c < chunk.MinSize || c > chunk.MaxSize || c&(c-1) != 0 {
		return property(2, "chunk size %d", c)
	}
	return nil
}

func (m *Manifest) checkHeader() error {
	if m.Version != Version {
		return property(1, "version %d", m.Version)
	}
	if err := m.checkChunkSize(); err != nil {
		return err
	}
	if m.Cluster.ID == 0 || m.Cluster.Genesis.IsZero() {
		return property(3, "cluster %x/%s", m.Cluster.ID, m.Cluster.Genesis)
	}
	if m.Position.Term == 0 || m.Position.Index == 0 {
		return property(4, "position %s", m.Position)
	}
	if m.Revision < 0 || m.FormatMajorVersion == 0 || m.SchemaVersion == 0 {
		return property(6, "revision %d, format %d, schema %d", m.Revision, m.FormatMajorVersion, m.SchemaVersion)
	}
	return nil
}

func (m *Manifest) checkMembers() error {
	voters, learners := m.ConfState.Voters, m.ConfState.Learners
	if len(voters) == 0 || len(voters) > MaxMembers || len(learners) > MaxMembers {
		return property(5, "%d voters, %d learners", len(voters), len(learners))
	}
	for _, ids := range [][]uint64{voters, learners} {
		var last uint64
		for _, id := range ids {
			if id <= last {
				return property(5, "member %x after %x", id, last)
			}
			last = id
		}
	}
	for i, j := 0, 0; i < len(voters) && j < len(learners); {
		switch {
		case voters[i] == learners[j]:
			return property(5, "member %x is voter and learner", voters[i])
		case voters[i] < learners[j]:
			i++
		default:
			j++
		}
	}
	return nil
}

func (m *Manifest) checkNames() error {
	if len(m.Files) > MaxFiles {
		return property(7, "%d files", len(m.Files))
	}
	last := ""
	for i := range m.Files {
		f := &m.Files[i]
		if kind, ok := KindOf(f.Name); !ok || kind != f.Kind {
			return property(8, "%.80q as a file of kind %s", f.Name, f.Kind)
		}
		if f.Name <= last {
			return property(7, "%q after %q", f.Name, last)
		}
		last = f.Name
	}
	return nil
}

func (m *Manifest) checkEngineFiles() error {
	var versions, options, manifestMarkers, formatMarkers int
	var versionsName, markedName string
	for i := range m.Files {
		f := &m.Files[i]
		switch f.Kind {
		case KindVersions:
			versions++
			versionsName = f.Name
		case KindOptions:
			options++
		case KindMarker:
			name, value, _ := parseMarker(f.Name)
			if name == markerVersions {
				manifestMarkers++
				markedName = value
				continue
			}
			formatMarkers++
			if v, _ := formatVersion(value); v != m.FormatMajorVersion {
				return property(9, "%s, but format %d", f.Name, m.FormatMajorVersion)
			}
		}
	}
	if versions != 1 || options != 1 || manifestMarkers != 1 || formatMarkers != 1 {
		return property(9, "%d MANIFEST, %d OPTIONS, %d manifest and %d format-version markers",
			versions, options, manifestMarkers, formatMarkers)
	}
	if versionsName != markedName {
		return property(9, "the marker names %s, the file is %s", markedName, versionsName)
	}
	return nil
}

func (m *Manifest) checkSizes() error {
	var total uint64
	for i := range m.Files {
		f := &m.Files[i]
		if (f.Size == 0) != (f.Kind == KindMarker) {
			return property(10, "%s has %d bytes", f.Name, f.Size)
		}
		if f.Size > MaxTotal-total {
			return property(11, "%s has %d bytes after %d", f.Name, f.Size, total)
		}
		total += f.Size
		if uint64(len(f.Chunks)) != chunk.Count(f.Size, m.ChunkSize) {
			return property(12, "%s has %d bytes in %d chunks", f.Name, f.Size, len(f.Chunks))
		}
	}
	if n := m.encodedSize(); n > MaxBytes {
		return property(14, "encoding of %d bytes", n)
	}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Digest != FileDigest(f.Size, f.Chunks) {
			return property(13, "digest of %s", f.Name)
		}
	}
	return nil
}
