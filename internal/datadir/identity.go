package datadir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Constants of the identity file; part of the format.
const (
	identityMagic   = "CFSEEDID"
	identityVersion = 1
	headerSize      = len(identityMagic) + 2 + 4
	sumSize         = 32
	maxPayload      = 2048
	maxName         = 1024
	fixedSize       = 8 + 16 + 8 + 16 + 8 + 2 + 1 // payload without name and seed
	seedSize        = 8 + 8 + 32 + 8 + 1
)

// Identity says who the member in a data directory is. The zero value is not
// useful.
type Identity struct {
	Cluster   ident.Cluster
	MemberID  uint64      // 0: pulled from an offline source, not reserved yet
	Directory ident.Nonce // tells this directory from a wiped one of the same member
	Inode     uint64      // of the directory; 0: not known
	Name      string      // at most 1024 bytes of UTF-8
	Seed      *SeedRef    // nil: founded with its cluster
}

// SeedRef is the join ticket: the seed a member was installed from.
type SeedRef struct {
	Position     ident.Position
	ManifestRoot [32]byte
	LeaseID      uint64 // 0: none
	Joined       bool   // admitted: the ticket is used up
}

// ReadIdentity reads the identity file. errors.Is(err, os.ErrNotExist) when
// nothing was committed, fault.Corrupt when its bytes are damaged, and
// fault.Refused when a newer version wrote it.
func (d *Dir) ReadIdentity() (Identity, error) {
	const op = "read identity"
	f, err := d.fs.Open(d.Identity())
	if err != nil {
		return Identity{}, fault.New(fault.FileCode(err), op, err).At(d.Identity())
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(headerSize+maxPayload+sumSize+1)))
	if err = errors.Join(err, f.Close()); err != nil {
		return Identity{}, fault.New(fault.FileCode(err), op, err).At(d.Identity())
	}
	id, bad := decodeIdentity(data)
	if bad != nil {
		return Identity{}, bad.At(d.Identity())
	}
	return id, nil
}

// CommitIdentity writes the identity file: the directory holds a node from
// the moment it returns nil. An existing identity is replaced; after a crash
// either the old or the new one is there.
func (d *Dir) CommitIdentity(id Identity) error {
	data, err := encodeIdentity(id)
	if err != nil {
		return fault.New(fault.Usage, "commit identity", err).At(d.Identity())
	}
	return WriteFileSynced(d.fs, d.Identity(), data)
}

// CheckInode refuses a directory that is not the one id was written in
// (fault.Refused): a copy started beside its original would vote twice. It
// accepts where either inode is not known, as in memory.
func (d *Dir) CheckInode(id Identity) error {
	now, err := d.Inode()
	if err != nil {
		return err
	}
	if id.Inode == 0 || now == 0 || id.Inode == now {
		return nil
	}
	return fault.Newf(fault.Refused, "open data directory",
		"it is not the directory the member was installed in (inode %d, recorded %d)", now, id.Inode).At(d.path).
		WithHint("if the directory was moved and the original is gone, start once with --accept-moved-data-dir; " +
			"a second copy of a running member must never start")
}

// Inode gives the inode of the directory, 0 where the file system has none.
func (d *Dir) Inode() (uint64, error) {
	info, err := d.fs.Stat(d.path)
	if err != nil {
		return 0, fault.New(fault.FileCode(err), "stat data directory", err).At(d.path)
	}
	return inodeOf(info), nil
}

