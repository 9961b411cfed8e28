package transfer

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/span"
)

// Delta may make a seed in another way than from its files: from a state that
// the target has, and the records in which the source's differs.
type Delta interface {
	// Build is called once a source has opened the seed and the stage is open,
	// before files are fetched; again when a source failed. built: the state is
	// there, whole and proven, and no file is fetched. An error that src gave is
	// dealt with as any of a source; any other ends the pull.
	Build(ctx context.Context, src *SpanSource) (built bool, err error)
}

// SpanSource is the seed of a Pull as its source can compare it, record by
// record. It is for one goroutine, and only during Delta.Build.
type SpanSource struct {
	r       *round
	limiter *rate.Limiter // of what goes to the source
	failed  error         // the last error of the source
}

// Manifest is that of the seed; not to be changed.
func (s *SpanSource) Manifest() *manifest.Manifest { return s.r.layout.Manifest }

// Missing is how many bytes of the seed's files are not staged.
func (s *SpanSource) Missing() uint64 {
	var n uint64
	for _, m := range s.r.stage.Missing() {
		if s.r.layout.checkRange(m) == nil {
			n += s.r.layout.rangeBytes(m)
		}
	}
	return n
}

// Wire is how many bytes the pull has moved so far, both ways.
func (s *SpanSource) Wire() uint64 { return s.r.report.get().BytesWire }

// Stored says that so many bytes more of the seed are done.
func (s *SpanSource) Stored(n int) { s.r.report.stored(n) }

// List gives the source's spans: all, or up to spans of them after each of some
// keys (at most 1024), one list behind the other. What fn gets is valid during
// the call; its error ends the list.
func (s *SpanSource) List(ctx context.Context, after [][]byte, spans int, fn func(span.Span) error) error {
	var list span.ListReader
	var own error
	err := s.stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error) {
		return s.r.client.ListSpans(ctx, &chainfirev1.ListSpansRequest{LeaseId: s.r.meta.LeaseID, ManifestRoot: s.r.layout.root[:],
			Compression: s.r.cfg.Compression, RateLimit: uint64(max(s.r.cfg.RateLimit, 0)), After: after, Spans: uint32(spans)},
			callOptions(s.r.raw)...)
	}, func(piece []byte) error {
		return list.Feed(piece, func(sp span.Span) error {
			own = fn(sp)
			return own
		})
	})
	if err == nil && !list.Whole() {
		err = fault.Newf(fault.Corrupt, "list spans", "the list ends within a span")
	}
	return s.fail(err, own)
}

// Diff asks about spans and gives the answer span by span; compare orders keys.
// What fn gets is valid during the call; its error ends the answer.
func (s *SpanSource) Diff(ctx context.Context, req *span.Request, compare func(a, b []byte) int, fn func(span.Change) error) error {
	if err := waitBytes(ctx, []*rate.Limiter{s.limiter}, len(req.Encoded())); err != nil {
		return s.fail(err, err)
	}
	s.r.report.wire(len(req.Encoded()))
	answer := span.NewAnswerReader(req, compare)
	var own error
	err := s.stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error) {
		return s.r.client.DiffSpans(ctx, &chainfirev1.DiffSpansRequest{LeaseId: s.r.meta.LeaseID, ManifestRoot: s.r.layout.root[:],
			Compression: s.r.cfg.Compression, RateLimit: uint64(max(s.r.cfg.RateLimit, 0)), Request: req.Encoded()}, callOptions(s.r.raw)...)
	}, func(piece []byte) error {
		return answer.Feed(piece, func(c span.Change) error {
			own = fn(c)
			return own
		})
	})
	if err == nil && !answer.Whole() {
		err = fault.Newf(fault.Corrupt, "compare records", "the answer is not about all that was asked")
	}
	return s.fail(err, own)
}

// fail remembers an error of the source; own is one of the caller's.
func (s *SpanSource) fail(err, own error) error {
	if err != nil && own == nil {
		s.failed = err
	}
	return err
}

// A line is measured for so long, of which the second half counts: TCP begins
// slowly.
const (
	lineTime = 1500 * time.Millisecond
	lineMost = 64 // chunks
)

