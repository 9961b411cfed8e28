// Package manifest is the document that lists what a snapshot consists of: its
// position, the configuration and digest of its state, and every file with the
// sums of its chunks. It is pure, and enough for resume, delta and archives.
//
// # Format, version 1
//
// All numbers are little endian. The encoding is canonical: a manifest has one
// encoding, and only that one is accepted.
//
//	offset  bytes  field
//	0       8      magic "CFSEEDMF"
//	8       2      version, 1
//	10      2      reserved, 0
//	12      4      chunk size in bytes
//	16      8      cluster ID
//	24      16     genesis nonce
//	40      8      position: term
//	48      8      position: index
//	56      8      revision
//	64      16     state digest
//	80      8      Pebble format major version
//	88      4      schema version of the state
//	92      4      v, number of voters
//	96      4      l, number of learners
//	100     4      f, number of files
//	104     8v     voter IDs, ascending
//	...     8l     learner IDs, ascending
//	...            f files, by name ascending:
//	        1        kind
//	        1        n, length of the name
//	        n        name
//	        8        size s in bytes
//	        32       digest
//	        8c       sums of its c = ceil(s / chunk size) chunks
//	...     8      xxh3-64 of all bytes before
//
// The sum of a chunk is xxh3-64 of its bytes. The digest of a file is BLAKE3
// over its size (8 bytes) and its chunk sums (8 bytes each): equal digests mean
// equal files, under whatever name. The root is BLAKE3 over the whole encoding
// and is the ID of the seed.
package manifest

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"github.com/chainfire/cfseed/internal/ident"
)

// Version is the format version written here. Another one is refused.
const Version = 1

// Limits, part of the format: a manifest beyond them is neither written nor
// accepted.
const (
	MaxBytes   = 64 << 20 // of an encoded manifest
	MaxFiles   = 100_000
	MaxMembers = 4096    // voters, and learners
	MaxName    = 64      // bytes of a file name
	MaxTotal   = 1 << 46 // bytes of all files together
)

// Manifest describes one snapshot. Validate says what makes it a valid one.
type Manifest struct {
	Version            uint16
	Cluster            ident.Cluster
	Position           ident.Position // of the last entry applied to the state
	ConfState          ConfState      // of the Raft group at Position
	Revision           int64          // of the key space
	StateDigest        [16]byte
	FormatMajorVersion uint64 // of the storage engine
	SchemaVersion      uint32 // of the tables
	ChunkSize          uint32 // bytes
	Files              []File // by name
}

// ConfState is a simple Raft configuration; IDs ascend.
type ConfState struct {
	Voters, Learners []uint64
}

// File describes one file of the snapshot.
type File struct {
	Kind   Kind
	Name   string
	Size   uint64 // bytes
	Digest [32]byte
	Chunks []uint64 // sum of each chunk
}

// FileDigest is the digest of a file of size bytes with these chunk sums.
func FileDigest(size uint64, sums []uint64) [32]byte {
	h := blake3.New()
	var buf [4096]byte
	b := binary.LittleEndian.AppendUint64(buf[:0], size)
	for _, sum := range sums {
		if len(b)+8 > len(buf) {
			_, _ = h.Write(b) // a hash does not fail
			b = buf[:0]
		}
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	_, _ = h.Write(b)
	var out [32]byte
	h.Sum(out[:0])
	return out
}

// RootOf is the root of a manifest given by its encoding.
func RootOf(encoded []byte) [32]byte { return blake3.Sum256(encoded) }

// Root is the digest of the manifest's encoding: the ID of the seed.
func (m *Manifest) Root() [32]byte { return RootOf(m.encode()) }

// TotalBytes is the size of all files together.
func (m *Manifest) TotalBytes() uint64 {
	var n uint64
	for i := range m.Files {
		n += m.Files[i].Size
	}
	return n
}

// TotalChunks is the number of chunks of all files together.
func (m *Manifest) TotalChunks() uint64 {
	var n uint64
	for i := range m.Files {
		n += uint64(len(m.Files[i].Chunks))
	}
	return n
}
