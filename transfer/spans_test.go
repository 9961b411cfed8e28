package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/span"
)

// memRecords are the records of a memSeed.
type memRecords struct {
	mu     sync.Mutex
	rows   []span.Record
	open   int // readers and iterators
	opened int // readers, ever
	fail   error
	each   func() // before each record is read; may be nil
}

func (m *memRecords) count(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open += n
}

func (m *memRecords) counts() (open, opened int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open, m.opened
}

// fill makes records; those of change differ.
func (m *memRecords) fill(n int, change func(i int) bool) *memRecords {
	for i := range n {
		n := uint64(i+1) * 0x9e3779b97f4a7c15
		v := fmt.Sprintf("%016x%016x", n, n*n)
		if change != nil && change(i) {
			v = "changed " + v
		}
		m.rows = append(m.rows, span.Record{Key: fmt.Appendf(nil, "key/%06d", i), Value: []byte(v)})
	}
	return m
}

func (s *memSeed) OpenRecords() (span.Reader, error) {
	if s.records == nil {
		s.records = new(memRecords)
	}
	s.records.count(1)
	s.records.mu.Lock()
	s.records.opened++
	s.records.mu.Unlock()
	return memReader{s.records}, nil
}

type memReader struct{ m *memRecords }

func (r memReader) Close() error { r.m.count(-1); return nil }
func (r memReader) Iterate() (span.Iterator, error) {
	r.m.count(1)
	return &memIterator{m: r.m}, nil
}

type memIterator struct {
	m  *memRecords
	at int
}

func (i *memIterator) SeekAfter(key []byte) bool {
	i.at, _ = slices.BinarySearchFunc(i.m.rows, key, func(r span.Record, key []byte) int {
		if bytes.Compare(r.Key, key) <= 0 && len(key) > 0 {
			return -1
		}
		return 1
	})
	return i.at < len(i.m.rows)
}
func (i *memIterator) Next() bool {
	if i.m.each != nil {
		i.m.each()
	}
	i.at++
	return i.at < len(i.m.rows) && i.m.fail == nil
}
func (i *memIterator) Key() []byte             { return i.m.rows[i.at].Key }
func (i *memIterator) Value() ([]byte, error)  { return i.m.rows[i.at].Value, nil }
func (i *memIterator) Compare(a, b []byte) int { return bytes.Compare(a, b) }
func (i *memIterator) Err() error              { return i.m.fail }
func (i *memIterator) Close() error            { i.m.count(-1); return nil }

// fakeDelta brings its records to those of the source.
type fakeDelta struct {
	have  *memRecords
	calls int
	got   map[string]string
	err   error // of its own, instead of the work
	skip  bool  // not built
	wire  uint64
}

func (d *fakeDelta) Build(ctx context.Context, src *SpanSource) (bool, error) {
	d.calls++
	if d.err != nil || d.skip {
		return false, d.err
	}
	d.got = map[string]string{}
	for _, r := range d.have.rows {
		d.got[string(r.Key)] = string(r.Value)
	}
	walk := span.NewWalk(&memIterator{m: d.have})
	defer d.have.count(1) // the iterator is not closed here
	var req span.Request
	var after []byte
	if err := src.List(ctx, nil, 0, func(s span.Span) error {
		var hashes []uint32
		mine, err := walk.To(s.End, func(r span.Record) error { hashes = append(hashes, r.Hash); return nil })
		if err == nil && !mine.Same(s) {
			req.Add(after, s.End, hashes)
		}
		after = slices.Clone(s.End)
		return err
	}); err != nil {
		return false, err
	}
	err := src.Diff(ctx, &req, bytes.Compare, func(c span.Change) error {
		w, i := span.NewWalk(&memIterator{m: d.have}), 0
		w.SeekAfter(c.After)
		_, err := w.To(c.End, func(r span.Record) error {
			if c.Deletes(i) {
				delete(d.got, string(r.Key))
			}
			i++
			return nil
		})
		for _, r := range c.Put {
			d.got[string(r.Key)] = string(r.Value)
		}
		return err
	})
	d.wire = src.Wire()
	src.Stored(int(src.Missing()))
	return err == nil, err
}

func (d *fakeDelta) equals(m *memRecords) bool {
	for _, r := range m.rows {
		if d.got[string(r.Key)] != string(r.Value) {
			return false
		}
	}
	return len(d.got) == len(m.rows)
}

func spansConfig(d Delta, disk *memDisk, endpoints ...string) PullConfig {
	cfg := pullConfig(disk, endpoints...)
	cfg.Delta = d
	return cfg
}

