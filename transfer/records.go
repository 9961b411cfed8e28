package transfer

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

const (
	// RecordsFile is the file number under which lists of records, and records,
	// travel.
	RecordsFile = 0xfffffffe

	recordsPiece = 128 << 10 // raw bytes of one chunk of them
	recordsTurn  = 1 << 20   // bytes of a table that are read between two looks at lease and pace
	maxDescribed = 64        // tables of one request
	maxBoundary  = 8 << 10   // bytes of the two keys of a description
	maxAnswer    = 1 << 20   // bytes of the descriptions of one answer
)

// DescribeTables says which tables of a seed can be listed.
func (s *Server) DescribeTables(ctx context.Context, req *chainfirev1.DescribeTablesRequest) (*chainfirev1.DescribeTablesResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_DescribeTables_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	resp, err := s.describeTables(ctx, req)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	return resp, nil
}

func (s *Server) describeTables(ctx context.Context, req *chainfirev1.DescribeTablesRequest) (*chainfirev1.DescribeTablesResponse, error) {
	const op = "describe tables"
	root, err := rootFrom(req.GetManifestRoot())
	if err != nil {
		return nil, fault.New(fault.Usage, op, err)
	}
	if n := len(req.GetFiles()); n > maxDescribed {
		return nil, fault.Newf(fault.Usage, op, "%d tables, at most %d", n, maxDescribed)
	}
	sess, err := s.use(req.GetLeaseId(), root, -1)
	if err != nil {
		return nil, err
	}
	defer s.unuse(sess)
	if err := s.alive(sess); err != nil {
		return nil, err
	}
	files := make([]int, 0, len(req.GetFiles()))
	for _, f := range req.GetFiles() {
		if err := sess.layout.checkTable(uint64(f)); err != nil {
			return nil, err
		}
		files = append(files, int(f))
	}
	tables, err := sess.seed.DescribeTables(ctx, files)
	if err != nil {
		return nil, err
	}
	resp := new(chainfirev1.DescribeTablesResponse)
	for _, t := range tables {
		resp.Tables = append(resp.Tables, describedProto(t))
	}
	return resp, nil
}

// checkTable says whether a file of the manifest is a table.
func (l *layout) checkTable(file uint64) error {
	if file >= uint64(len(l.Files)) || l.Files[file].Kind != manifest.KindTable {
		return fault.Newf(fault.Usage, "read records", "file %d is no table of the seed", file)
	}
	return nil
}

// describedProto gives the wire form; a table whose keys are too long for an answer
// is one that can not be listed.
func describedProto(t record.Table) *chainfirev1.TableDescription {
	p := &chainfirev1.TableDescription{File: uint32(t.File)}
	if t.Listable && len(t.Smallest)+len(t.Largest) <= maxBoundary {
		p.Listable, p.Records, p.Smallest, p.Largest, p.Format = true, t.Records, t.Smallest, t.Largest, t.Format
		if t.Pinned != [3]uint64{} {
			p.Pinned = t.Pinned[:]
		}
	}
	return p
}

// describedFrom reads the wire form of a table that was asked for; errors are
// fault.Corrupt.
func describedFrom(p *chainfirev1.TableDescription, file int) (record.Table, error) {
	if !p.GetListable() && int64(p.GetFile()) == int64(file) {
		return record.Table{File: file}, nil
	}
	t := record.Table{File: file, Listable: p.GetListable(), Records: p.GetRecords(), Smallest: p.GetSmallest(), Largest: p.GetLargest(), Format: p.GetFormat()}
	pinned := p.GetPinned()
	switch {
	case int64(p.GetFile()) != int64(file):
		return t, fault.Newf(fault.Corrupt, "describe tables", "table %d instead of %d", p.GetFile(), file)
	case len(t.Smallest)+len(t.Largest) > maxBoundary:
		return t, fault.Newf(fault.Corrupt, "describe tables", "table %d has keys of %d and %d bytes", file, len(t.Smallest), len(t.Largest))
	case len(pinned) != 0 && len(pinned) != len(t.Pinned):
		return t, fault.Newf(fault.Corrupt, "describe tables", "%d properties of table %d, want %d", len(pinned), file, len(t.Pinned))
	case t.Listable && (t.Records == 0 || t.Records > record.MaxRecords):
		return t, fault.Newf(fault.Corrupt, "describe tables", "a table of %d records", t.Records)
	}
	copy(t.Pinned[:], pinned)
	return t, nil
}

