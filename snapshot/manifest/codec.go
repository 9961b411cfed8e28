package manifest

import (
	"encoding/binary"
	"math"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Offsets and sizes of the encoding; part of the format.
const (
	magic      = "CFSEEDMF"
	headerSize = 104
	fileFixed  = 1 + 1 + 8 + 32 // of a file's entry, without name and sums
	sumSize    = 8
)

// Marshal gives the encoding of a valid manifest.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m.encode(), nil
}

func (m *Manifest) encodedSize() uint64 {
	n := uint64(headerSize + sumSize)
	n += 8 * uint64(len(m.ConfState.Voters)+len(m.ConfState.Learners))
	for i := range m.Files {
		f := &m.Files[i]
		n += fileFixed + uint64(len(f.Name)) + 8*uint64(len(f.Chunks))
	}
	return n
}

func (m *Manifest) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, m.encodedSize())
	b = append(b, magic...)
	b = le.AppendUint16(b, m.Version)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, m.ChunkSize)
	b = le.AppendUint64(b, m.Cluster.ID)
	b = append(b, m.Cluster.Genesis[:]...)
	b = le.AppendUint64(b, m.Position.Term)
	b = le.AppendUint64(b, m.Position.Index)
	b = le.AppendUint64(b, uint64(m.Revision))
	b = append(b, m.StateDigest[:]...)
	b = le.AppendUint64(b, m.FormatMajorVersion)
	b = le.AppendUint32(b, m.SchemaVersion)
	b = le.AppendUint32(b, uint32(len(m.ConfState.Voters)))
	b = le.AppendUint32(b, uint32(len(m.ConfState.Learners)))
	b = le.AppendUint32(b, uint32(len(m.Files)))
	for _, id := range m.ConfState.Voters {
		b = le.AppendUint64(b, id)
	}
	for _, id := range m.ConfState.Learners {
		b = le.AppendUint64(b, id)
	}
	for i := range m.Files {
		b = appendFile(b, &m.Files[i])
	}
	return le.AppendUint64(b, xxh3.Hash(b))
}

func appendFile(b []byte, f *File) []byte {
	le := binary.LittleEndian
	b = append(b, byte(f.Kind), byte(len(f.Name)))
	b = append(b, f.Name...)
	b = le.AppendUint64(b, f.Size)
	b = append(b, f.Digest[:]...)
	for _, sum := range f.Chunks {
		b = le.AppendUint64(b, sum)
	}
	return b
}

func corrupt(format string, args ...any) *fault.Error {
	return fault.Newf(fault.Corrupt, "manifest", format, args...)
}

// Unmarshal reads and validates a manifest; nothing of encoded is kept. A
// format newer than Version is fault.Refused, anything else wrong
// fault.Corrupt. No more memory is allocated than a few times len(encoded).
func Unmarshal(encoded []byte) (*Manifest, error) {
	le := binary.LittleEndian
	if len(encoded) > MaxBytes {
		return nil, corrupt("%d bytes, at most %d", len(encoded), MaxBytes)
	}
	if len(encoded) < headerSize+sumSize {
		return nil, corrupt("%d bytes are too few", len(encoded))
	}
	if string(encoded[:8]) != magic {
		return nil, corrupt("this is not a manifest")
	}
	if v := le.Uint16(encoded[8:]); v > Version {
		return nil, fault.Newf(fault.Refused, "manifest", "format version %d, this program reads up to %d", v, Version).
			WithHint("upgrade cfseed on this machine")
	}
	body := encoded[:len(encoded)-sumSize]
	if xxh3.Hash(body) != le.Uint64(encoded[len(body):]) {
		return nil, corrupt("checksum does not match")
	}
	m, err := decode(body)
	if err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func decode(body []byte) (*Manifest, error) {
	le := binary.LittleEndian
	if le.Uint16(body[10:]) != 0 {
		return nil, corrupt("reserved bytes are not 0")
	}
	m := &Manifest{
		Version:            le.Uint16(body[8:]),
		ChunkSize:          le.Uint32(body[12:]),
		Cluster:            ident.Cluster{ID: le.Uint64(body[16:]), Genesis: ident.Nonce(body[24:40])},
		Position:           ident.Position{Term: le.Uint64(body[40:]), Index: le.Uint64(body[48:])},
		Revision:           int64(le.Uint64(body[56:])),
		StateDigest:        [16]byte(body[64:80]),
		FormatMajorVersion: le.Uint64(body[80:]),
		SchemaVersion:      le.Uint32(body[88:]),
	}
	if err := m.checkChunkSize(); err != nil {
		return nil, err // sizes can not be read without it
	}
	voters, learners, files := le.Uint32(body[92:]), le.Uint32(body[96:]), le.Uint32(body[100:])
	if voters > MaxMembers || learners > MaxMembers || files > MaxFiles {
		return nil, corrupt("%d voters, %d learners, %d files are too many", voters, learners, files)
	}
	r := reader{rest: body[headerSize:]}
	m.ConfState = ConfState{Voters: r.uint64s(uint64(voters)), Learners: r.uint64s(uint64(learners))}
	if uint64(files)*fileFixed > uint64(len(r.rest)) {
		return nil, corrupt("%d files do not fit into %d bytes", files, len(r.rest))
	}
	m.Files = make([]File, files)
	for i := range m.Files {
		r.file(&m.Files[i], m.ChunkSize)
	}
	if r.short {
		return nil, corrupt("it ends too early")
	}
	if len(r.rest) != 0 {
		return nil, corrupt("%d bytes too many", len(r.rest))
	}
	return m, nil
}

// reader takes fields from rest. Once rest was too short for one, all that
// follow are zero and short stays set.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.short || n > uint64(len(r.rest)) {
		r.short = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint64s(n uint64) []uint64 {
	if n > math.MaxInt/8 {
		r.short = true
		return nil
	}
	b := r.bytes(8 * n)
	if len(b) == 0 {
		return nil
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return out
}

func (r *reader) file(f *File, chunkSize uint32) {
	head := r.bytes(2)
	if head == nil {
		return
	}
	f.Kind = Kind(head[0])
	f.Name = string(r.bytes(uint64(head[1])))
	fixed := r.bytes(8 + 32)
	if fixed == nil {
		return
	}
	f.Size = binary.LittleEndian.Uint64(fixed)
	f.Digest = [32]byte(fixed[8:])
	f.Chunks = r.uint64s(chunk.Count(f.Size, chunkSize))
}