// TestPullByRecords: a Delta makes the seed of the records that differ, and no
// file is fetched; what the source opened for it is closed.
func TestPullByRecords(t *testing.T) {
	seed := seedSpec{sizes: []int{500_000}}.build(t)
	seed.records = new(memRecords).fill(60_000, func(i int) bool { return i%3 == 0 })
	src := startSource(t, nil, []*memSeed{seed})
	d := &fakeDelta{have: new(memRecords).fill(59_900, nil)}
	disk := newMemDisk()
	res, err := Pull(t.Context(), spansConfig(d, disk, src.addr))
	if err != nil {
		t.Fatal(err)
	}
	if !res.Built || disk.puts != 0 || !d.equals(seed.records) {
		t.Errorf("built %t, %d chunks fetched, equal %t", res.Built, disk.puts, d.equals(seed.records))
	}
	raw := 60_000 * 42
	if res.BytesWire < 100_000 || res.BytesWire > uint64(raw/2) || res.BytesWire != d.wire {
		t.Errorf("%d bytes on the wire (%d seen), of records of %d", res.BytesWire, d.wire, raw)
	}
	src.stop()
	if open, opened := seed.records.counts(); open != 0 || opened == 0 {
		t.Errorf("%d readers left open, %d opened", open, opened)
	}
	if d.got["key/000001"] = "x"; d.equals(seed.records) {
		t.Error("the oracle sees nothing")
	}
}

// A session whose slot is taken closes its records, and opens them again.
func TestIdleRecordsAreClosed(t *testing.T) {
	seed := seedSpec{}.build(t)
	seed.records = new(memRecords).fill(100, nil)
	src := startSource(t, nil, []*memSeed{seed})
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root := seed.root()
	list := func() {
		t.Helper()
		if err := drainSpans(c.ListSpans(t.Context(), &chainfirev1.ListSpansRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: root[:]})); err != nil {
			t.Fatal(err)
		}
	}
	list()
	for open, _ := seed.records.counts(); open > 0; open, _ = seed.records.counts() {
		if t.Context().Err() != nil {
			t.Fatal("the records stay open")
		}
		src.server.wake()
	}
	list()
	if _, opened := seed.records.counts(); opened != 2 {
		t.Errorf("opened %d times", opened)
	}
}

// drainSpans reads a stream of spans to its end.
func drainSpans(stream grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return rpcfault.FromStatus("spans", err)
}

// An error of the Delta's own ends the pull; it may leave the files to be fetched;
// and what a source said wrong is tried at the next one.
func TestDeltaErrors(t *testing.T) {
	seed := seedSpec{sizes: []int{50_000}}.build(t)
	seed.records = new(memRecords).fill(500, nil)
	src := startSource(t, nil, []*memSeed{seed})
	other := startSource(t, nil, []*memSeed{seed})
	own := &fakeDelta{err: fault.Newf(fault.Corrupt, "mine", "is broken")}
	if _, err := Pull(t.Context(), spansConfig(own, newMemDisk(), src.addr, other.addr)); !fault.Is(err, fault.Corrupt) || own.calls != 1 {
		t.Errorf("%v after %d calls", err, own.calls)
	}
	disk := newMemDisk()
	res, err := Pull(t.Context(), spansConfig(&fakeDelta{skip: true}, disk, src.addr))
	if err != nil || res.Built {
		t.Fatalf("built %t, %v", res.Built, err)
	}
	disk.check(t, seed)
	broken := seedSpec{sizes: []int{50_000}}.build(t)
	broken.records = &memRecords{fail: fault.Newf(fault.Corrupt, "read", "a block"), rows: seed.records.rows}
	leases := newFakeLeases()
	first, second := startSource(t, leases, []*memSeed{broken}), startSource(t, leases, []*memSeed{seed})
	d := &fakeDelta{have: new(memRecords).fill(400, nil)}
	res, err = Pull(t.Context(), spansConfig(d, newMemDisk(), first.addr, second.addr))
	if err != nil || !res.Built || d.calls != 2 || res.Failovers != 1 || !d.equals(seed.records) {
		t.Errorf("%+v after %d calls, %v", res, d.calls, err)
	}
}

