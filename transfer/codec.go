package transfer

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// CodecName is the name of the raw codec in gRPC's terms. It never travels: the
// bytes are protobuf and the content type says so.
const CodecName = "cfseed-raw"

// MaxMessage bounds a message that either side accepts.
const MaxMessage = 8 << 20

// Field tags of the chunk frame; part of the format.
const (
	tagFrameChunk  = 2<<3 | 2 // GetSnapshotResponse.chunk
	tagSeed        = 1<<3 | 1
	tagFile        = 2 << 3
	tagIndex       = 3 << 3
	tagRawSize     = 4 << 3
	tagCompression = 5 << 3
	tagXXH3        = 6<<3 | 1
	tagData        = 15<<3 | 2
	tagPushFrame   = 2<<3 | 2 // ReceiveRequest.frame

	// maxHeader is more than the longest header that the encoder writes.
	maxHeader = 96
)

// outFrame is a frame on its way out. When payload is set, it is the chunk's
// data in a pooled buffer, and the raw codec sends it without a copy. The
// embedded message makes any other codec encode the same thing.
type outFrame struct {
	*chainfirev1.GetSnapshotResponse
	payload mem.Buffer
}

// outPush is an outFrame inside a Receive stream.
type outPush struct {
	*chainfirev1.ReceiveRequest
	payload mem.Buffer
}

// inFrame is a frame on its way in; the embedded message must be set. After
// decoding by the raw codec a chunk's data may lie in a pooled buffer, which
// free gives back.
type inFrame struct {
	*chainfirev1.GetSnapshotResponse
	payload mem.Buffer
}

// inPush is an inFrame inside a Receive stream.
type inPush struct {
	*chainfirev1.ReceiveRequest
	payload mem.Buffer
}

func newInFrame() *inFrame {
	return &inFrame{GetSnapshotResponse: new(chainfirev1.GetSnapshotResponse)}
}

func newInPush() *inPush { return &inPush{ReceiveRequest: new(chainfirev1.ReceiveRequest)} }

func (f *inFrame) free() { freePayload(&f.payload) }
func (f *inPush) free()  { freePayload(&f.payload) }

// take makes the data of the chunk the caller's, to be freed by freePayload.
func (f *inPush) take() mem.Buffer {
	p := f.payload
	f.payload = nil
	return p
}

func freePayload(p *mem.Buffer) {
	if *p != nil {
		(*p).Free()
		*p = nil
	}
}

// Codec is the raw codec: protobuf on the wire, but the data of a chunk frame is
// not copied through a message. All other messages go through gRPC's protobuf
// codec, so that a server can use it for all its services. The zero value is
// not useful; use NewCodec.
type Codec struct {
	pool  *bufferPool
	proto encoding.CodecV2
}

// NewCodec returns a raw codec with a buffer pool of its own.
func NewCodec() *Codec { return newCodec(newBufferPool()) }

func newCodec(pool *bufferPool) *Codec {
	return &Codec{pool: pool, proto: encoding.GetCodecV2(protocodec.Name)}
}

// Name is CodecName.
func (c *Codec) Name() string { return CodecName }

// Marshal implements encoding.CodecV2.
func (c *Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch f := v.(type) {
	case *outFrame:
		if ch := f.GetChunk(); ch != nil && f.payload != nil {
			head := appendChunkFrame(make([]byte, 0, maxHeader), ch, f.payload.Len())
			return joinPayload(head, f.payload), nil
		}
		return c.proto.Marshal(f.GetSnapshotResponse)
	case *outPush:
		if ch := f.GetFrame().GetChunk(); ch != nil && f.payload != nil {
			inner := appendChunkFrame(make([]byte, 0, maxHeader), ch, f.payload.Len())
			head := append(make([]byte, 0, maxHeader), tagPushFrame)
			head = protowire.AppendVarint(head, uint64(len(inner)+f.payload.Len()))
			return joinPayload(append(head, inner...), f.payload), nil
		}
		return c.proto.Marshal(f.ReceiveRequest)
	case *inFrame:
		return c.proto.Marshal(f.GetSnapshotResponse)
	case *inPush:
		return c.proto.Marshal(f.ReceiveRequest)
	}
	return c.proto.Marshal(v)
}

