package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// frameVersion is the version of the frame format.
const frameVersion = 1

func beginFrame(root [32]byte) *chainfirev1.GetSnapshotResponse {
	return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Begin{
		Begin: &chainfirev1.FrameBegin{Version: frameVersion, ManifestRoot: slices.Clone(root[:])}}}
}

func fileEndFrame(file uint32, digest [32]byte) *chainfirev1.GetSnapshotResponse {
	return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_FileEnd{
		FileEnd: &chainfirev1.FrameFileEnd{File: file, Digest: slices.Clone(digest[:])}}}
}

func endFrame(chunks, rawBytes uint64) *chainfirev1.GetSnapshotResponse {
	return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_End{
		End: &chainfirev1.FrameEnd{Chunks: chunks, RawBytes: rawBytes}}}
}

func errorFrame(err error) *chainfirev1.GetSnapshotResponse {
	code := fault.CodeOf(err)
	if code == fault.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		code = fault.Unreachable // the source is stopping, or ends this stream
	}
	return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Error{
		Error: &chainfirev1.FrameError{Code: string(code), Message: err.Error(), Hint: fault.HintOf(err)}}}
}

// frameFault turns an error frame into the error it stands for. A class that
// this program does not know becomes fault.Internal.
func frameFault(e *chainfirev1.FrameError) error {
	code := fault.Code(e.GetCode())
	if !slices.Contains(fault.Codes(), code) {
		code = fault.Internal
	}
	return &fault.Error{Code: code, Op: "source", Hint: e.GetHint(), Err: errors.New(e.GetMessage())}
}

// damaged is an error about bytes that are not what they should be; at says
// which chunk the reader stood at.
type damaged struct {
	at  chunkID
	err error
}

type chunkID struct{ file, index int }

func (d *damaged) Error() string { return d.err.Error() }
func (d *damaged) Unwrap() error { return d.err }

// frameReader checks a stream of frames against what was asked for. It holds
// the state between frames; the caller reads them.
type frameReader struct {
	layout *layout // nil while what travels is no file of the seed
	file   uint32  // then its number: of the manifest, or of records
	root   [32]byte
	ranges []Range

	begun, ended bool
	at           int // range
	done         int // chunks of it
	chunks, raw  uint64

	// onChunk takes a chunk as it came; its data is valid during the call.
	onChunk  func(id chunkID, c *chainfirev1.FrameChunk) error
	fileDone bool // without a layout: its file end came
}

// position is the chunk that comes next, or file -1.
func (r *frameReader) position() chunkID {
	if r.at < len(r.ranges) {
		rg := r.ranges[r.at]
		return chunkID{rg.File, rg.First + r.done}
	}
	return chunkID{file: -1}
}

// rest is what was asked for and did not come, the chunk being read included.
func (r *frameReader) rest() []Range {
	if r.at >= len(r.ranges) {
		return nil
	}
	first := r.ranges[r.at]
	first.First += r.done
	first.Count -= r.done
	out := slices.Clone(r.ranges[r.at+1:])
	if first.Count > 0 || r.done == 0 {
		out = append([]Range{first}, out...)
	}
	return out
}

func (r *frameReader) bad(format string, args ...any) error {
	return &damaged{at: r.position(), err: fault.New(fault.Corrupt, "read seed stream", fmt.Errorf(format, args...))}
}

// next takes one frame. An error ends the stream: that of an error frame, of
// onChunk, or a *damaged one.
func (r *frameReader) next(f *chainfirev1.GetSnapshotResponse) error {
	if r.ended {
		return r.bad("a frame after the end")
	}
	switch k := f.GetFrame().(type) {
	case *chainfirev1.GetSnapshotResponse_Begin:
		return r.begin(k.Begin)
	case *chainfirev1.GetSnapshotResponse_Error:
		return frameFault(k.Error)
	case *chainfirev1.GetSnapshotResponse_Chunk:
		return r.chunk(k.Chunk)
	case *chainfirev1.GetSnapshotResponse_FileEnd:
		return r.fileEnd(k.FileEnd)
	case *chainfirev1.GetSnapshotResponse_End:
		return r.end(k.End)
	}
	return r.bad("a frame of unknown kind")
}

