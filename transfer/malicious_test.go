package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// evil is a Seed server that says what it is told to. It serves a true seed
// except where it is told otherwise.
type evil struct {
	chainfirev1.UnimplementedSeedServer
	seed   *memSeed
	l      *layout
	meta   func(*chainfirev1.SnapshotMeta)
	frames func([]*chainfirev1.GetSnapshotResponse) []*chainfirev1.GetSnapshotResponse // of data streams
	mani   func([]*chainfirev1.GetSnapshotResponse) []*chainfirev1.GetSnapshotResponse // of the manifest's
	status error
	opens  int
}

func (e *evil) OpenSeed(context.Context, *chainfirev1.OpenSeedRequest) (*chainfirev1.OpenSeedResponse, error) {
	e.opens++
	m := e.l.meta(Lease{ID: 9, TTL: time.Minute}).Proto()
	if e.meta != nil {
		e.meta(m)
	}
	return &chainfirev1.OpenSeedResponse{Meta: m}, nil
}

func (e *evil) GetSnapshot(req *chainfirev1.GetSnapshotRequest, stream grpc.ServerStreamingServer[chainfirev1.GetSnapshotResponse]) error {
	frames := e.script(req)
	change := e.frames
	if req.GetManifest() {
		change = e.mani
	}
	if change != nil {
		frames = change(frames)
	}
	for _, f := range frames {
		if err := stream.Send(f); err != nil {
			return err
		}
	}
	return e.status
}

// script is what a true server would send.
func (e *evil) script(req *chainfirev1.GetSnapshotRequest) []*chainfirev1.GetSnapshotResponse {
	out := []*chainfirev1.GetSnapshotResponse{}
	codec, err := newChooser("none")
	if err != nil {
		return nil
	}
	snd := &sender{ctx: context.Background(), alive: func() error { return nil }, seed: e.seed, layout: e.l, pool: newBufferPool(), choice: codec}
	snd.send = collect(&out)
	if req.GetManifest() {
		_ = snd.manifest()
		return out
	}
	ranges, err := e.l.rangesFrom(req.GetRanges())
	if err != nil {
		return nil
	}
	_ = snd.ranges(ranges)
	return out
}

func startEvil(t *testing.T, seed *memSeed) (*evil, string) {
	t.Helper()
	l, err := newLayout(seed.encoded)
	if err != nil {
		t.Fatal(err)
	}
	e := &evil{seed: seed, l: l}
	addr, _ := serve(t, nil, new(wire), func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, e) })
	return e, addr
}

type frames = []*chainfirev1.GetSnapshotResponse

// onChunk changes the first chunk frame of a stream.
func onChunk(change func(c *chainfirev1.FrameChunk)) func(frames) frames {
	return func(in frames) frames {
		for _, f := range in {
			if c := f.GetChunk(); c != nil {
				change(c)
				break
			}
		}
		return in
	}
}

