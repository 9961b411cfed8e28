package transfer

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func drawChunk(t *rapid.T) *chainfirev1.FrameChunk {
	u32 := rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32())
	u64 := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64())
	return &chainfirev1.FrameChunk{Seed: u64.Draw(t, "seed"), File: u32.Draw(t, "file"), Index: u32.Draw(t, "index"),
		RawSize: u32.Draw(t, "raw"), Compression: u32.Draw(t, "compression"), Xxh3: u64.Draw(t, "xxh3"),
		Data: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")}
}

func chunkFrame(c *chainfirev1.FrameChunk) *chainfirev1.GetSnapshotResponse {
	return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Chunk{Chunk: c}}
}

func pushOf(f *chainfirev1.GetSnapshotResponse) *chainfirev1.ReceiveRequest {
	return &chainfirev1.ReceiveRequest{Msg: &chainfirev1.ReceiveRequest_Frame{Frame: f}}
}

// pieces cuts data as a transport might.
func pieces(data []byte, cuts []int) mem.BufferSlice {
	var out mem.BufferSlice
	last := 0
	for _, c := range cuts {
		c = min(max(c, last), len(data))
		out = append(out, mem.SliceBuffer(data[last:c]))
		last = c
	}
	return append(out, mem.SliceBuffer(data[last:]))
}

// TestCodecIsProtobuf: what the raw codec writes is what the generated code
// writes, byte for byte, and each reads the other's.
func TestCodecIsProtobuf(t *testing.T) {
	codec := NewCodec()
	rapid.Check(t, func(t *rapid.T) {
		frame := chunkFrame(drawChunk(t))
		cuts := rapid.SliceOfN(rapid.IntRange(0, 120), 0, 6).Draw(t, "cuts")
		for _, wrap := range []bool{false, true} {
			var message proto.Message = frame
			var out any = &outFrame{frame, mem.SliceBuffer(frame.GetChunk().Data)}
			if wrap {
				message, out = pushOf(frame), &outPush{pushOf(frame), mem.SliceBuffer(frame.GetChunk().Data)}
			}
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Materialize(), want) {
				t.Fatalf("encoded\n%x, want\n%x", got.Materialize(), want)
			}
			var back proto.Message
			if wrap {
				f := newInPush()
				err = codec.Unmarshal(pieces(want, cuts), f)
				back = f.ReceiveRequest
				defer f.free()
			} else {
				f := newInFrame()
				err = codec.Unmarshal(pieces(want, cuts), f)
				back = f.GetSnapshotResponse
				defer f.free()
			}
			if err != nil || !proto.Equal(back, message) {
				t.Fatalf("decoded %v (%v), want %v", back, err, message)
			}
		}
	})
}

func TestCodecOtherFrames(t *testing.T) {
	codec := NewCodec()
	for _, m := range []*chainfirev1.GetSnapshotResponse{
		beginFrame([32]byte{1}), fileEndFrame(3, [32]byte{2}), endFrame(4, 5), errorFrame(leaseLost(6)), {}, chunkFrame(&chainfirev1.FrameChunk{}),
	} {
		data, err := codec.Marshal(&outFrame{GetSnapshotResponse: m})
		if err != nil {
			t.Fatal(err)
		}
		f := newInFrame()
		if err := codec.Unmarshal(data, f); err != nil || !proto.Equal(f.GetSnapshotResponse, m) {
			t.Errorf("%v came back as %v: %v", m, f.GetSnapshotResponse, err)
		}
		data, err = codec.Marshal(&outPush{ReceiveRequest: pushOf(m)})
		if err != nil {
			t.Fatal(err)
		}
		p := newInPush()
		if err := codec.Unmarshal(data, p); err != nil || !proto.Equal(p.ReceiveRequest, pushOf(m)) {
			t.Errorf("%v came back as %v: %v", m, p.ReceiveRequest, err)
		}
	}
	// A message that is not a frame takes the same way as without this codec.
	data, err := codec.Marshal(&chainfirev1.CloseLeaseRequest{LeaseId: 7})
	if err != nil {
		t.Fatal(err)
	}
	var back chainfirev1.CloseLeaseRequest
	if err := codec.Unmarshal(data, &back); err != nil || back.LeaseId != 7 {
		t.Errorf("got %v: %v", &back, err)
	}
}

// TestCodecBuffers: a chunk in one piece is not copied, one in several comes
// from the pool, and both are given back.
func TestCodecBuffers(t *testing.T) {
	codec := NewCodec()
	data := bytes.Repeat([]byte{7}, 1<<20)
	frame := chunkFrame(&chainfirev1.FrameChunk{Seed: 1, RawSize: 1 << 20})
	buf := codec.pool.Get(len(data))
	copy(*buf, data)
	payload := mem.NewBuffer(buf, codec.pool)
	encoded, err := codec.Marshal(&outFrame{frame, payload})
	if err != nil {
		t.Fatal(err)
	}
	if &encoded[1].ReadOnlyData()[0] != &(*buf)[0] {
		t.Error("the payload was copied on its way out")
	}
	f := newInFrame()
	whole := encoded.Materialize()
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(whole)}, f); err != nil {
		t.Fatal(err)
	}
	if got := f.GetChunk().Data; &got[0] != &whole[len(whole)-len(got)] {
		t.Error("a message in one piece was copied on its way in")
	}
	if err := codec.Unmarshal(encoded, f); err != nil {
		t.Fatal(err)
	}
	if got := f.GetChunk().Data; &got[0] != &(*buf)[0] {
		t.Error("a payload in one piece was copied on its way in")
	}
	encoded.Free()
	payload.Free()
	if !bytes.Equal(f.GetChunk().Data, data) { // f holds a reference of its own
		t.Error("the payload was given back while a frame held it")
	}
	f.free()
	if f.payload != nil {
		t.Error("free left the payload")
	}
}