func (r *frameReader) begin(b *chainfirev1.FrameBegin) error {
	switch {
	case r.begun:
		return r.bad("a second begin frame")
	case b.GetVersion() != frameVersion:
		return fault.Newf(fault.Refused, "read seed stream", "frame format version %d, this program reads %d",
			b.GetVersion(), frameVersion).WithHint("bring both members to the same version of cfseed")
	case string(b.GetManifestRoot()) != string(r.root[:]):
		return r.bad("the stream is of another seed")
	}
	r.begun = true
	return nil
}

func (r *frameReader) chunk(c *chainfirev1.FrameChunk) error {
	if !r.begun {
		return r.bad("a chunk before the begin frame")
	}
	if c.GetSeed() != seedID(r.root) {
		return r.bad("a chunk of another seed: %016x, want %016x", c.GetSeed(), seedID(r.root))
	}
	if r.layout == nil {
		if c.GetFile() != r.file || r.fileDone {
			return r.bad("a chunk of file %d, want %d", c.GetFile(), r.file)
		}
		r.chunks++
		r.raw += uint64(c.GetRawSize())
		return r.onChunk(chunkID{int(r.file), int(c.GetIndex())}, c)
	}
	want := r.position()
	if want.file < 0 || r.done >= r.ranges[r.at].Count {
		return r.bad("a chunk that was not asked for: file %d, index %d", c.GetFile(), c.GetIndex())
	}
	if uint64(c.GetFile()) != uint64(want.file) || uint64(c.GetIndex()) != uint64(want.index) {
		return r.bad("chunk %d of file %d instead of chunk %d of file %d", c.GetIndex(), c.GetFile(), want.index, want.file)
	}
	if raw := r.layout.rawSize(want.file, want.index); int64(c.GetRawSize()) != int64(raw) {
		return r.bad("chunk %d of file %d claims %d bytes, want %d", want.index, want.file, c.GetRawSize(), raw)
	}
	if c.GetCompression() > uint32(chunk.S2) {
		return r.bad("chunk %d of file %d: unknown compression %d", want.index, want.file, c.GetCompression())
	}
	if sum := r.layout.Files[want.file].Chunks[want.index]; c.GetXxh3() != sum {
		return r.bad("chunk %d of file %d carries sum %016x, want %016x", want.index, want.file, c.GetXxh3(), sum)
	}
	if err := r.onChunk(want, c); err != nil {
		return err
	}
	r.done++
	r.chunks++
	r.raw += uint64(c.GetRawSize())
	return nil
}

func (r *frameReader) fileEnd(e *chainfirev1.FrameFileEnd) error {
	if !r.begun {
		return r.bad("a file end before the begin frame")
	}
	if r.layout == nil {
		if e.GetFile() != r.file || string(e.GetDigest()) != string(r.root[:]) || r.fileDone {
			return r.bad("a wrong end of file %d", r.file)
		}
		r.fileDone = true
		return nil
	}
	if r.at >= len(r.ranges) || r.done != r.ranges[r.at].Count || uint64(e.GetFile()) != uint64(r.ranges[r.at].File) {
		return r.bad("the end of file %d comes too early", e.GetFile())
	}
	if digest := r.layout.Files[e.GetFile()].Digest; string(e.GetDigest()) != string(digest[:]) {
		return r.bad("file %d ends with another digest than its manifest says", e.GetFile())
	}
	r.at, r.done = r.at+1, 0
	return nil
}

func (r *frameReader) end(e *chainfirev1.FrameEnd) error {
	complete := r.begun && r.at == len(r.ranges) && (r.layout != nil || r.fileDone)
	if !complete {
		return r.bad("the end comes too early")
	}
	if e.GetChunks() != r.chunks || e.GetRawBytes() != r.raw {
		return r.bad("the end says %d chunks of %d bytes, %d of %d came", e.GetChunks(), e.GetRawBytes(), r.chunks, r.raw)
	}
	r.ended = true
	return nil
}
