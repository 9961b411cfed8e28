package transfer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// ChannelProtocol names the protocol of a channel: by ALPN where there is TLS.
const ChannelProtocol = "cfseed-channel/1"

// Bounds of the channel format, in bytes; see the package comment.
const (
	channelHead    = 40
	channelMessage = 64 << 10 // of a message that is no chunk
	channelSecret  = 16
	channelWake    = 256 << 10 // that a reader waits for on a fast line, on which the last chunk came
	channelFast    = 32 << 20  // bytes a second or sooner; on another, less than a watchdog takes for silence
)

// Kinds of parts.
const (
	partMessage = 1 // a GetSnapshotResponse that carries no chunk
	partChunk   = 2
	partRequest = 3 // a ChannelRequest
)

// part is the head of a part of a channel.
type part struct {
	kind        byte
	compression uint8
	length      uint32
	file, index uint32
	rawSize     uint32
	seed, xxh3  uint64
}

func (p *part) append(dst []byte) []byte {
	dst = append(dst, p.kind, p.compression, 0, 0)
	for _, v := range []uint32{p.length, p.file, p.index, p.rawSize, 0} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	dst = binary.LittleEndian.AppendUint64(dst, p.seed)
	return binary.LittleEndian.AppendUint64(dst, p.xxh3)
}

var errNoPart = errors.New("what came is no part of a channel")

// parsePart reads a head and bounds the length of what follows.
func parsePart(b *[channelHead]byte) (p part, err error) {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
	p = part{kind: b[0], compression: b[1], length: word(4), file: word(8), index: word(12), rawSize: word(16),
		seed: binary.LittleEndian.Uint64(b[24:]), xxh3: binary.LittleEndian.Uint64(b[32:])}
	most := uint32(channelMessage)
	switch p.kind {
	case partMessage, partRequest:
		if p != (part{kind: p.kind, length: p.length}) {
			return part{}, errNoPart
		}
	case partChunk:
		most = bufferSize
	default:
		return part{}, errNoPart
	}
	if b[2]|b[3] != 0 || word(20) != 0 || p.length > most {
		return part{}, errNoPart
	}
	return p, nil
}

// channel is one connection for the chunks of a seed, at either side. Reading
// and writing may go on at the same time, each by one goroutine.
type channel struct {
	conn net.Conn
	pool *bufferPool
	raw  *rawConn // past which the system sends from files; nil where it can not
	in   [channelHead]byte
	out  []byte
	wake int // as the system was told; 0: not

	atOnce int // bytes of a chunk that the reader wakes for
}

func newChannel(conn net.Conn, pool *bufferPool) *channel {
	return &channel{conn: conn, pool: pool, raw: rawOf(conn), out: make([]byte, 0, 1<<10), atOnce: noise}
}

// head reads the next part's head. io.EOF says that the connection ended between
// two parts.
func (c *channel) head() (part, error) {
	if _, err := io.ReadFull(c.conn, c.in[:]); err != nil {
		return part{}, err
	}
	return parsePart(&c.in)
}

// body reads a chunk's data into a pooled buffer, which the caller frees.
func (c *channel) body(p part) (_ mem.Buffer, err error) {
	buf := c.pool.Get(int(p.length))
	defer c.wakeAt(1) // the head that follows may come in pieces
	began := time.Now()
	for got := 0; got < len(*buf) && err == nil; {
		c.wakeAt(min(len(*buf)-got, c.atOnce))
		var k int
		k, err = c.conn.Read((*buf)[got:])
		got += k
		if got == len(*buf) {
			err = nil
		}
	}
	if err != nil {
		c.pool.Put(buf)
		return nil, noEOF(err)
	}
	c.atOnce = noise
	if p.length > 0 && time.Since(began) < time.Duration(p.length)*time.Second/channelFast {
		c.atOnce = channelWake
	}
	return mem.NewBuffer(buf, c.pool), nil
}

// wakeAt makes the system wake the reader when so many bytes have come, and not
// for every packet. It is advice: what fails costs time only.
func (c *channel) wakeAt(n int) {
	if c.raw != nil && c.wake != n {
		c.raw.wakeAt(n)
		c.wake = n
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// message reads what follows a head into m.
func (c *channel) message(p part, m proto.Message) error {
	b := make([]byte, p.length)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		return noEOF(err)
	}
	return proto.Unmarshal(b, m)
}

// frame reads the next frame; a chunk's data lies in f's payload.
func (c *channel) frame(f *inFrame) error {
	f.free()
	p, err := c.head()
	if err != nil {
		return noEOF(err)
	}
	switch p.kind {
	case partMessage:
		if err := c.message(p, f.GetSnapshotResponse); err != nil {
			return err
		}
		if f.GetChunk() != nil {
			return errNoPart
		}
		return nil
	case partChunk:
		if f.payload, err = c.body(p); err != nil {
			return err
		}
		f.Frame = &chainfirev1.GetSnapshotResponse_Chunk{Chunk: &chainfirev1.FrameChunk{Seed: p.seed, File: p.file, Index: p.index,
			RawSize: p.rawSize, Compression: uint32(p.compression), Xxh3: p.xxh3, Data: f.payload.ReadOnlyData()}}
		return nil
	}
	return errNoPart
}

// request reads the next request. io.EOF says that there is none.
func (c *channel) request() (*chainfirev1.ChannelRequest, error) {
	p, err := c.head()
	if err != nil {
		return nil, err
	}
	if p.kind != partRequest {
		return nil, errNoPart
	}
	req := &chainfirev1.ChannelRequest{}
	return req, c.message(p, req)
}

// send writes a message of kind.
func (c *channel) send(kind byte, m proto.Message) error {
	size := proto.Size(m)
	if size > channelMessage {
		return fault.Newf(fault.Internal, "write to channel", "a message of %d bytes, at most %d", size, channelMessage)
	}
	p := part{kind: kind, length: uint32(size)}
	var err error
	if c.out, err = (proto.MarshalOptions{}).MarshalAppend(p.append(c.out[:0]), m); err != nil {
		return fault.New(fault.Internal, "write to channel", err)
	}
	_, err = c.conn.Write(c.out)
	return err
}

// sendFrame writes a frame; payload is the data of a chunk.
func (c *channel) sendFrame(f *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
	chunk := f.GetChunk()
	if chunk == nil {
		return c.send(partMessage, f)
	}
	data := payload.ReadOnlyData()
	_, err := c.conn.Write(chunkPart(chunk, len(data)).append(c.out[:0]))
	for len(data) > 0 && err == nil { // in pieces, so that a slow line shows progress
		n := min(len(data), connBuffer)
		_, err = c.conn.Write(data[:n])
		data = data[n:]
	}
	return err
}

// sendFile writes a chunk whose n bytes lie in a file at offset.
func (c *channel) sendFile(chunk *chainfirev1.FrameChunk, fd uintptr, offset int64, n int) error {
	return c.raw.sendFile(chunkPart(chunk, n).append(c.out[:0]), fd, offset, n)
}

// fileError says that a chunk could not be sent because of its file: read, it
// tells more.
type fileError struct{ err error }

func (e *fileError) Error() string { return "send from file: " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

func chunkPart(c *chainfirev1.FrameChunk, n int) *part {
	return &part{kind: partChunk, compression: uint8(c.GetCompression()), length: uint32(n), file: c.GetFile(), index: c.GetIndex(),
		rawSize: c.GetRawSize(), seed: c.GetSeed(), xxh3: c.GetXxh3()}
}

// newSecret is what lets a target that opened a seed open channels for it.
func newSecret() (s [channelSecret]byte) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}