// Line fetches missing chunks of files for a moment, which are stored, and gives
// the bytes per second that came, packed; 0 when the line is too fast to tell.
func (s *SpanSource) Line(ctx context.Context) (float64, error) {
	missing := s.r.stage.Missing()
	if len(missing) == 0 {
		return 0, nil
	}
	var ranges []Range
	for i, left := 0, lineMost; i < len(missing) && left > 0; i++ {
		m := missing[i]
		if err := s.r.layout.checkRange(m); err != nil {
			return 0, err
		}
		m.Count = min(m.Count, left)
		left -= m.Count
		ranges = append(ranges, m)
	}
	s.r.idle.touch()
	defer s.r.idle.pause()
	var half atomic.Uint64
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, lineTime, errLineMeasured)
	defer cancel()
	timer := time.AfterFunc(lineTime/2, func() { half.Store(s.r.counter.n.Load()) })
	defer timer.Stop()
	fr := &frameReader{layout: s.r.layout, root: s.r.layout.root, ranges: ranges}
	fr.onChunk = func(id chunkID, c *chainfirev1.FrameChunk) error {
		_, err := s.r.in.put(id, c) // what came damaged is asked for again later
		return err
	}
	err := s.r.stream(ctx, s.r.getSnapshot(&chainfirev1.GetSnapshotRequest{LeaseId: s.r.meta.LeaseID, ManifestRoot: s.r.layout.root[:],
		Ranges: rangesProto(ranges), Compression: s.r.cfg.Compression, RateLimit: uint64(max(s.r.cfg.RateLimit, 0))}), fr)
	if err != nil && !errors.Is(context.Cause(ctx), errLineMeasured) {
		return 0, s.fail(err, nil)
	}
	at, spent := half.Load(), time.Since(began)-lineTime/2
	if at == 0 || spent < lineTime/8 {
		return 0, nil
	}
	return float64(s.r.counter.n.Load()-at) / spent.Seconds(), nil
}

var errLineMeasured = errors.New("the line is measured")

// stream runs one call to its end frame and passes its bytes on.
func (s *SpanSource) stream(ctx context.Context, open openStream, take func(piece []byte) error) error {
	s.r.idle.touch()
	defer s.r.idle.pause() // what the caller does with it is not the source's turn
	in := &spanIntake{codec: s.r.codec, take: take}
	fr := &frameReader{root: s.r.layout.root, file: SpanFile}
	fr.onChunk = func(_ chunkID, c *chainfirev1.FrameChunk) error {
		s.r.report.wire(len(c.GetData()))
		return in.put(c)
	}
	return s.r.stream(ctx, open, fr)
}

// spanIntake unpacks chunks that make one stream of bytes.
type spanIntake struct {
	codec *chunk.Codec
	take  func(piece []byte) error
	next  uint32
	buf   []byte
}

func (in *spanIntake) put(c *chainfirev1.FrameChunk) error {
	const op = "read spans"
	if c.GetFile() != SpanFile || c.GetIndex() != in.next || c.GetRawSize() == 0 || c.GetRawSize() > spanPiece {
		return fault.Newf(fault.Corrupt, op, "chunk %d of file %d with %d bytes does not fit", c.GetIndex(), c.GetFile(), c.GetRawSize())
	}
	if in.buf == nil {
		in.buf = make([]byte, spanPiece)
	}
	raw, err := in.codec.Decompress(in.buf, c.GetData(), chunk.Compression(min(c.GetCompression(), 255)), int(c.GetRawSize()))
	if err != nil {
		return err
	}
	if chunk.Sum(raw) != c.GetXxh3() {
		return fault.Newf(fault.Corrupt, op, "checksum of chunk %d does not match", c.GetIndex())
	}
	in.next++
	return in.take(raw)
}

// build lets the caller's Delta make the seed.
func (r *round) build(ctx context.Context) (built bool, err error) {
	if r.cfg.Delta == nil {
		return false, nil
	}
	src := &SpanSource{r: r, limiter: newLimiter(r.cfg.RateLimit)}
	r.idle.pause() // it may read a large state before it asks
	built, err = r.cfg.Delta.Build(ctx, src)
	r.idle.touch()
	if err != nil && src.failed == nil && ctx.Err() == nil {
		err = &localError{err}
	}
	r.result.Built = built && err == nil
	return r.result.Built, err
}