func encodeIdentity(id Identity) ([]byte, error) {
	if len(id.Name) > maxName {
		return nil, fmt.Errorf("name of %d bytes, at most %d", len(id.Name), maxName)
	}
	if !utf8.ValidString(id.Name) {
		return nil, errors.New("name is not UTF-8")
	}
	be := binary.BigEndian
	size := fixedSize + len(id.Name)
	if id.Seed != nil {
		size += seedSize
	}
	b := make([]byte, 0, headerSize+size+sumSize)
	b = append(b, identityMagic...)
	b = be.AppendUint16(b, identityVersion)
	b = be.AppendUint32(b, uint32(size))
	b = be.AppendUint64(b, id.Cluster.ID)
	b = append(b, id.Cluster.Genesis[:]...)
	b = be.AppendUint64(b, id.MemberID)
	b = append(b, id.Directory[:]...)
	b = be.AppendUint64(b, id.Inode)
	b = be.AppendUint16(b, uint16(len(id.Name)))
	b = append(b, id.Name...)
	if s := id.Seed; s == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = be.AppendUint64(b, s.Position.Term)
		b = be.AppendUint64(b, s.Position.Index)
		b = append(b, s.ManifestRoot[:]...)
		b = be.AppendUint64(b, s.LeaseID)
		b = append(b, boolByte(s.Joined))
	}
	sum := blake3.Sum256(b)
	return append(b, sum[:]...), nil
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// decodeIdentity reads the whole file. Whatever it accepts, encodeIdentity
// gives back byte for byte.
func decodeIdentity(b []byte) (Identity, *fault.Error) {
	const op = "read identity"
	corrupt := func(format string, args ...any) (Identity, *fault.Error) {
		return Identity{}, fault.Newf(fault.Corrupt, op, format, args...).
			WithHint("restore the file from a copy, or remove the member and seed a new one in an empty directory")
	}
	if len(b) < headerSize+sumSize || len(b) > headerSize+maxPayload+sumSize {
		return corrupt("%d bytes", len(b))
	}
	body, sum := b[:len(b)-sumSize], b[len(b)-sumSize:]
	if want := blake3.Sum256(body); !bytes.Equal(sum, want[:]) {
		return corrupt("checksum mismatch")
	}
	if string(body[:len(identityMagic)]) != identityMagic {
		return corrupt("not an identity file")
	}
	r := reader{b: body[len(identityMagic):]}
	version, length := r.u16(), r.u32()
	if version > identityVersion {
		return Identity{}, fault.Newf(fault.Refused, op, "format version %d, this program knows %d", version, identityVersion).
			WithHint("run the newer program that wrote it")
	}
	if version != identityVersion || int(length) != len(r.b) {
		return corrupt("format version %d, length %d of %d", version, length, len(r.b))
	}
	id := decodePayload(&r)
	switch {
	case r.err != nil:
		return corrupt("%w", r.err)
	case len(r.b) != 0:
		return corrupt("%d bytes after the payload", len(r.b))
	case len(id.Name) > maxName || !utf8.ValidString(id.Name):
		return corrupt("bad name")
	}
	return id, nil
}

func decodePayload(r *reader) Identity {
	var id Identity
	id.Cluster.ID = r.u64()
	r.copy(id.Cluster.Genesis[:])
	id.MemberID = r.u64()
	r.copy(id.Directory[:])
	id.Inode = r.u64()
	id.Name = string(r.take(int(r.u16())))
	if !r.bool() {
		return id
	}
	s := &SeedRef{Position: ident.Position{Term: r.u64(), Index: r.u64()}}
	r.copy(s.ManifestRoot[:])
	s.LeaseID = r.u64()
	s.Joined = r.bool()
	id.Seed = s
	return id
}

// reader takes fields off a slice; after the first shortage all are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = io.ErrUnexpectedEOF
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) copy(dst []byte) { copy(dst, r.take(len(dst))) }

func (r *reader) u16() uint16 {
	var b [2]byte
	r.copy(b[:])
	return binary.BigEndian.Uint16(b[:])
}

func (r *reader) u32() uint32 {
	var b [4]byte
	r.copy(b[:])
	return binary.BigEndian.Uint32(b[:])
}

func (r *reader) u64() uint64 {
	var b [8]byte
	r.copy(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (r *reader) bool() bool {
	var b [1]byte
	r.copy(b[:])
	if b[0] > 1 && r.err == nil {
		r.err = fmt.Errorf("flag of value %d", b[0])
	}
	return b[0] == 1
}