// ListRecords streams what the records of a table of a seed are.
func (s *Server) ListRecords(req *chainfirev1.ListRecordsRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_ListRecords_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	return rpcfault.ToStatus(s.serveRecords(ctx, req, stream, func(ctx context.Context, seed Seed, emit emitFunc) error {
		return seed.ListRecords(ctx, int(req.GetFile()), emit)
	}))
}

// PickRecords streams some of the records of a table of a seed.
func (s *Server) PickRecords(req *chainfirev1.PickRecordsRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	ctx, leave, err := s.enter(stream.Context(), chainfirev1.Seed_PickRecords_FullMethodName)
	if err != nil {
		return rpcfault.ToStatus(err)
	}
	defer leave()
	return rpcfault.ToStatus(s.serveRecords(ctx, req, stream, func(ctx context.Context, seed Seed, emit emitFunc) error {
		wanted, err := record.ReadWanted(req.GetWanted())
		if err != nil {
			return err
		}
		return seed.PickRecords(ctx, int(req.GetFile()), wanted, emit)
	}))
}

// emitFunc takes the next bytes of a stream, which are not kept, and how many
// bytes of the table were read for them.
type emitFunc = func(b []byte, read int) error

// recordsRequest is what both requests have.
type recordsRequest interface {
	GetLeaseId() uint64
	GetManifestRoot() []byte
	GetCompression() string
	GetRateLimit() uint64
	GetFile() uint32
}

// serveRecords is serve for records instead of files.
func (s *Server) serveRecords(ctx context.Context, req recordsRequest, stream grpc.ServerStream, fn func(context.Context, Seed, emitFunc) error) error {
	root, err := rootFrom(req.GetManifestRoot())
	if err != nil {
		return fault.New(fault.Usage, "read records", err)
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
	if err = s.alive(sess); err == nil {
		err = sess.layout.checkTable(uint64(req.GetFile()))
	}
	if err != nil {
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
		return snd.run(func() error {
			return snd.records(func(out *recordStream) error { return fn(ctx, sess.seed, out.add) })
		})
	})
	s.cfg.Logger.Debug("records sent", "lease", ident.FormatID(sess.lease.ID), "target", sess.lease.Target, "file", req.GetFile(),
		"seconds", time.Since(start).Seconds(), "bytes", snd.wire, "result", result(err))
	return err
}

// records sends a stream of bytes about records: begin, what fn writes, end.
func (s *sender) records(fn func(*recordStream) error) error {
	if err := s.frame(beginFrame(s.layout.root)); err != nil {
		return err
	}
	out := &recordStream{s: s}
	if err := fn(out); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	if err := s.frame(fileEndFrame(RecordsFile, s.layout.root)); err != nil {
		return err
	}
	return s.frame(endFrame(s.chunks, s.raw))
}

// recordStream cuts what is written to it into chunks.
type recordStream struct {
	s     *sender
	index int
	buf   []byte
	read  int // bytes of the table since the last turn
}

// add takes more of the stream, and the bytes of the table that were read for it.
func (o *recordStream) add(b []byte, read int) error {
	if o.read += read; o.read >= recordsTurn {
		if err := o.s.alive(); err != nil {
			return err
		}
		if err := o.s.pace.Wait(o.s.ctx, o.read); err != nil {
			return err
		}
		o.read = 0
	}
	o.buf = append(o.buf, b...)
	rest := o.buf
	for len(rest) >= recordsPiece {
		if err := o.piece(rest[:recordsPiece]); err != nil {
			return err
		}
		rest = rest[recordsPiece:]
	}
	o.buf = append(o.buf[:0], rest...)
	return o.s.ctx.Err()
}

func (o *recordStream) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	return o.piece(o.buf)
}

func (o *recordStream) piece(b []byte) error {
	if err := o.s.alive(); err != nil {
		return err
	}
	buf := o.s.pool.Get(len(b))
	copy(*buf, b) // the line may still hold it when the next one is made
	payload := mem.NewBuffer(buf, o.s.pool)
	defer payload.Free()
	o.index++
	return o.s.chunk(RecordsFile, o.index-1, payload.ReadOnlyData(), payload)
}