func joinPayload(head []byte, payload mem.Buffer) mem.BufferSlice {
	if payload.Len() == 0 {
		return mem.BufferSlice{mem.SliceBuffer(head)}
	}
	payload.Ref()
	return mem.BufferSlice{mem.SliceBuffer(head), payload}
}

// Unmarshal implements encoding.CodecV2.
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch f := v.(type) {
	case *inFrame:
		return c.decodeFrame(data, f)
	case *inPush:
		return c.decodePush(data, f)
	}
	return c.proto.Unmarshal(data, v)
}

func (c *Codec) decodeFrame(data mem.BufferSlice, f *inFrame) error {
	f.free()
	total := data.Len()
	ch, off, ok := parseChunkFrame(prefix(data), 0, total)
	if !ok {
		return c.proto.Unmarshal(data, f.GetSnapshotResponse)
	}
	f.payload = c.cut(data, off, total-off)
	ch.Data = f.payload.ReadOnlyData()
	f.Frame = &chainfirev1.GetSnapshotResponse_Chunk{Chunk: ch}
	return nil
}

func (c *Codec) decodePush(data mem.BufferSlice, f *inPush) error {
	f.free()
	total := data.Len()
	head := prefix(data)
	off, ok := parseLength(head, 0, total, tagPushFrame)
	if !ok {
		return c.proto.Unmarshal(data, f.ReceiveRequest)
	}
	ch, off, ok := parseChunkFrame(head, off, total)
	if !ok {
		return c.proto.Unmarshal(data, f.ReceiveRequest)
	}
	f.payload = c.cut(data, off, total-off)
	ch.Data = f.payload.ReadOnlyData()
	f.Msg = &chainfirev1.ReceiveRequest_Frame{Frame: &chainfirev1.GetSnapshotResponse{
		Frame: &chainfirev1.GetSnapshotResponse_Chunk{Chunk: ch}}}
	return nil
}

// cut gives n bytes at off as one buffer: a view where they lie in one piece,
// else a pooled copy. The caller frees it.
func (c *Codec) cut(data mem.BufferSlice, off, n int) mem.Buffer {
	if n == 0 {
		return mem.SliceBuffer(nil)
	}
	i := 0
	for off >= data[i].Len() {
		off -= data[i].Len()
		i++
	}
	if off+n <= data[i].Len() {
		return data[i].Slice(off, off+n)
	}
	buf := c.pool.Get(n)
	k := copy(*buf, data[i].ReadOnlyData()[off:])
	data[i+1:].CopyTo((*buf)[k:])
	return mem.NewBuffer(buf, c.pool)
}

// prefix copies enough of a message to hold any header that the encoder writes.
func prefix(data mem.BufferSlice) []byte {
	head := make([]byte, 0, maxHeader)
	for _, b := range data {
		p := b.ReadOnlyData()
		head = append(head, p[:min(len(p), maxHeader-len(head))]...)
		if len(head) == maxHeader {
			break
		}
	}
	return head
}

// appendChunkFrame appends the encoding of a GetSnapshotResponse with chunk c up
// to where n bytes of data follow.
func appendChunkFrame(dst []byte, c *chainfirev1.FrameChunk, n int) []byte {
	var body [maxHeader]byte
	b := body[:0]
	if c.Seed != 0 {
		b = protowire.AppendFixed64(append(b, tagSeed), c.Seed)
	}
	for _, f := range []struct {
		tag   byte
		value uint32
	}{{tagFile, c.File}, {tagIndex, c.Index}, {tagRawSize, c.RawSize}, {tagCompression, c.Compression}} {
		if f.value != 0 {
			b = protowire.AppendVarint(append(b, f.tag), uint64(f.value))
		}
	}
	if c.Xxh3 != 0 {
		b = protowire.AppendFixed64(append(b, tagXXH3), c.Xxh3)
	}
	if n > 0 {
		b = protowire.AppendVarint(append(b, tagData), uint64(n))
	}
	dst = protowire.AppendVarint(append(dst, tagFrameChunk), uint64(len(b)+n))
	return append(dst, b...)
}

