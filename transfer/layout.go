package transfer

import (
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

const (
	chunkSize  = chunk.Size              // of the manifest's own chunks
	bufferSize = chunkSize + chunkSize/4 // of pooled buffers; has room for what S2 may add

	// ManifestFile is the file number under which a manifest travels.
	ManifestFile = 0xffffffff

	// maxRanges bounds the ranges of one request.
	maxRanges = 1 << 16
)

// Range is a run of chunks of one file: numbers in the manifest. Count 0 stands
// for an empty file.
type Range struct {
	File, First, Count int
}

// layout is a manifest with its bytes and root.
type layout struct {
	*manifest.Manifest
	encoded []byte
	root    [32]byte
}

// newLayout reads a manifest; nothing is allocated beyond a few times its size.
func newLayout(encoded []byte) (*layout, error) {
	m, err := manifest.Unmarshal(encoded)
	if err != nil {
		return nil, err
	}
	return &layout{Manifest: m, encoded: encoded, root: manifest.RootOf(encoded)}, nil
}

func (l *layout) meta(lease Lease) Meta {
	return Meta{Cluster: l.Cluster, Position: l.Position, Root: l.root, Revision: l.Revision,
		BytesTotal: l.TotalBytes(), Files: uint64(len(l.Files)), ManifestBytes: uint64(len(l.encoded)),
		LeaseID: lease.ID, LeaseTTL: lease.TTL, SourceID: lease.SourceID}
}

// rawSize is the size in bytes of a chunk that exists.
func (l *layout) rawSize(file, index int) int {
	_, n := chunk.Bounds(l.Files[file].Size, l.ChunkSize, uint64(index))
	return n
}

func (l *layout) rangeBytes(r Range) uint64 {
	var n uint64
	if r.Count > 0 {
		last := r.First + r.Count - 1
		n = uint64(r.Count-1)*uint64(l.ChunkSize) + uint64(l.rawSize(r.File, last))
	}
	return n
}

// checkRange says whether r lies within the manifest.
func (l *layout) checkRange(r Range) error {
	if r.File < 0 || r.File >= len(l.Files) {
		return fault.Newf(fault.Usage, "check range", "file %d of %d", r.File, len(l.Files))
	}
	have := len(l.Files[r.File].Chunks)
	if r.First < 0 || r.Count < 0 || r.First > have || r.Count > have-r.First || (r.Count == 0 && have > 0) {
		return fault.Newf(fault.Usage, "check range", "chunks %d+%d of file %d, which has %d", r.First, r.Count, r.File, have)
	}
	return nil
}

// rangesFrom reads the ranges of a request, each within the manifest.
func (l *layout) rangesFrom(in []*chainfirev1.FileRange) ([]Range, error) {
	if len(in) > maxRanges {
		return nil, fault.Newf(fault.Usage, "check ranges", "%d ranges, at most %d", len(in), maxRanges)
	}
	out := make([]Range, 0, len(in))
	for _, p := range in {
		if p.GetFile() >= uint32(len(l.Files)) {
			return nil, fault.Newf(fault.Usage, "check ranges", "file %d of %d", p.GetFile(), len(l.Files))
		}
		r := Range{File: int(p.GetFile()), First: int(p.GetFirstChunk()), Count: int(p.GetChunks())}
		if r.Count == 0 {
			r.Count = max(len(l.Files[r.File].Chunks)-r.First, 0)
		}
		if err := l.checkRange(r); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func rangesProto(in []Range) []*chainfirev1.FileRange {
	out := make([]*chainfirev1.FileRange, 0, len(in))
	for _, r := range in {
		out = append(out, &chainfirev1.FileRange{File: uint32(r.File), FirstChunk: uint32(r.First), Chunks: uint32(r.Count)})
	}
	return out
}
