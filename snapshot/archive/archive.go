package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Version is the format written; a newer one is refused.
const Version = 1

// TrailerSize is the number of bytes of the hash at the end.
const TrailerSize = sha256.Size

const (
	magic      = "CFSEEDAR"
	headerSize = 16
	blockSize  = 512
)

// Source is what an archive is written from: a snapshot.Seed.
type Source interface {
	Manifest() *manifest.Manifest
	ManifestBytes() []byte
	ReadChunk(ctx context.Context, file, index int, buf []byte) ([]byte, error)
}

// Size is the length of an archive in bytes, its trailer included.
func Size(src Source) int64 {
	n := contentSize(src.Manifest(), len(src.ManifestBytes()))
	return n + padding(n) + TrailerSize
}

func contentSize(m *manifest.Manifest, encoded int) int64 {
	return headerSize + int64(encoded) + int64(m.TotalBytes())
}

// padding is the number of zeros after n bytes.
func padding(n int64) int64 { return (blockSize - n%blockSize) % blockSize }

// Write writes an archive. The slices given to w are valid during its call.
func Write(ctx context.Context, w io.Writer, src Source) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	encoded, m := src.ManifestBytes(), src.Manifest()
	head := append(make([]byte, 0, headerSize), magic...)
	head = binary.LittleEndian.AppendUint16(head, Version)
	head = binary.LittleEndian.AppendUint16(head, 0)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(encoded)))
	for _, b := range [][]byte{head, encoded} {
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	buf := make([]byte, m.ChunkSize)
	for file := range m.Files {
		for index := range m.Files[file].Chunks {
			data, err := src.ReadChunk(ctx, file, index, buf)
			if err != nil {
				return err
			}
			if _, err := out.Write(data); err != nil {
				return err
			}
		}
	}
	if _, err := out.Write(make([]byte, padding(contentSize(m, len(encoded))))); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// Reader reads an archive from its beginning to its end.
type Reader struct {
	r       io.Reader
	sum     hash.Hash
	m       *manifest.Manifest
	encoded []byte
	file    int
	index   int
	buf     []byte
	err     error // ends it; io.EOF after a good end
}

// Open reads the head of an archive and its manifest. No more memory is taken
// than the stream has bytes, within the bounds of a manifest and a chunk.
// fault.Corrupt: it is no archive or a damaged one. fault.Refused: of a newer
// format, or a snapshot of etcd's own.
func Open(r io.Reader) (*Reader, error) {
	a := &Reader{sum: sha256.New()}
	a.r = io.TeeReader(r, a.sum)
	var head [headerSize]byte
	if _, err := io.ReadFull(a.r, head[:]); err != nil {
		return nil, cut(err)
	}
	if string(head[:8]) != magic {
		if isBolt(a.r) {
			return nil, fault.Newf(fault.Refused, op, "this is a database of etcd, not an archive of a seed").
				WithHint("restore it into an etcd, and copy its keys from there with `etcdctl make-mirror`")
		}
		return nil, corrupt("this is not an archive of a seed")
	}
	if v := binary.LittleEndian.Uint16(head[8:]); v > Version {
		return nil, fault.Newf(fault.Refused, op, "format version %d, this program reads up to %d", v, Version).
			WithHint("upgrade cfseed on this machine")
	} else if v == 0 || binary.LittleEndian.Uint16(head[10:]) != 0 {
		return nil, corrupt("malformed head")
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n > manifest.MaxBytes {
		return nil, corrupt("a manifest of %d bytes, at most %d", n, manifest.MaxBytes)
	}
	var encoded bytes.Buffer
	if _, err := io.CopyN(&encoded, a.r, int64(n)); err != nil {
		return nil, cut(err)
	}
	a.encoded = encoded.Bytes()
	var err error
	if a.m, err = manifest.Unmarshal(a.encoded); err != nil {
		return nil, err
	}
	return a, nil
}

// isBolt reports whether what follows the first 16 bytes is the magic number of
// bbolt, of whose files etcd's snapshots are: 0xED0CDAED, in the meta of page 0
// after a page's head (bbolt, internal/common/page.go and meta.go).
func isBolt(afterHead io.Reader) bool {
	var magic [4]byte
	_, err := io.ReadFull(afterHead, magic[:])
	return err == nil && binary.LittleEndian.Uint32(magic[:]) == 0xED0CDAED
}

// Manifest describes the seed. It must not be changed.
func (a *Reader) Manifest() *manifest.Manifest { return a.m }

// ManifestBytes is the manifest's encoding. It must not be changed.
func (a *Reader) ManifestBytes() []byte { return a.encoded }

// Next gives the next chunk, in the order of the manifest, with its place, both
// counted from 0; data is valid until the next call. io.EOF says that all was
// read and the hash is right.
func (a *Reader) Next() (file, index int, data []byte, err error) {
	if a.err != nil {
		return 0, 0, nil, a.err
	}
	for a.file < len(a.m.Files) && a.index == len(a.m.Files[a.file].Chunks) {
		a.file, a.index = a.file+1, 0
	}
	if a.file == len(a.m.Files) {
		if a.err = a.finish(); a.err == nil {
			a.err = io.EOF
		}
		return 0, 0, nil, a.err
	}
	entry := &a.m.Files[a.file]
	_, length := chunk.Bounds(entry.Size, a.m.ChunkSize, uint64(a.index))
	if cap(a.buf) < length {
		a.buf = make([]byte, length)
	}
	data = a.buf[:length]
	if _, err := io.ReadFull(a.r, data); err != nil {
		a.err = cut(err)
		return 0, 0, nil, a.err
	}
	if chunk.Sum(data) != entry.Chunks[a.index] {
		a.err = corrupt("chunk %d of %s is not that of the manifest", a.index, entry.Name)
		return 0, 0, nil, a.err
	}
	file, index = a.file, a.index
	a.index++
	return file, index, data, nil
}

// Check reads what is left, to the end. nil says that all of it is right.
func (a *Reader) Check(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fault.New(fault.Interrupted, op, err)
		}
		if _, _, _, err := a.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// finish reads what is after the files.
func (a *Reader) finish() error {
	zeros := make([]byte, padding(contentSize(a.m, len(a.encoded))))
	if _, err := io.ReadFull(a.r, zeros); err != nil {
		return cut(err)
	}
	if !bytes.Equal(zeros, make([]byte, len(zeros))) {
		return corrupt("something stands between the files and the hash")
	}
	want := a.sum.Sum(nil)
	var got [TrailerSize + 1]byte
	n, err := io.ReadFull(a.r, got[:])
	switch {
	case err == nil:
		return corrupt("it goes on after its hash")
	case !errors.Is(err, io.ErrUnexpectedEOF) || n != TrailerSize:
		return cut(err)
	case !bytes.Equal(got[:n], want):
		return corrupt("the hash does not match")
	}
	return nil
}

const op = "read archive"

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, op, format, args...).WithHint("make the archive anew, or use another copy of it")
}

// cut is the error of a stream that ended too early, or that can not be read.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("it ends too early")
	}
	return fault.New(fault.CodeOf(err), op, err)
}