// parseLength reads a length-delimited field with the given tag that spans the
// rest of a message of total bytes; head holds the message's beginning.
func parseLength(head []byte, off, total int, tag byte) (int, bool) {
	if off >= len(head) || head[off] != tag {
		return 0, false
	}
	n, k := protowire.ConsumeVarint(head[off+1:])
	off += 1 + k
	if k < 0 || n > MaxMessage || off+int(n) != total {
		return 0, false
	}
	return off, true
}

// parseChunkFrame reads the header that appendChunkFrame writes and says where
// the data begins. Anything else, even if it is valid protobuf, is not ok and
// goes the slow way.
func parseChunkFrame(head []byte, off, total int) (*chainfirev1.FrameChunk, int, bool) {
	off, ok := parseLength(head, off, total, tagFrameChunk)
	if !ok {
		return nil, 0, false
	}
	c := new(chainfirev1.FrameChunk)
	for off < total {
		if off >= len(head) {
			return nil, 0, false
		}
		tag, k := head[off], 0
		rest := head[off+1:]
		var v uint64
		switch tag {
		case tagSeed, tagXXH3:
			v, k = protowire.ConsumeFixed64(rest)
		case tagFile, tagIndex, tagRawSize, tagCompression:
			v, k = protowire.ConsumeVarint(rest)
		case tagData:
			off, ok = parseLength(head, off, total, tagData)
			return c, off, ok
		default:
			return nil, 0, false
		}
		if k < 0 {
			return nil, 0, false
		}
		setField(c, tag, v)
		off += 1 + k
	}
	return c, off, off == total
}

func setField(c *chainfirev1.FrameChunk, tag byte, v uint64) {
	switch tag {
	case tagSeed:
		c.Seed = v
	case tagXXH3:
		c.Xxh3 = v
	case tagFile:
		c.File = uint32(v)
	case tagIndex:
		c.Index = uint32(v)
	case tagRawSize:
		c.RawSize = uint32(v)
	case tagCompression:
		c.Compression = uint32(v)
	}
}

// bufferPool keeps buffers of one chunk; larger ones are left to the collector.
// It implements mem.BufferPool.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{pool: sync.Pool{New: func() any {
		b := make([]byte, bufferSize)
		return &b
	}}}
}

// Get returns a buffer of n bytes with unspecified content.
func (p *bufferPool) Get(n int) *[]byte {
	if n > bufferSize {
		b := make([]byte, n)
		return &b
	}
	b := p.pool.Get().(*[]byte)
	*b = (*b)[:n]
	return b
}

// Put takes back a buffer of Get.
func (p *bufferPool) Put(b *[]byte) {
	if cap(*b) == bufferSize {
		*b = (*b)[:bufferSize]
		p.pool.Put(b)
	}
}

// callOptions make a client's stream use the codec; the content type stays that
// of protobuf, so that any server understands it.
func callOptions(c *Codec) []grpc.CallOption {
	return []grpc.CallOption{grpc.ForceCodecV2(c), grpc.CallContentSubtype(protocodec.Name),
		grpc.MaxCallRecvMsgSize(MaxMessage)}
}

// ServerOptions are the gRPC options for a server that carries the Seed or Await
// service: the raw codec (which serves all other services as well), the message
// bound, and buffers and windows that fit chunks. The windows are fixed: gRPC's
// own reckoning of them would ping at every request of every client.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(NewCodec()), grpc.MaxRecvMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.WriteBufferSize(connBuffer), grpc.ReadBufferSize(connBuffer)}
}

// dialOptions are the counterpart of ServerOptions. The windows never limit a
// pull: what is on its way is what its lanes have asked for.
func dialOptions(idle time.Duration) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithInitialWindowSize(laneWindow), grpc.WithInitialConnWindowSize(2 * laneWindow),
		grpc.WithWriteBufferSize(connBuffer), grpc.WithReadBufferSize(connBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectWithin(idle)})}
}

const (
	streamWindow = 4 << 20 // of what is pushed
	connWindow   = 16 << 20
	laneWindow   = 2 * (mostShare + aheadMost) * chunkSize // gRPC opens a half of it again at the latest
	connBuffer   = 128 << 10
)

var (
	_ encoding.CodecV2 = (*Codec)(nil)
	_ mem.BufferPool   = (*bufferPool)(nil)
	_ proto.Message    = (*outFrame)(nil)
)
