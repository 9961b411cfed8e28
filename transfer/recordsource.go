package transfer

import (
	"context"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/record"
)

// RecordSource is the source of a Pull as it can be asked for the records of
// tables. It is for one goroutine, and only during the call that it was given to.
type RecordSource struct {
	r       *round
	limiter *rate.Limiter // of what goes to the source
	wire    uint64        // bytes that moved, both ways
	failed  error         // the last error of the source
}

// Describe says which of some tables can be listed; of others nothing else is
// known. The answer is in the order of the files.
func (s *RecordSource) Describe(ctx context.Context, files []int) (_ []record.Table, err error) {
	defer func() { s.failed = err }()
	r := s.r
	r.idle.turn()
	defer r.idle.over()
	out := make([]record.Table, 0, len(files))
	for len(files) > 0 {
		n := min(len(files), maxDescribed)
		req := &chainfirev1.DescribeTablesRequest{LeaseId: r.meta.LeaseID, ManifestRoot: r.layout.root[:]}
		for _, f := range files[:n] {
			req.Files = append(req.Files, uint32(f))
		}
		resp, err := r.client.DescribeTables(ctx, req, grpc.MaxCallRecvMsgSize(maxAnswer))
		if err != nil {
			return nil, peerFault(ctx, "describe tables", err)
		}
		r.idle.touch()
		if len(resp.GetTables()) != n {
			return nil, fault.Newf(fault.Corrupt, "describe tables", "%d tables are described, %d were asked for", len(resp.GetTables()), n)
		}
		for i, p := range resp.GetTables() {
			t, err := describedFrom(p, files[i])
			if err != nil {
				return nil, err
			}
			out = append(out, t)
		}
		files = files[n:]
	}
	return out, nil
}

// List gives the list of a table's records, piece by piece. What fn gets is valid
// during the call; its error ends the list.
func (s *RecordSource) List(ctx context.Context, file int, fn func(piece []byte) error) error {
	r := s.r
	return s.stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error) {
		return r.client.ListRecords(ctx, &chainfirev1.ListRecordsRequest{LeaseId: r.meta.LeaseID, ManifestRoot: r.layout.root[:],
			Compression: r.cfg.Compression, RateLimit: uint64(max(r.cfg.RateLimit, 0)), File: uint32(file)}, callOptions(r.raw)...)
	}, fn)
}

// Pick gives the records of a table that are wanted of its list, piece by piece, as
// List does.
func (s *RecordSource) Pick(ctx context.Context, file int, wanted record.Wanted, fn func(piece []byte) error) error {
	r, asked := s.r, wanted.Encode()
	if err := waitBytes(ctx, []*rate.Limiter{s.limiter}, len(asked)); err != nil {
		return err
	}
	s.moved(len(asked))
	return s.stream(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error) {
		return r.client.PickRecords(ctx, &chainfirev1.PickRecordsRequest{LeaseId: r.meta.LeaseID, ManifestRoot: r.layout.root[:],
			Compression: r.cfg.Compression, RateLimit: uint64(max(r.cfg.RateLimit, 0)), File: uint32(file), Wanted: asked}, callOptions(r.raw)...)
	}, fn)
}

func (s *RecordSource) moved(n int) {
	s.wire += uint64(n)
	s.r.report.wire(n)
}

// turn says that the source is waited for, until over.
func (s *RecordSource) turn() {
	s.r.idle.turn()
	s.r.flow.turn()
}

func (s *RecordSource) over() {
	s.r.flow.over()
	s.r.idle.over()
}

// stream runs one call to its end frame and passes its bytes on.
func (s *RecordSource) stream(ctx context.Context, open openStream, fn func(piece []byte) error) error {
	s.turn()
	defer s.over()
	var own error
	in := &recordIntake{codec: s.r.codec, take: func(piece []byte) error {
		s.over() // what the caller does with it is not the source's turn
		defer s.turn()
		own = fn(piece)
		return own
	}}
	fr := &frameReader{root: s.r.layout.root, file: RecordsFile}
	fr.onChunk = func(_ chunkID, c *chainfirev1.FrameChunk) error {
		s.moved(len(c.GetData()))
		s.r.flow.add(len(c.GetData()))
		return in.put(c)
	}
	err := s.r.stream(ctx, open, fr)
	if err != nil && own == nil {
		s.failed = err
	}
	return err
}

// recordIntake unpacks chunks that make one stream of bytes.
type recordIntake struct {
	codec *chunk.Codec
	take  func(piece []byte) error
	next  uint32
	buf   []byte
}

func (in *recordIntake) put(c *chainfirev1.FrameChunk) error {
	const op = "read records"
	if c.GetFile() != RecordsFile || c.GetIndex() != in.next || c.GetRawSize() == 0 || c.GetRawSize() > recordsPiece {
		return fault.Newf(fault.Corrupt, op, "chunk %d of file %d with %d bytes does not fit", c.GetIndex(), c.GetFile(), c.GetRawSize())
	}
	if in.buf == nil {
		in.buf = make([]byte, recordsPiece)
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