func FuzzCodecDecode(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(7))
	}
	full := &chainfirev1.FrameChunk{Seed: 1 << 60, File: 3, Index: 4, RawSize: 5, Compression: 1, Xxh3: 9, Data: []byte("hello")}
	for _, m := range []*chainfirev1.GetSnapshotResponse{chunkFrame(full), chunkFrame(&chainfirev1.FrameChunk{}), beginFrame([32]byte{1}), endFrame(1, 2)} {
		add(m)
		add(pushOf(m))
	}
	// Valid protobuf that the fast way must not take, or must take the same way.
	tricky := func(b []byte) {
		f.Add(append(protowire.AppendVarint([]byte{tagFrameChunk}, uint64(len(b))), b...), uint8(3))
	}
	tricky([]byte{tagFile, 1, tagFile, 2})                                               // twice: the last counts
	tricky([]byte{tagData, 1, 'x', tagFile, 2})                                          // data first
	tricky([]byte{tagData, 1, 'x', tagData, 1, 'y'})                                     // data twice
	tricky([]byte{tagFile, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})  // cut to 32 bits
	tricky([]byte{tagFile, 0x80, 0x00})                                                  // longer than needed
	tricky([]byte{0x98, 0x06, 1})                                                        // unknown field
	tricky([]byte{tagData, 0xff, 0xff, 0xff, 0xff, 0x0f})                                // longer than the message
	f.Add([]byte{tagFrameChunk, 2, tagFile, 1, tagFrameChunk, 2, tagIndex, 2}, uint8(1)) // merged
	codec := NewCodec()
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		split := []int{int(cut), 2 * int(cut)}
		var want chainfirev1.GetSnapshotResponse
		werr := proto.Unmarshal(data, &want)
		got := newInFrame()
		gerr := codec.Unmarshal(pieces(data, split), got)
		if (werr == nil) != (gerr == nil) || (werr == nil && !proto.Equal(&want, got.GetSnapshotResponse)) {
			t.Fatalf("frame: raw %v (%v), protobuf %v (%v)", got.GetSnapshotResponse, gerr, &want, werr)
		}
		got.free()
		var wantPush chainfirev1.ReceiveRequest
		werr = proto.Unmarshal(data, &wantPush)
		gotPush := newInPush()
		gerr = codec.Unmarshal(pieces(data, split), gotPush)
		if (werr == nil) != (gerr == nil) || (werr == nil && !proto.Equal(&wantPush, gotPush.ReceiveRequest)) {
			t.Fatalf("push: raw %v (%v), protobuf %v (%v)", gotPush.ReceiveRequest, gerr, &wantPush, werr)
		}
		gotPush.free()
	})
}

// TestHeaderFits: the longest header that the encoder writes can be read the
// fast way.
func TestHeaderFits(t *testing.T) {
	c := &chainfirev1.FrameChunk{Seed: math.MaxUint64, File: math.MaxUint32, Index: math.MaxUint32, RawSize: math.MaxUint32,
		Compression: math.MaxUint32, Xxh3: math.MaxUint64}
	head := appendChunkFrame(nil, c, MaxMessage-maxHeader)
	if len(head)+6 > maxHeader {
		t.Fatalf("a header of %d bytes does not fit into %d", len(head)+6, maxHeader)
	}
	if _, _, ok := parseChunkFrame(head, 0, len(head)+MaxMessage-maxHeader); !ok {
		t.Error("the fast way does not read what the encoder writes")
	}
}

func benchmarkCodec(b *testing.B, marshal func() (mem.BufferSlice, error), unmarshal func(mem.BufferSlice) error) {
	const size = 1 << 20
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		out, err := marshal()
		if err != nil {
			b.Fatal(err)
		}
		if err := unmarshal(out); err != nil {
			b.Fatal(err)
		}
		out.Free()
	}
}

// BenchmarkCodec compares one chunk out and in: the raw codec with gRPC's own.
func BenchmarkCodec(b *testing.B) {
	codec := NewCodec()
	data := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	frame := chunkFrame(&chainfirev1.FrameChunk{Seed: 1, File: 2, Index: 3, RawSize: 1 << 20, Xxh3: 5, Data: data})
	b.Run("raw", func(b *testing.B) {
		benchmarkCodec(b, func() (mem.BufferSlice, error) { return codec.Marshal(&outFrame{frame, mem.SliceBuffer(data)}) },
			func(in mem.BufferSlice) error {
				f := newInFrame()
				defer f.free()
				return codec.Unmarshal(in, f)
			})
	})
	b.Run("proto", func(b *testing.B) {
		benchmarkCodec(b, func() (mem.BufferSlice, error) { return codec.proto.Marshal(frame) },
			func(in mem.BufferSlice) error { return codec.proto.Unmarshal(in, new(chainfirev1.GetSnapshotResponse)) })
	})
}
