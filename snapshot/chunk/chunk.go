// Package chunk cuts files into the pieces that a seed travels in, sums them
// and compresses them. It is pure: no files, no network, no clock.
//
// A file of n bytes has ceil(n/size) chunks; every chunk but the last is size
// bytes long and an empty file has none. The sum of a chunk is xxh3-64 of its
// raw bytes: it finds accidents, not forgery.
//
// Compressed chunks stand alone. Their formats, numbered as on the wire:
//
//	0  none  the raw bytes
//	1  zstd  one RFC 8878 frame without dictionary, window at most 8 MiB
//	2  s2    one S2 block (Snappy-compatible header, uvarint raw length)
package chunk

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
)

// Sizes in bytes. A manifest may choose another chunk size within the bounds.
const (
	Size    = 1 << 20
	MinSize = 1 << 12
	MaxSize = 4 << 20
)

// maxWindow bounds what a zstd frame may ask the decoder to keep.
const maxWindow = 8 << 20

// Compression says how the bytes of a chunk are packed. The numbers are part
// of the wire format.
type Compression uint8

// The compressions.
const (
	None Compression = 0
	Zstd Compression = 1
	S2   Compression = 2
)

// String gives the name used by flags: none, zstd or s2.
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Zstd:
		return "zstd"
	case S2:
		return "s2"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// Parse reads what String gives; anything else is a fault.Usage error.
func Parse(name string) (Compression, error) {
	for _, c := range []Compression{None, Zstd, S2} {
		if c.String() == name {
			return c, nil
		}
	}
	return None, fault.Newf(fault.Usage, "compression", "%q is not one of none, zstd, s2", name)
}

// Count is the number of chunks of a file of fileSize bytes cut into chunks of
// size bytes; size must not be 0.
func Count(fileSize uint64, size uint32) uint64 {
	n := fileSize / uint64(size)
	if fileSize%uint64(size) != 0 {
		n++
	}
	return n
}

// Bounds is where chunk i of a file lies: its offset and length in bytes. i
// must be less than Count(fileSize, size).
func Bounds(fileSize uint64, size uint32, i uint64) (offset uint64, length int) {
	offset = i * uint64(size)
	return offset, int(min(uint64(size), fileSize-offset))
}

// Split cuts data into its chunks. They share data's memory.
func Split(data []byte, size uint32) [][]byte {
	out := make([][]byte, 0, Count(uint64(len(data)), size))
	for len(data) > 0 {
		n := min(int(size), len(data))
		out = append(out, data[:n:n])
		data = data[n:]
	}
	return out
}

// Sum is the xxh3-64 of a chunk's raw bytes.
func Sum(raw []byte) uint64 { return xxh3.Hash(raw) }

// Codec compresses and decompresses chunks. Its encoders and decoders are kept
// and used again; it is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec makes a Codec that runs up to parallel zstd operations at a time;
// more wait. It starts no goroutine.
func NewCodec(parallel int) (*Codec, error) {
	parallel = max(parallel, 1)
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(parallel),
		zstd.WithWindowSize(Size),
		zstd.WithEncoderCRC(false), // every chunk has its own sum
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fault.New(fault.Internal, "zstd encoder", err)
	}
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(parallel),
		zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fault.New(fault.Internal, "zstd decoder", err)
	}
	return &Codec{enc: enc, dec: dec}, nil
}

// Close frees the codec's buffers. It must not be used afterwards.
func (c *Codec) Close() {
	_ = c.enc.Close() // nothing is buffered: only whole frames are encoded
	c.dec.Close()
}

// Compress packs raw and gives the packed bytes with the compression really
// used: None, and raw itself, when packing would not make it smaller. The
// result may use dst's memory from its start; dst and raw must not overlap.
func (c *Codec) Compress(dst, raw []byte, with Compression) ([]byte, Compression) {
	var packed []byte
	switch with {
	case Zstd:
		packed = c.enc.EncodeAll(raw, dst[:0])
	case S2:
		packed = s2.Encode(dst[:cap(dst)], raw)
	default:
		return raw, None
	}
	if len(packed) >= len(raw) {
		return raw, None
	}
	return packed, with
}

// Decompress unpacks one chunk whose raw size is known. No more than rawSize
// bytes are allocated or written whatever packed claims; anything but exactly
// rawSize bytes is fault.Corrupt. The result uses dst's memory if that is
// large enough, and packed's for None.
func (c *Codec) Decompress(dst, packed []byte, with Compression, rawSize int) ([]byte, error) {
	const op = "decompress chunk"
	if rawSize < 0 || rawSize > MaxSize {
		return nil, fault.Newf(fault.Corrupt, op, "raw size %d, at most %d", rawSize, MaxSize)
	}
	if with == None {
		if len(packed) != rawSize {
			return nil, fault.Newf(fault.Corrupt, op, "%d bytes, want %d", len(packed), rawSize)
		}
		return packed, nil
	}
	if cap(dst) < rawSize {
		if with == S2 { // before the allocation
			if err := s2Length(packed, rawSize); err != nil {
				return nil, err
			}
		}
		dst = make([]byte, rawSize)
	}
	dst = dst[:rawSize:rawSize]
	var err error
	switch with {
	case Zstd:
		dst, err = c.dec.DecodeAll(packed, dst[:0])
	case S2:
		if err := s2Length(packed, rawSize); err != nil {
			return nil, err
		}
		dst, err = s2.Decode(dst, packed)
	default:
		return nil, fault.Newf(fault.Corrupt, op, "unknown compression %d", uint8(with))
	}
	if err != nil {
		return nil, fault.Newf(fault.Corrupt, op, "%s: %w", with, err)
	}
	if len(dst) != rawSize {
		return nil, fault.Newf(fault.Corrupt, op, "%s: %d bytes, want %d", with, len(dst), rawSize)
	}
	return dst, nil
}

func s2Length(packed []byte, rawSize int) error {
	n, err := s2.DecodedLen(packed)
	if err != nil {
		return fault.Newf(fault.Corrupt, "decompress chunk", "s2: %w", err)
	}
	if n != rawSize {
		return fault.Newf(fault.Corrupt, "decompress chunk", "s2: claims %d bytes, want %d", n, rawSize)
	}
	return nil
}

// What Auto decides by: a ratio of packed to raw bytes, and a rate.
const (
	worthwhile = 0.90      // above, packing is a waste on any line
	zstdRate   = 250 << 20 // raw bytes that zstd packs in a second, about
)

// Auto chooses a compression for what follows from a sample of it (a chunk or
// less) and from the raw bytes per second that the line takes, 0 when sending
// does not wait for the line. Packing pays when the line would take longer for
// the bytes that it saves.
func (c *Codec) Auto(sample []byte, lineRate float64) Compression {
	if len(sample) == 0 || lineRate <= 0 || lineRate >= zstdRate {
		return None
	}
	sample = sample[:min(len(sample), Size)]
	packed, _ := c.Compress(nil, sample, Zstd)
	ratio := float64(len(packed)) / float64(len(sample))
	if ratio <= worthwhile && lineRate < (1-ratio)*zstdRate {
		return Zstd
	}
	return None
}