// What comes while the line is measured is stored, and not fetched again.
func TestMeasuredBytesAreKept(t *testing.T) {
	seed := seedSpec{chunkSize: 64 << 10, sizes: []int{3 << 20, 5 << 20, 3 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	disk := newMemDisk()
	var before, after uint64
	cfg := spansConfig(deltaFunc(func(ctx context.Context, src *SpanSource) (bool, error) {
		before = src.Missing()
		rate, err := src.Line(ctx)
		after = src.Missing()
		if rate < 0 {
			t.Errorf("%f bytes a second", rate)
		}
		return false, err
	}), disk, src.addr)
	cfg.Compression = "none"
	res, err := Pull(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	if disk.twice != 0 || before != seed.total() || after > before-lineMost*(64<<10) {
		t.Errorf("%d chunks came twice; %d bytes were missing, then %d", disk.twice, before, after)
	}
	if least := seed.total(); res.BytesWire < least || res.BytesWire > least+uint64(len(seed.encoded)) {
		t.Errorf("%d bytes on the wire for %d", res.BytesWire, least)
	}
}

// What a target asks for is checked, and a lease that ends ends the comparison.
func TestSpanRequestsAreChecked(t *testing.T) {
	seed := seedSpec{}.build(t)
	seed.records = new(memRecords).fill(100_000, nil)
	src := startSource(t, nil, []*memSeed{seed})
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root, lease := seed.root(), open.GetMeta().GetLeaseId()
	var whole span.Request
	whole.Add(nil, nil, nil)
	for name, tc := range map[string]struct {
		list *chainfirev1.ListSpansRequest
		diff *chainfirev1.DiffSpansRequest
		code fault.Code
	}{
		"all":              {list: &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: root[:]}},
		"after the last":   {list: &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: root[:], After: [][]byte{[]byte("z"), nil}, Spans: 1}},
		"too many lists":   {list: &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: root[:], After: make([][]byte, maxStarts+1)}, code: fault.Usage},
		"short root":       {list: &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: root[:3]}, code: fault.Usage},
		"another root":     {list: &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: make([]byte, 32)}, code: fault.Unreachable},
		"another lease":    {diff: &chainfirev1.DiffSpansRequest{LeaseId: 999, ManifestRoot: root[:]}, code: fault.LeaseLost},
		"compression":      {diff: &chainfirev1.DiffSpansRequest{LeaseId: lease, ManifestRoot: root[:], Compression: "rar"}, code: fault.Usage},
		"nothing asked":    {diff: &chainfirev1.DiffSpansRequest{LeaseId: lease, ManifestRoot: root[:]}},
		"nonsense":         {diff: &chainfirev1.DiffSpansRequest{LeaseId: lease, ManifestRoot: root[:], Request: []byte{9, 9, 9}}, code: fault.Corrupt},
		"much too much":    {diff: &chainfirev1.DiffSpansRequest{LeaseId: lease, ManifestRoot: root[:], Request: make([]byte, span.MaxRequest+1)}, code: fault.Corrupt},
		"a span of it all": {diff: &chainfirev1.DiffSpansRequest{LeaseId: lease, ManifestRoot: root[:], Request: whole.Encoded()}, code: fault.Usage},
	} {
		var err error
		if tc.list != nil {
			err = drainSpans(c.ListSpans(t.Context(), tc.list))
		} else {
			err = drainSpans(c.DiffSpans(t.Context(), tc.diff))
		}
		if fault.CodeOf(err) != tc.code {
			t.Errorf("%s: %v (%s), want %q", name, err, fault.CodeOf(err), tc.code)
		}
	}
	seed.records.each = src.leases.expireAll
	err = drainSpans(c.ListSpans(t.Context(), &chainfirev1.ListSpansRequest{LeaseId: lease, ManifestRoot: root[:]}))
	wantCode(t, err, fault.LeaseLost)
}

// Closing the server ends a comparison under way, and what it opened.
func TestCloseEndsComparisons(t *testing.T) {
	seed := seedSpec{}.build(t)
	seed.records = new(memRecords).fill(100_000, nil)
	src := startSource(t, nil, []*memSeed{seed})
	reached := make(chan struct{})
	var once sync.Once
	seed.records.each = func() { once.Do(func() { close(reached) }) }
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root := seed.root()
	ended := make(chan error, 1)
	go func() {
		for { // until the server is gone
			if err := drainSpans(c.ListSpans(t.Context(), &chainfirev1.ListSpansRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: root[:]})); err != nil {
				ended <- err
				return
			}
		}
	}()
	<-reached
	src.stop()
	if err := <-ended; err == nil {
		t.Error("the list ended well")
	}
	if open, _ := seed.records.counts(); open != 0 {
		t.Errorf("%d left open", open)
	}
}

