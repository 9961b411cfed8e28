package store

import (
	"encoding/binary"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// sum is a sum of record hashes modulo 2^128.
type sum struct{ hi, lo uint64 }

func (s *sum) add(h xxh3.Uint128) {
	var c uint64
	s.lo, c = bits.Add64(s.lo, h.Lo, 0)
	s.hi, _ = bits.Add64(s.hi, h.Hi, c)
}

func (s *sum) sub(h xxh3.Uint128) {
	var c uint64
	s.lo, c = bits.Sub64(s.lo, h.Lo, 0)
	s.hi, _ = bits.Sub64(s.hi, h.Hi, c)
}

func (s sum) bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return b
}

func sumOf(b [16]byte) sum {
	return sum{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
}

// hashCopyLimit is the record size up to which copying it together is cheaper
// than a streaming hash.
const hashCopyLimit = 16 << 10

// hasher hashes records; it owns a buffer, so it is not for concurrent use.
type hasher struct {
	buf    []byte
	stream *xxh3.Hasher
}

// record hashes one record in the layout of the package comment.
func (h *hasher) record(key, value []byte) xxh3.Uint128 {
	h.buf = binary.LittleEndian.AppendUint32(h.buf[:0], uint32(len(key)))
	h.buf = append(h.buf, key...)
	if len(value) <= hashCopyLimit {
		h.buf = append(h.buf, value...)
		return xxh3.Hash128(h.buf)
	}
	if h.stream == nil {
		h.stream = xxh3.New()
	}
	h.stream.Reset()
	// A Hasher's Write never fails.
	_, _ = h.stream.Write(h.buf)
	_, _ = h.stream.Write(value)
	return h.stream.Sum128()
}