// zstdZeros is a frame of n zeros, a whole number of blocks, put together by hand
// (RFC 8878, section 3): compressing a gigabyte takes long.
func zstdZeros(n int) []byte {
	const block = 128 << 10
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3} // a window of 8 MiB, no content size, no checksum
	for left := n / block; left > 0; left-- {
		header := uint32(block<<3 | 1<<1) // one byte, repeated
		if left == 1 {
			header |= 1 // the last
		}
		out = append(out, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return out
}

// TestZstdZeros: the bombs of the other tests are frames that decode.
func TestZstdZeros(t *testing.T) {
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const n = 16 << 20
	got, err := d.DecodeAll(zstdZeros(n), nil)
	if err != nil || !bytes.Equal(got, make([]byte, n)) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

func TestMaliciousServer(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000, 5000}}.build(t)
	foreign := seedSpec{sizes: []int{20_000, 5000}, seed: 77}.build(t)
	zstdBomb, s2Bomb := zstdZeros(1<<30), s2.Encode(nil, make([]byte, 64<<20))
	data := map[string]func(frames) frames{
		"huge raw size":       onChunk(func(c *chainfirev1.FrameChunk) { c.RawSize = 1<<32 - 1 }),
		"raw size 0":          onChunk(func(c *chainfirev1.FrameChunk) { c.RawSize = 0 }),
		"bad index":           onChunk(func(c *chainfirev1.FrameChunk) { c.Index = 1<<32 - 1 }),
		"bad file":            onChunk(func(c *chainfirev1.FrameChunk) { c.File = 1<<32 - 1 }),
		"next index":          onChunk(func(c *chainfirev1.FrameChunk) { c.Index++ }),
		"other seed":          onChunk(func(c *chainfirev1.FrameChunk) { c.Seed++ }),
		"other sum":           onChunk(func(c *chainfirev1.FrameChunk) { c.Xxh3++ }),
		"unknown compression": onChunk(func(c *chainfirev1.FrameChunk) { c.Compression = 3 }),
		"compression 256":     onChunk(func(c *chainfirev1.FrameChunk) { c.Compression = 256 }),
		"other bytes":         onChunk(func(c *chainfirev1.FrameChunk) { c.Data = append([]byte{c.Data[0] + 1}, c.Data[1:]...) }),
		"short bytes":         onChunk(func(c *chainfirev1.FrameChunk) { c.Data = c.Data[1:] }),
		"no bytes":            onChunk(func(c *chainfirev1.FrameChunk) { c.Data = nil }),
		"zstd bomb":           onChunk(func(c *chainfirev1.FrameChunk) { c.Compression, c.Data = 1, zstdBomb }),
		"s2 bomb":             onChunk(func(c *chainfirev1.FrameChunk) { c.Compression, c.Data = 2, s2Bomb }),
		"garbage as zstd":     onChunk(func(c *chainfirev1.FrameChunk) { c.Compression = 1 }),
		"garbage as s2":       onChunk(func(c *chainfirev1.FrameChunk) { c.Compression = 2 }),
		"no begin":            func(in frames) frames { return in[1:] },
		"two begins":          func(in frames) frames { return append(frames{in[0]}, in...) },
		"nothing":             func(frames) frames { return nil },
		"no end":              func(in frames) frames { return in[:len(in)-1] },
		"end at once":         func(in frames) frames { return frames{in[0], in[len(in)-1]} },
		"frame after end":     func(in frames) frames { return append(in, in[1]) },
		"empty frame":         func(in frames) frames { return append(frames{in[0], {}}, in[1:]...) },
		"chunk twice":         func(in frames) frames { return append(frames{in[0], in[1]}, in[1:]...) },
		"chunk left out":      func(in frames) frames { return append(frames{in[0]}, in[2:]...) },
		"end counts":          func(in frames) frames { in[len(in)-1].GetEnd().Chunks++; return in },
		"end bytes":           func(in frames) frames { in[len(in)-1].GetEnd().RawBytes++; return in },
		"file digest": func(in frames) frames {
			for _, f := range in {
				if e := f.GetFileEnd(); e != nil {
					e.Digest[0]++
				}
			}
			return in
		},
		"begin of other seed": func(in frames) frames { in[0].GetBegin().ManifestRoot[5]++; return in },
		"unknown error code": func(in frames) frames {
			return frames{in[0], {Frame: &chainfirev1.GetSnapshotResponse_Error{Error: &chainfirev1.FrameError{Code: "evil"}}}}
		},
	}
	// An empty stream is a line that broke. Where all chunks come before what is
	// wrong, each was checked, and the pull may well succeed. The others are
	// corruption.
	classes := map[string]fault.Code{"nothing": fault.Unreachable, "no end": "", "unknown error code": fault.Internal, "chunk twice": "", "file digest": ""}
	for name, change := range data {
		t.Run("data/"+name, func(t *testing.T) {
			e, addr := startEvil(t, seed)
			e.frames = change
			want, ok := classes[name]
			if !ok {
				want = fault.Corrupt
			}
			pullEvil(t, seed, addr, want)
		})
	}
	for name, change := range map[string]func(frames) frames{
		"huge raw size": onChunk(func(c *chainfirev1.FrameChunk) { c.RawSize = 1<<32 - 1 }),
		"index":         onChunk(func(c *chainfirev1.FrameChunk) { c.Index = 5 }),
		"file":          onChunk(func(c *chainfirev1.FrameChunk) { c.File = 0 }),
		"bomb":          onChunk(func(c *chainfirev1.FrameChunk) { c.Compression, c.Data = 1, zstdBomb }),
		"bytes":         onChunk(func(c *chainfirev1.FrameChunk) { c.Data = bytes.Repeat([]byte{1}, len(c.Data)) }),
		"no chunk":      func(in frames) frames { return append(frames{in[0]}, in[2:]...) },
		"no file end":   func(in frames) frames { return append(in[:2:2], in[3:]...) },
		"endless": func(in frames) frames {
			for range 100 {
				in = append(frames{in[0], in[1]}, in[1:]...)
			}
			return in
		},
	} {
		t.Run("manifest/"+name, func(t *testing.T) {
			e, addr := startEvil(t, seed)
			e.mani = change
			pullEvil(t, seed, addr, fault.Corrupt)
		})
	}
	for name, change := range map[string]func(m *chainfirev1.SnapshotMeta){
		"no root":           func(m *chainfirev1.SnapshotMeta) { m.ManifestRoot = nil },
		"other root":        func(m *chainfirev1.SnapshotMeta) { m.ManifestRoot[0]++ },
		"other position":    func(m *chainfirev1.SnapshotMeta) { m.Position.Index++ },
		"huge manifest":     func(m *chainfirev1.SnapshotMeta) { m.ManifestBytes = 1 << 62 },
		"manifest too long": func(m *chainfirev1.SnapshotMeta) { m.ManifestBytes = manifest.MaxBytes + 1 },
		"manifest short":    func(m *chainfirev1.SnapshotMeta) { m.ManifestBytes = 10 },
		"no lease":          func(m *chainfirev1.SnapshotMeta) { m.LeaseId = 0 },
		"nonce":             func(m *chainfirev1.SnapshotMeta) { m.GenesisNonce = []byte{1} },
	} {
		t.Run("meta/"+name, func(t *testing.T) {
			e, addr := startEvil(t, seed)
			e.meta = change
			pullEvil(t, seed, addr, fault.Corrupt)
		})
	}
	t.Run("true", func(t *testing.T) {
		_, addr := startEvil(t, seed)
		pullEvil(t, seed, addr, "")
	})
	t.Run("frames of another seed", func(t *testing.T) {
		e, addr := startEvil(t, seed)
		other, _ := startEvil(t, foreign)
		e.frames = func(in frames) frames {
			mixed := other.script(&chainfirev1.GetSnapshotRequest{Ranges: []*chainfirev1.FileRange{{File: 0}, {File: 1}}})
			return append(frames{in[0]}, mixed[1:]...)
		}
		pullEvil(t, seed, addr, fault.Corrupt)
	})
	t.Run("typed status", func(t *testing.T) {
		e, addr := startEvil(t, seed)
		e.frames, e.status = func(frames) frames { return nil }, rpcfault.ToStatus(fault.Newf(fault.NoSpace, "x", "y"))
		pullEvil(t, seed, addr, fault.NoSpace)
	})
	t.Run("untyped status", func(t *testing.T) {
		e, addr := startEvil(t, seed)
		e.frames, e.status = func(frames) frames { return nil }, status.Error(codes.Internal, "x")
		pullEvil(t, seed, addr, fault.Unreachable)
	})
}

