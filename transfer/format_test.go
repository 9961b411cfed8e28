package transfer

import (
	"encoding/hex"
	"errors"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// TestFrameFormat holds the bytes of version 1 of the frames: a change here is
// a new version, which older members refuse.
func TestFrameFormat(t *testing.T) {
	root := [32]byte{0: 0x11, 7: 0x22, 31: 0x33}
	chunkOf := func() *chainfirev1.GetSnapshotResponse {
		return &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Chunk{Chunk: &chainfirev1.FrameChunk{
			Seed: seedID(root), File: 2, Index: 3, RawSize: 5, Compression: 1, Xxh3: 0x0807060504030201}}}
	}
	for _, c := range []struct {
		name    string
		frame   *chainfirev1.GetSnapshotResponse
		payload []byte
		want    string
	}{
		{"begin", beginFrame(root), nil,
			"0a2408011220" + "1100000000000022000000000000000000000000000000000000000000000033"},
		{"chunk", chunkOf(), []byte("bytes"),
			"1221" + "091100000000000022" + "1002" + "1803" + "2005" + "2801" + "310102030405060708" + "7a056279746573"},
		{"file end", fileEndFrame(2, root), nil,
			"1a2408021220" + "1100000000000022000000000000000000000000000000000000000000000033"},
		{"end", endFrame(7, 300), nil, "220508071" + "0ac02"},
		{"error", errorFrame(fault.New(fault.LeaseLost, "", errors.New("gone")).WithHint("again")), nil,
			"2a190a0a6c656173655f6c6f7374" + "1204676f6e65" + "1a05616761696e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := &outFrame{GetSnapshotResponse: c.frame}
			if c.payload != nil {
				out.payload = mem.SliceBuffer(c.payload)
			}
			encoded, err := NewCodec().Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(encoded.Materialize()); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
