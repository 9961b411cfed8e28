package transfer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/record"
)

// evilRecords is a source whose lists are what a test says.
type evilRecords struct {
	*evil
	bytes     []byte
	edit      func(frames) frames
	described func(*chainfirev1.DescribeTablesResponse)
}

func (e *evilRecords) DescribeTables(ctx context.Context, req *chainfirev1.DescribeTablesRequest) (*chainfirev1.DescribeTablesResponse, error) {
	resp := new(chainfirev1.DescribeTablesResponse)
	for _, f := range req.GetFiles() {
		tables, err := e.seed.DescribeTables(ctx, []int{int(f)})
		if err != nil {
			return nil, err
		}
		resp.Tables = append(resp.Tables, describedProto(tables[0]))
	}
	if e.described != nil {
		e.described(resp)
	}
	return resp, nil
}

func (e *evilRecords) ListRecords(_ *chainfirev1.ListRecordsRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	var out frames
	snd := &sender{ctx: stream.Context(), alive: func() error { return nil }, seed: e.seed, layout: e.l, pool: newBufferPool(), choice: &chooser{}}
	snd.send = collect(&out)
	_ = snd.records(func(o *recordStream) error { return o.add(e.bytes, 0) })
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

// A source that says nonsense of its records gives a typed error, whatever it says,
// and sends the files then.
func TestMaliciousRecords(t *testing.T) {
	seed := recordSeed(t, 1, 100)
	var w record.ListWriter
	honest := w.Flush(w.Add(nil, record.Listed{Hash: 1, Kind: record.Set}))
	first := func(f func(*chainfirev1.TableDescription)) func(*chainfirev1.DescribeTablesResponse) {
		return func(r *chainfirev1.DescribeTablesResponse) { f(r.Tables[0]) }
	}
	for name, tc := range map[string]struct {
		bytes     []byte
		edit      func(frames) frames
		described func(*chainfirev1.DescribeTablesResponse)
		code      fault.Code // of the list
		describe  fault.Code
	}{
		"an honest list": {bytes: honest},
		"a chunk too large": {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) {
			c.RawSize = recordsPiece + 1
		})},
		"a chunk of zeros": {bytes: honest, code: fault.Corrupt, edit: onChunk(func(c *chainfirev1.FrameChunk) {
			c.RawSize, c.Compression, c.Data = recordsPiece, uint32(chunk.Zstd), zstdZeros(1<<30)
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
		"too few tables":   {describe: fault.Corrupt, described: func(r *chainfirev1.DescribeTablesResponse) { r.Tables = nil }},
		"another table":    {describe: fault.Corrupt, described: first(func(p *chainfirev1.TableDescription) { p.File = 7 })},
		"a table too long": {describe: fault.Corrupt, described: first(func(p *chainfirev1.TableDescription) { p.Records = record.MaxRecords + 1 })},
		"two properties":   {describe: fault.Corrupt, described: first(func(p *chainfirev1.TableDescription) { p.Pinned = []uint64{1, 2} })},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := newLayout(seed.encoded)
			if err != nil {
				t.Fatal(err)
			}
			e := &evilRecords{evil: &evil{seed: seed, l: l}, bytes: tc.bytes, edit: tc.edit, described: tc.described}
			addr, _ := serve(t, nil, new(wire), func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, e) })
			d, disk := deltaOf(olderThan(seed, 20)), newMemDisk()
			if _, err := Pull(t.Context(), deltaConfig(d, DeltaRanges, disk, addr)); err != nil {
				t.Fatal(err)
			}
			disk.check(t, seed)
			var list, described error
			asking := &askingDelta{fakeDelta: deltaOf(olderThan(seed, 20)), ask: func(ctx context.Context, src *RecordSource) {
				list = src.List(ctx, 0, func([]byte) error { return nil })
				_, described = src.Describe(ctx, []int{0})
			}}
			cfg := deltaConfig(asking.fakeDelta, DeltaRanges, newMemDisk(), addr)
			cfg.OpenDelta = func(context.Context) (Delta, error) { return asking, nil }
			if _, err := Pull(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if tc.describe == "" && (fault.CodeOf(list) != tc.code || described != nil) {
				t.Errorf("%v (%s), want %q; %v", list, fault.CodeOf(list), tc.code, described)
			}
			if tc.describe != "" && d.makes != 0 {
				t.Error("a table was begun")
			}
		})
	}
}

// askingDelta asks the source, and makes nothing.
type askingDelta struct {
	*fakeDelta
	ask func(context.Context, *RecordSource)
}

func (d *askingDelta) Make(ctx context.Context, _ record.Table, src *RecordSource, _ func(int)) (uint64, error) {
	d.ask(ctx, src)
	src.failed = nil
	return 0, errors.New("only asked")
}

// What describes a table off the wire is checked.
func TestDescribedFrom(t *testing.T) {
	whole := record.Table{File: 3, Listable: true, Records: 9, Smallest: []byte("a"), Largest: []byte("b"), Format: 5, Pinned: [3]uint64{1, 2, 3}}
	got, err := describedFrom(describedProto(whole), 3)
	if err != nil || string(got.Largest) != "b" || got.Pinned != whole.Pinned || got.Records != 9 || !got.Listable {
		t.Errorf("%+v, %v", got, err)
	}
	whole.Smallest = make([]byte, maxBoundary)
	if p := describedProto(whole); p.GetListable() || p.GetSmallest() != nil {
		t.Error("keys of any length are sent")
	}
	if got, err := describedFrom(&chainfirev1.TableDescription{File: 3}, 3); err != nil || got.Listable {
		t.Errorf("%+v, %v", got, err)
	}
	for name, p := range map[string]*chainfirev1.TableDescription{
		"another file": {File: 4}, "no records": {File: 3, Listable: true}, "four properties": {File: 3, Listable: true, Records: 9, Pinned: make([]uint64, 4)},
		"long keys":        {File: 3, Listable: true, Records: 9, Smallest: []byte("a"), Largest: make([]byte, maxBoundary)},
		"too many records": {File: 3, Listable: true, Records: 1 << 60},
	} {
		if _, err := describedFrom(p, 3); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRecordChunk: a chunk of records off the wire is taken or refused, nothing else.
func FuzzRecordChunk(f *testing.F) {
	f.Add([]byte("records"), uint32(7), uint32(0), uint32(0), true)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, uint32(recordsPiece), uint32(1), uint32(0), false)
	f.Fuzz(func(t *testing.T, data []byte, raw, with, index uint32, sum bool) {
		codec, err := chunk.NewCodec(1)
		if err != nil {
			t.Fatal(err)
		}
		defer codec.Close()
		var out strings.Builder
		in := &recordIntake{codec: codec, take: func(b []byte) error { out.Write(b); return nil }}
		c := &chainfirev1.FrameChunk{File: RecordsFile, Index: index, RawSize: raw, Compression: with, Data: data}
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
