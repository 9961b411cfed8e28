package verify

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/ident"
)

// This is a second reader of the seed manifest, format version 1, written from
// its byte table (all numbers little endian):
//
//	0    8   "CFSEEDMF"              80   8   Pebble format
//	8    2   version                 88   4   schema version
//	10   2   0                       92   4   v voters
//	12   4   chunk size              96   4   l learners
//	16   8   cluster ID              100  4   f files
//	24   16  genesis nonce           104  8v  voters, ascending
//	40   8   term                         8l  learners, ascending
//	48   8   index                        ..  f files
//	56   8   revision                     8   xxh3-64 of all before
//	64   16  state digest
//
// A file: kind 1, n 1, name n, size 8, digest 32, chunk sums 8 each. The digest
// of a file is BLAKE3 over size and sums, the root BLAKE3 over everything.
const (
	manifestMagic   = "CFSEEDMF"
	manifestVersion = 1
	manifestFixed   = 104
	manifestMax     = 64 << 20
	manifestFiles   = 100_000
	manifestMembers = 4096
	chunkMin        = 1 << 12
	chunkMax        = 4 << 20
	kindTable       = 1
	kindBlob        = 2
)

type seedManifest struct {
	cluster          ident.Cluster
	position         ident.Position
	revision         int64
	digest           [16]byte
	chunkSize        uint64
	voters, learners []uint64
	files            []seedFile
	root             [32]byte
}

type seedFile struct {
	kind   byte
	name   string
	size   uint64
	digest [32]byte
	sums   []uint64
}

// immutable reports whether the engine never changes the file once written.
func (f *seedFile) immutable() bool { return f.kind == kindTable || f.kind == kindBlob }

// parseManifest reads an encoded manifest. Nothing of b is kept.
func parseManifest(b []byte) (*seedManifest, error) {
	le := binary.LittleEndian
	switch {
	case len(b) > manifestMax:
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), manifestMax)
	case len(b) < manifestFixed+8:
		return nil, fmt.Errorf("%d bytes are no manifest", len(b))
	case string(b[:8]) != manifestMagic:
		return nil, errors.New("magic differs")
	case le.Uint16(b[8:]) != manifestVersion:
		return nil, fmt.Errorf("format version %d, want %d", le.Uint16(b[8:]), manifestVersion)
	}
	body, sum := b[:len(b)-8], le.Uint64(b[len(b)-8:])
	if xxh3.Hash(body) != sum {
		return nil, errors.New("checksum differs")
	}
	m := &seedManifest{
		cluster:   ident.Cluster{ID: le.Uint64(b[16:]), Genesis: ident.Nonce(b[24:40])},
		position:  ident.Position{Term: le.Uint64(b[40:]), Index: le.Uint64(b[48:])},
		revision:  int64(le.Uint64(b[56:])),
		digest:    [16]byte(b[64:80]),
		chunkSize: uint64(le.Uint32(b[12:])),
		root:      blake3.Sum256(b),
	}
	if m.chunkSize < chunkMin || m.chunkSize > chunkMax || m.chunkSize&(m.chunkSize-1) != 0 {
		return nil, fmt.Errorf("chunk size %d", m.chunkSize)
	}
	voters, learners, files := le.Uint32(b[92:]), le.Uint32(b[96:]), le.Uint32(b[100:])
	if voters > manifestMembers || learners > manifestMembers || files > manifestFiles {
		return nil, fmt.Errorf("%d voters, %d learners, %d files", voters, learners, files)
	}
	c := &cut{rest: body[manifestFixed:]}
	m.voters, m.learners = c.numbers(uint64(voters)), c.numbers(uint64(learners))
	for range files {
		m.files = append(m.files, c.file(m.chunkSize))
		if c.short {
			break
		}
	}
	if c.short || len(c.rest) != 0 {
		return nil, errors.New("its parts do not add up to its length")
	}
	return m, m.checkFiles()
}

// checkFiles checks what a reader relies on: names that stay in the directory
// and ascend, digests that are those of the sums.
func (m *seedManifest) checkFiles() error {
	last := ""
	for i := range m.files {
		f := &m.files[i]
		for _, r := range f.name {
			if r != '.' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
				return fmt.Errorf("file name %q", f.name)
			}
		}
		if f.name <= last || f.name[0] == '.' {
			return fmt.Errorf("file name %q after %q", f.name, last)
		}
		last = f.name
		if sumOf(f.size, f.sums) != f.digest {
			return fmt.Errorf("digest of %s is not that of its chunks", f.name)
		}
	}
	return nil
}

// sumOf is the digest of a file.
func sumOf(size uint64, sums []uint64) (out [32]byte) {
	h := blake3.New()
	b := binary.LittleEndian.AppendUint64(nil, size)
	for _, s := range sums {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	_, _ = h.Write(b) // a hash does not fail
	h.Sum(out[:0])
	return out
}

// cut takes fields off rest; short stays set once rest was too short.
type cut struct {
	rest  []byte
	short bool
}

func (c *cut) take(n uint64) []byte {
	if c.short || n > uint64(len(c.rest)) {
		c.short = true
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cut) numbers(n uint64) []uint64 {
	if n > uint64(len(c.rest))/8 {
		c.short = true
		return nil
	}
	b := c.take(8 * n)
	out := make([]uint64, 0, n)
	for ; len(b) >= 8; b = b[8:] {
		out = append(out, binary.LittleEndian.Uint64(b))
	}
	return out
}

func (c *cut) file(chunkSize uint64) seedFile {
	head := c.take(2)
	if head == nil {
		return seedFile{}
	}
	f := seedFile{kind: head[0], name: string(c.take(uint64(head[1])))}
	fixed := c.take(8 + 32)
	if fixed == nil {
		return seedFile{}
	}
	f.size = binary.LittleEndian.Uint64(fixed)
	f.digest = [32]byte(fixed[8:])
	n := f.size / chunkSize
	if f.size%chunkSize != 0 {
		n++
	}
	f.sums = c.numbers(n)
	return f
}