// evilSpans is a source whose lists and answers are what a test says.
type evilSpans struct {
	*evil
	bytes []byte
	edit  func(frames) frames
}

func (e *evilSpans) ListSpans(_ *chainfirev1.ListSpansRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	var out frames
	snd := &sender{ctx: stream.Context(), alive: func() error { return nil }, seed: e.seed, layout: e.l, pool: newBufferPool(), choice: &chooser{}}
	snd.send = collect(&out)
	_ = snd.spans(func(o *spanStream) error { return o.add(append(o.buf, e.bytes...), 0) })
	if e.edit != nil {
		out = e.edit(out)
	}
	for _, f := range out {
		if err := stream.Send(f); err != nil {
			return err
		}
	}
	return nil
}

// A source that says nonsense gives a typed error, whatever it says.
func TestMaliciousSpans(t *testing.T) {
	seed := seedSpec{}.build(t)
	honest := span.Span{Count: 0}.Append(nil, nil)
	for name, tc := range map[string]struct {
		bytes []byte
		edit  func(frames) frames
		code  fault.Code
	}{
		"an empty list of one span": {bytes: honest},
		"half a span":               {bytes: honest[:5], code: fault.Corrupt},
		"a number without end":      {bytes: bytes.Repeat([]byte{0xff}, 40), code: fault.Corrupt},
		"a key of 2 GiB":            {bytes: []byte{0, 0xff, 0xff, 0xff, 0xff, 7, 'x'}, code: fault.Corrupt},
		"a chunk too large": {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) {
			c.RawSize = spanPiece + 1
		})},
		"a chunk of zeros": {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) {
			c.RawSize, c.Compression, c.Data = spanPiece, uint32(chunk.Zstd), zstdZeros(1<<30)
		})},
		"a wrong sum":      {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) { c.Xxh3++ })},
		"another file":     {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) { c.File = 0 })},
		"the manifest":     {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) { c.File = ManifestFile })},
		"another seed":     {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) { c.Seed++ })},
		"a chunk left out": {bytes: honest, code: fault.Corrupt, edit: func(f frames) frames { return append(f[:1:1], f[2:]...) }},
		"no end":           {bytes: honest, code: fault.Unreachable, edit: func(f frames) frames { return f[:len(f)-1] }},
		"no beginning":     {bytes: honest, code: fault.Corrupt, edit: func(f frames) frames { return f[1:] }},
		"an error of a kind": {bytes: honest, code: fault.Refused, edit: func(frames) frames {
			return frames{errorFrame(fault.Newf(fault.Refused, "no", "never"))}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := newLayout(seed.encoded)
			if err != nil {
				t.Fatal(err)
			}
			e := &evilSpans{evil: &evil{seed: seed, l: l}, bytes: tc.bytes, edit: tc.edit}
			addr, _ := serve(t, nil, new(wire), func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, e) })
			var got error
			cfg := spansConfig(deltaFunc(func(ctx context.Context, src *SpanSource) (bool, error) {
				got = src.List(ctx, nil, 0, func(span.Span) error { return nil })
				return false, nil
			}), newMemDisk(), addr)
			if _, err := Pull(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if fault.CodeOf(got) != tc.code {
				t.Errorf("%v (%s), want %q", got, fault.CodeOf(got), tc.code)
			}
		})
	}
}

type deltaFunc func(ctx context.Context, src *SpanSource) (bool, error)

func (f deltaFunc) Build(ctx context.Context, src *SpanSource) (bool, error) { return f(ctx, src) }

// FuzzSpanChunk: a chunk of spans off the wire is taken or refused, nothing else.
func FuzzSpanChunk(f *testing.F) {
	f.Add([]byte("spans"), uint32(5), uint32(0), uint32(0), true)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, uint32(spanPiece), uint32(1), uint32(0), false)
	f.Fuzz(func(t *testing.T, data []byte, raw, with, index uint32, sum bool) {
		codec, err := chunk.NewCodec(1)
		if err != nil {
			t.Fatal(err)
		}
		defer codec.Close()
		var out strings.Builder
		in := &spanIntake{codec: codec, take: func(b []byte) error { out.Write(b); return nil }}
		c := &chainfirev1.FrameChunk{File: SpanFile, Index: index, RawSize: raw, Compression: with, Data: data}
		if sum {
			c.Xxh3 = chunk.Sum(data)
		}
		if err := in.put(c); err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatal(err)
		} else if err == nil && out.Len() != int(raw) {
			t.Fatalf("%d bytes of %d", out.Len(), raw)
		}
	})
}