// pullEvil pulls and checks that it ends, with the class, and without a wrong
// byte or much memory.
func pullEvil(t *testing.T, seed *memSeed, addr string, code fault.Code) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	disk := newMemDisk()
	cfg := pullConfig(disk, addr)
	cfg.IdleTimeout = 300 * time.Millisecond
	_, err := Pull(t.Context(), cfg)
	runtime.ReadMemStats(&after)
	if fault.CodeOf(err) != code {
		t.Fatalf("%v (%s), want %q", err, fault.CodeOf(err), code)
	}
	if err == nil {
		disk.check(t, seed)
	}
	if grew := int64(after.HeapSys) - int64(before.HeapSys); grew > 256<<20 {
		t.Errorf("the heap grew by %d MiB", grew>>20)
	}
}

// TestCorruptSourceIsLeft: a source whose chunks stay damaged is given up for
// another one.
func TestCorruptSourceIsLeft(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	e, bad := startEvil(t, seed)
	e.frames = onChunk(func(c *chainfirev1.FrameChunk) { c.Data = bytes.Repeat([]byte{1}, len(c.Data)) })
	leases := newFakeLeases()
	leases.live[9] = true // the lease that the first source gives
	good := startSource(t, leases, []*memSeed{seed})
	disk := newMemDisk()
	res, err := Pull(t.Context(), pullConfig(disk, bad, good.addr))
	if err != nil || res.Source != good.addr || res.BytesRefetched == 0 || res.LeaseID != 9 {
		t.Fatalf("result %+v: %v", res, err)
	}
	disk.check(t, seed)
}

