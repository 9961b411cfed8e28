package transfer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/span"
)

const (
	// SpanFile is the file number under which lists and answers about spans travel.
	SpanFile = 0xfffffffe

	spanPiece = 128 << 10 // raw bytes of one chunk of them
	spanTurn  = 1 << 20   // bytes of records that are read between two looks at lease and pace
	maxStarts = 1 << 10   // of the lists of one request
)

// ListSpans streams digests of the records of a seed that OpenSeed prepared.
func (s *Server) ListSpans(req *chainfirev1.ListSpansRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_ListSpans_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	return rpcfault.ToStatus(s.serveSpans(ctx, req, stream, func(it span.Iterator, out *spanStream) error {
		return listSpans(it, req, out)
	}))
}

// DiffSpans streams what a target lacks of the records of a seed.
func (s *Server) DiffSpans(req *chainfirev1.DiffSpansRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_DiffSpans_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	return rpcfault.ToStatus(s.serveSpans(ctx, req, stream, func(it span.Iterator, out *spanStream) error {
		return diffSpans(it, req.GetRequest(), out)
	}))
}

// spansRequest is what both requests have.
type spansRequest interface {
	GetLeaseId() uint64
	GetManifestRoot() []byte
	GetCompression() string
	GetRateLimit() uint64
}

// serveSpans is serve for records instead of files.
func (s *Server) serveSpans(ctx context.Context, req spansRequest, stream grpc.ServerStream, fn func(span.Iterator, *spanStream) error) error {
	root, err := rootFrom(req.GetManifestRoot())
	if err != nil {
		return fault.New(fault.Usage, "compare records", err)
	}
	choice, err := newChooser(req.GetCompression())
	if err != nil {
		return err
	}
	if choice.auto != nil { // what travels is small beside what had to be read for it
		choice = &chooser{fixed: chunk.Zstd}
	}
	sess, err := s.use(req.GetLeaseId(), root, int64(min(req.GetRateLimit(), 1<<62)))
	if err != nil {
		return err
	}
	if err := s.alive(sess); err != nil {
		s.unuse(sess)
		return err
	}
	idle := newIdleTimer(s.cfg.Conns.of(stream.Context()))
	snd := s.newSender(ctx, sess, choice)
	snd.sent = nil // no chunk of a file
	snd.send = func(m *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
		idle.touch()
		defer idle.pause()
		return stream.SendMsg(&outFrame{GetSnapshotResponse: m, payload: payload})
	}
	idle.pause()
	start := time.Now()
	err = s.guarded(ctx, idle, sess, func() error {
		return snd.run(func() (err error) {
			it, done, err := sess.records.iterate(sess.seed)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			return snd.spans(func(out *spanStream) error { return fn(it, out) })
		})
	})
	s.cfg.Logger.Info("records compared", "lease", ident.FormatID(sess.lease.ID), "target", sess.lease.Target,
		"seconds", time.Since(start).Seconds(), "bytes", snd.wire, "result", result(err))
	return err
}

// recordBox holds the records of a session's seed open between calls.
type recordBox struct {
	mu     sync.Mutex
	reader span.Reader // nil: not open
	users  int
}

// iterate gives an iterator, and what ends its use.
func (b *recordBox) iterate(seed Seed) (span.Iterator, func() error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		r, err := seed.OpenRecords()
		if err != nil {
			return nil, nil, err
		}
		b.reader = r
	}
	it, err := b.reader.Iterate()
	if err != nil {
		return nil, nil, err
	}
	b.users++
	return it, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.users--
		return it.Close()
	}, nil
}

// close closes the records unless they are read; they open again by themselves.
func (b *recordBox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader != nil && b.users == 0 {
		_ = b.reader.Close() // only read
		b.reader = nil
	}
}

// spans sends a stream of bytes about spans: begin, what fn writes, end.
func (s *sender) spans(fn func(*spanStream) error) error {
	if err := s.frame(beginFrame(s.layout.root)); err != nil {
		return err
	}
	out := &spanStream{s: s}
	if err := fn(out); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	if err := s.frame(fileEndFrame(SpanFile, s.layout.root)); err != nil {
		return err
	}
	return s.frame(endFrame(s.chunks, s.raw))
}

// spanStream cuts what is written to it into chunks.
type spanStream struct {
	s     *sender
	index int
	buf   []byte
	read  uint64 // bytes of records since the last turn
}

// add takes more of the stream in buf, which it was given before, and notes the
// bytes of records that were read for it.
func (o *spanStream) add(buf []byte, read uint64) error {
	o.buf = buf
	if o.read += read; o.read >= spanTurn {
		if err := o.s.alive(); err != nil {
			return err
		}
		if err := o.s.pace.Wait(o.s.ctx, int(min(o.read, 1<<30))); err != nil {
			return err
		}
		o.read = 0
	}
	rest := o.buf
	for len(rest) >= spanPiece {
		if err := o.piece(rest[:spanPiece]); err != nil {
			return err
		}
		rest = rest[spanPiece:]
	}
	o.buf = append(o.buf[:0], rest...)
	return o.s.ctx.Err()
}

func (o *spanStream) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	return o.piece(o.buf)
}

func (o *spanStream) piece(b []byte) error {
	if err := o.s.alive(); err != nil {
		return err
	}
	buf := o.s.pool.Get(len(b))
	copy(*buf, b) // the line may still hold it when the next one is made
	payload := mem.NewBuffer(buf, o.s.pool)
	defer payload.Free()
	o.index++
	return o.s.chunk(SpanFile, o.index-1, payload.ReadOnlyData(), payload)
}

func listSpans(it span.Iterator, req *chainfirev1.ListSpansRequest, out *spanStream) error {
	starts, limit := req.GetAfter(), int(req.GetSpans())
	if len(starts) > maxStarts {
		return fault.Newf(fault.Usage, "list spans", "%d lists, at most %d", len(starts), maxStarts)
	}
	if len(starts) == 0 {
		starts = [][]byte{nil}
	}
	walk := span.NewWalk(it)
	var before []byte
	for _, after := range starts {
		walk.SeekAfter(after)
		for n := 0; limit == 0 || n < limit; n++ {
			s, err := walk.Cut()
			if err != nil {
				return err
			}
			if err := out.add(s.Append(out.buf, before), s.Bytes); err != nil {
				return err
			}
			if before = s.End; len(before) == 0 {
				break
			}
		}
	}
	return nil
}

func diffSpans(it span.Iterator, request []byte, out *spanStream) error {
	answerer := span.NewAnswerer(it)
	return span.ReadRequest(request, func(w span.Wanted) error {
		buf, read, err := answerer.Append(out.buf, w)
		if err != nil {
			return err
		}
		return out.add(buf, read)
	})
}
