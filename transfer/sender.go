package transfer

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/mem"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// MinRate is the lowest rate limit in bytes per second; a lower one is raised
// to it, because a peer takes a side that sends nothing for long for dead.
const MinRate = 256 << 10

// newLimiter gives a limiter for bytes per second; 0 or less is no limit.
func newLimiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	bytesPerSecond = max(bytesPerSecond, MinRate)
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(bytesPerSecond/4, chunkSize)))
}

// waitBytes takes n bytes from the limiters, in bursts.
func waitBytes(ctx context.Context, limiters []*rate.Limiter, n int) error {
	for _, l := range limiters {
		for rest := n; l != nil && rest > 0; {
			k := min(rest, l.Burst())
			if err := l.WaitN(ctx, k); err != nil {
				return err
			}
			rest -= k
		}
	}
	return nil
}

// sender turns ranges of a seed into frames.
type sender struct {
	ctx  context.Context
	send func(*chainfirev1.GetSnapshotResponse, mem.Buffer) error // blocks while the peer does not take it
	// sendFile sends a chunk from a file, in the place of send; nil where that is
	// not possible.
	sendFile func(c *chainfirev1.FrameChunk, fd uintptr, offset int64, n int) error
	alive    func() error // of the lease, asked before every chunk
	seed     Seed
	layout   *layout
	codec    *chunk.Codec
	pool     *bufferPool
	limiters []*rate.Limiter
	pace     *Pace // may be nil
	choice   *chooser
	sent     func(raw, wire int) // after each chunk

	broken            bool // send failed
	chunks, raw, wire uint64
}

// run sends a stream, and an error frame if that fails for another reason than
// the line.
func (s *sender) run(stream func() error) error {
	err := stream()
	if err != nil && !s.broken {
		_ = s.frame(errorFrame(err)) // the stream's status says the same
	}
	return err
}

// ranges sends a whole stream: begin, what is asked for, end.
func (s *sender) ranges(ranges []Range) error {
	s.chunks, s.raw = 0, 0
	if err := s.frame(beginFrame(s.layout.root)); err != nil {
		return err
	}
	for _, r := range ranges {
		for i := r.First; i < r.First+r.Count; i++ {
			if err := s.fileChunk(r.File, i); err != nil {
				return err
			}
		}
		if err := s.frame(fileEndFrame(uint32(r.File), s.layout.Files[r.File].Digest)); err != nil {
			return err
		}
	}
	return s.frame(endFrame(s.chunks, s.raw))
}

// manifest sends the stream that carries the manifest.
func (s *sender) manifest() error {
	if err := s.frame(beginFrame(s.layout.root)); err != nil {
		return err
	}
	for i, piece := range chunk.Split(s.layout.encoded, chunkSize) {
		if err := s.chunk(ManifestFile, i, piece, mem.SliceBuffer(piece)); err != nil {
			return err
		}
	}
	if err := s.frame(fileEndFrame(ManifestFile, s.layout.root)); err != nil {
		return err
	}
	return s.frame(endFrame(s.chunks, s.raw))
}

func (s *sender) frame(f *chainfirev1.GetSnapshotResponse) error {
	err := s.send(f, nil)
	if err != nil {
		s.broken = true
	}
	return err
}

func (s *sender) fileChunk(file, index int) error {
	if err := s.alive(); err != nil {
		return err
	}
	size := s.layout.rawSize(file, index)
	if err := s.pace.Wait(s.ctx, size); err != nil {
		return err
	}
	if s.sendFile != nil {
		if sent, err := s.unread(file, index, size); sent || err != nil {
			return err
		}
	}
	buf := s.pool.Get(size)
	data, err := s.seed.ReadChunk(s.ctx, file, index, *buf)
	if err != nil {
		s.pool.Put(buf)
		return err
	}
	if len(data) != size {
		s.pool.Put(buf)
		return fault.Newf(fault.Corrupt, "read seed", "chunk %d of %s has %d bytes, want %d", index, s.layout.Files[file].Name, len(data), size)
	}
	if size > 0 && &data[0] != &(*buf)[0] {
		copy(*buf, data)
	}
	payload := mem.NewBuffer(buf, s.pool)
	defer payload.Free()
	return s.chunk(uint32(file), index, payload.ReadOnlyData(), payload)
}

// unread sends a chunk as it lies in its file, unseen: the target compares it
// with the manifest, and asks for it to be checked here if it differs. It gives
// false when the chunk is to be read.
func (s *sender) unread(file, index, size int) (sent bool, err error) {
	seed, ok := s.seed.(FileSeed)
	if !ok || size == 0 || !s.choice.plain(uint32(file)) {
		return false, nil
	}
	f, offset, err := seed.OpenChunk(file, index)
	if f == nil || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := &chainfirev1.FrameChunk{Seed: seedID(s.layout.root), File: uint32(file), Index: uint32(index), RawSize: uint32(size),
		Xxh3: s.layout.Files[file].Chunks[index]}
	return true, s.dispatch(size, size, func() error { return s.sendFile(c, f.Fd(), offset, size) })
}

// chunk sends one chunk; raw lies in payload, which stays the caller's.
func (s *sender) chunk(file uint32, index int, raw []byte, payload mem.Buffer) error {
	c := &chainfirev1.FrameChunk{Seed: seedID(s.layout.root), File: file, Index: uint32(index), RawSize: uint32(len(raw))}
	if int64(file) < int64(len(s.layout.Files)) {
		c.Xxh3 = s.layout.Files[file].Chunks[index]
	} else { // the manifest, or records
		c.Xxh3 = chunk.Sum(raw)
	}
	if with := s.choice.next(s.codec, file, raw); with != chunk.None {
		buf := s.pool.Get(bufferSize)
		packed, used := s.codec.Compress(*buf, raw, with)
		if used != chunk.None {
			if len(packed) <= cap(*buf) && &packed[0] == &(*buf)[0] {
				*buf = packed
				payload = mem.NewBuffer(buf, s.pool)
			} else {
				s.pool.Put(buf)
				payload = mem.SliceBuffer(packed)
			}
			defer payload.Free()
		} else {
			s.pool.Put(buf)
		}
		c.Compression = uint32(used)
	}
	c.Data = payload.ReadOnlyData()
	f := &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Chunk{Chunk: c}}
	return s.dispatch(len(raw), payload.Len(), func() error { return s.send(f, payload) })
}

// dispatch sends a chunk when the limits allow it, and counts it. A limit is no
// slow line: who slows a seed down for its neighbours is not to pay with a
// processor.
func (s *sender) dispatch(raw, wire int, send func() error) error {
	if err := waitBytes(s.ctx, s.limiters, wire); err != nil {
		return err
	}
	start := time.Now()
	if err := send(); err != nil {
		s.broken = true
		return err
	}
	s.choice.sent(wire, time.Since(start))
	s.chunks++
	s.raw += uint64(raw)
	s.wire += uint64(wire)
	if s.sent != nil {
		s.sent(raw, wire)
	}
	return nil
}