// TestFlippedFrames flips a bit anywhere in the frames as they are on the wire,
// above HTTP: every flip is noticed or harmless.
func TestFlippedFrames(t *testing.T) {
	seed := seedSpec{sizes: []int{12_000}}.build(t)
	e, _ := startEvil(t, seed)
	codec := NewCodec()
	stage, err := newMemDisk().open(seed.encoded)
	if err != nil {
		t.Fatal(err)
	}
	var encoded [][]byte
	ranges := stage.Missing()
	for _, f := range e.script(&chainfirev1.GetSnapshotRequest{Ranges: rangesProto(ranges)}) {
		b, err := codec.Marshal(&outFrame{GetSnapshotResponse: f})
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, b.Materialize())
	}
	in := testIntake(t, e.l, stage)
	r := rand.New(rand.NewPCG(8, 9))
	runs, noticed := fewer(2000, 400), 0
	for range runs {
		flipped := make([][]byte, len(encoded))
		copy(flipped, encoded)
		n := r.IntN(len(encoded))
		b := append([]byte(nil), encoded[n]...)
		at, bit := r.IntN(len(b)), r.IntN(8)
		b[at] ^= 1 << bit
		flipped[n] = b
		disk := newMemDisk()
		if in.stage, err = disk.open(seed.encoded); err != nil {
			t.Fatal(err)
		}
		if err := replay(codec, in, ranges, flipped); err != nil {
			noticed++
		} else if diff := disk.compare(seed); diff != "" {
			t.Fatalf("bit %d of byte %d of frame %d: silent: %s", bit, at, n, diff)
		}
	}
	if noticed < runs*99/100 {
		t.Errorf("only %d of %d noticed", noticed, runs)
	}
	t.Logf("N=%d flips: %d noticed, %d harmless, 0 silent", runs, noticed, runs-noticed)
}

// replay feeds encoded frames to a reader and a stage.
func replay(codec *Codec, in *intake, ranges []Range, encoded [][]byte) error {
	in.forgive()
	fr := &frameReader{layout: in.layout, root: in.layout.root, ranges: ranges}
	fr.onChunk = func(id chunkID, c *chainfirev1.FrameChunk) error {
		again, err := in.put(id, c)
		if again {
			return errors.Join(err, errDamaged)
		}
		return err
	}
	for _, b := range encoded {
		f := newInFrame()
		if err := codec.Unmarshal(pieces(b, []int{40, 1000}), f); err != nil {
			return err
		}
		if err := fr.next(f.GetSnapshotResponse); err != nil {
			return err
		}
		f.free()
	}
	if !fr.ended {
		return io.ErrUnexpectedEOF
	}
	return nil
}

var errDamaged = errors.New("damaged")
