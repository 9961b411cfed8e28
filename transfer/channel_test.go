package transfer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// TestChannelFormat holds the bytes of the package comment's table.
func TestChannelFormat(t *testing.T) {
	p := part{kind: partChunk, compression: 2, length: 0x030201, file: 4, index: 5, rawSize: 0x060000, seed: 0x1122334455667788, xxh3: 0x99aabbccddeeff00}
	const want = "02020000" + "01020300" + "04000000" + "05000000" + "00000600" + "00000000" + "8877665544332211" + "00ffeeddccbbaa99"
	b := p.append(nil)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(b) != channelHead {
		t.Fatalf("%d bytes", len(b))
	}
	if back, err := parsePart((*[channelHead]byte)(b)); err != nil || back != p {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestParsePart(t *testing.T) {
	good := func(change func(p *part)) []byte {
		p := part{kind: partChunk, length: bufferSize, rawSize: 7, seed: 1, xxh3: 2}
		change(&p)
		return p.append(nil)
	}
	bytesOf := func(at int, v byte) []byte {
		b := good(func(*part) {})
		b[at] = v
		return b
	}
	for name, tc := range map[string]struct {
		in []byte
		ok bool
	}{
		"chunk":                   {good(func(*part) {}), true},
		"chunk too long":          {good(func(p *part) { p.length = bufferSize + 1 }), false},
		"message":                 {(&part{kind: partMessage, length: channelMessage}).append(nil), true},
		"message too long":        {(&part{kind: partMessage, length: channelMessage + 1}).append(nil), false},
		"message with a file":     {(&part{kind: partMessage, length: 1, file: 1}).append(nil), false},
		"message with a seed":     {(&part{kind: partMessage, length: 1, seed: 1}).append(nil), false},
		"request":                 {(&part{kind: partRequest, length: 1}).append(nil), true},
		"kind 0, as HTTP/2 has":   {bytesOf(0, 0), false},
		"kind 4":                  {bytesOf(0, 4), false},
		"third byte":              {bytesOf(2, 1), false},
		"fourth byte":             {bytesOf(3, 1), false},
		"word that is to be zero": {bytesOf(20, 1), false},
	} {
		p, err := parsePart((*[channelHead]byte)(tc.in))
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && !bytes.Equal(p.append(nil), tc.in) {
			t.Errorf("%s: is not written as it was read", name)
		}
	}
}

// stream is a connection of which one side is bytes in memory.
type stream struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *stream) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stream) Write(p []byte) (int, error) { return s.out.Write(p) }

// FuzzChannel reads frames and requests from whatever comes.
func FuzzChannel(f *testing.F) {
	sent := &stream{}
	c := newChannel(sent, newBufferPool())
	for _, m := range []*chainfirev1.GetSnapshotResponse{beginFrame([32]byte{1}), endFrame(1, 2), errorFrame(errors.New("x")), fileEndFrame(1, [32]byte{2})} {
		if err := c.sendFrame(m, nil); err != nil {
			f.Fatal(err)
		}
	}
	data := mem.SliceBuffer("some data")
	if err := c.sendFrame(&chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Chunk{
		Chunk: &chainfirev1.FrameChunk{Seed: 1, File: 2, Index: 3, RawSize: 9, Xxh3: 4}}}, data); err != nil {
		f.Fatal(err)
	}
	f.Add(sent.out.Bytes())
	sent.out.Reset()
	if err := c.send(partRequest, &chainfirev1.ChannelRequest{Channel: []byte{1}, Request: &chainfirev1.GetSnapshotRequest{LeaseId: 7}}); err != nil {
		f.Fatal(err)
	}
	f.Add(sent.out.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newChannel(&stream{in: bytes.NewReader(in)}, newBufferPool())
		total := 0
		for {
			frame := newInFrame()
			if err := c.frame(frame); err != nil {
				break
			}
			if frame.GetChunk() != nil && uint64(len(frame.GetChunk().GetData())) > bufferSize {
				t.Fatal("a chunk beyond the bound")
			}
			total += channelHead
			frame.free()
		}
		if total > len(in) {
			t.Fatalf("%d bytes of frames in %d", total, len(in))
		}
		c = newChannel(&stream{in: bytes.NewReader(in)}, newBufferPool())
		for {
			if _, err := c.request(); err != nil {
				return
			}
		}
	})
}

// Frames over a channel are the frames that were sent.
func TestChannelFrames(t *testing.T) {
	data := content64(1, 70_000)
	sent := []*chainfirev1.GetSnapshotResponse{beginFrame([32]byte{1}),
		{Frame: &chainfirev1.GetSnapshotResponse_Chunk{Chunk: &chainfirev1.FrameChunk{Seed: 9, File: ManifestFile, Index: 3, RawSize: 70_000,
			Compression: 1, Xxh3: 4, Data: data}}},
		fileEndFrame(1, [32]byte{2}), endFrame(1, 2), errorFrame(fault.Newf(fault.LeaseLost, "x", "gone").WithHint("again"))}
	line := &stream{}
	c := newChannel(line, newBufferPool())
	for _, f := range sent {
		var payload mem.Buffer
		if f.GetChunk() != nil {
			payload = mem.SliceBuffer(data)
		}
		if err := c.sendFrame(f, payload); err != nil {
			t.Fatal(err)
		}
	}
	c = newChannel(&stream{in: &line.out}, newBufferPool())
	for i, want := range sent {
		got := newInFrame()
		if err := c.frame(got); err != nil || !proto.Equal(got.GetSnapshotResponse, want) {
			t.Errorf("frame %d: %v, %v", i, got.GetSnapshotResponse, err)
		}
		got.free()
	}
	if err := c.frame(newInFrame()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the last frame: %v", err)
	}
	if err := c.send(partMessage, &chainfirev1.GetSnapshotResponse{Frame: &chainfirev1.GetSnapshotResponse_Error{
		Error: &chainfirev1.FrameError{Message: string(make([]byte, channelMessage))}}}); err == nil {
		t.Error("a message beyond the bound is sent")
	}
}

// A source that offers channels and has none, for something lies between, is
// pulled from by streams.
func TestChannelsAbsent(t *testing.T) {
	seed := seedSpec{sizes: []int{50_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	for name, peer := range map[string]func(net.Conn){
		"closes":             func(c net.Conn) { _ = c.Close() },
		"says nothing":       func(net.Conn) {},
		"answers in another": func(c net.Conn) { _, _ = c.Write(make([]byte, 100)) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := pullConfig(newMemDisk(), src.addr)
			var dials atomic.Int32
			cfg.DialChannel = func(_ context.Context, _ string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
				dials.Add(1)
				near, far := net.Pipe()
				go func() {
					_, _ = far.Read(make([]byte, 1<<10)) // the request
					peer(far)
					_, _ = io.Copy(io.Discard, far)
				}()
				return wrap(near), nil
			}
			disk := newMemDisk()
			cfg.OpenStage = disk.open
			res, err := Pull(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			disk.check(t, seed)
			if n := dials.Load(); n == 0 || n > longLanes || res.Failovers != 0 || res.Retries != 0 {
				t.Errorf("%d channels, result %+v", n, res)
			}
		})
	}
	t.Run("can not be dialled", func(t *testing.T) {
		disk := newMemDisk()
		cfg := pullConfig(disk, src.addr)
		cfg.DialChannel = func(context.Context, string, func(net.Conn) net.Conn) (net.Conn, error) { return nil, errCut }
		if _, err := Pull(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		disk.check(t, seed)
	})
}

// Over a channel a source serves whoever brings the secret of the seed, and
// nobody else.
func TestChannelSecret(t *testing.T) {
	seed := seedSpec{sizes: []int{5000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	open, err := client(t, src.addr).OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(secret []byte, change func(*chainfirev1.GetSnapshotRequest)) *chainfirev1.GetSnapshotResponse {
		t.Helper()
		conn, err := dialChannel(t.Context(), src.addr, func(c net.Conn) net.Conn { return c })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		req := &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: open.GetMeta().GetManifestRoot(),
			Ranges: []*chainfirev1.FileRange{{File: 0}}}
		change(req)
		c := newChannel(conn, newBufferPool())
		if err := c.send(partRequest, &chainfirev1.ChannelRequest{Channel: secret, Request: req}); err != nil {
			t.Fatal(err)
		}
		f := newInFrame()
		if err := c.frame(f); err != nil {
			t.Fatal(err)
		}
		return f.GetSnapshotResponse
	}
	same := func(*chainfirev1.GetSnapshotRequest) {}
	if f := ask(open.GetChannel(), same); f.GetBegin() == nil {
		t.Errorf("with the secret: %v", f)
	}
	wrong := bytes.Clone(open.GetChannel())
	wrong[15] ^= 1
	for name, secret := range map[string][]byte{"none": nil, "another": wrong, "a part": open.GetChannel()[:15]} {
		if f := ask(secret, same); f.GetError().GetCode() != string(fault.Unreachable) {
			t.Errorf("%s: %v", name, f)
		}
	}
	if f := ask(open.GetChannel(), func(r *chainfirev1.GetSnapshotRequest) { r.LeaseId++ }); f.GetError() == nil {
		t.Errorf("for another lease: %v", f)
	}
	// Whoever opened it is asked about at every request.
	src.auth.deny = func(rpc string) bool { return rpc == chainfirev1.Seed_GetSnapshot_FullMethodName }
	if f := ask(open.GetChannel(), same); f.GetError().GetCode() != string(fault.Unreachable) || !strings.Contains(f.GetError().GetMessage(), "must ask again") {
		t.Errorf("no longer allowed: %v", f)
	}
	src.auth.deny = nil
	again, err := client(t, src.addr).OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil || bytes.Equal(again.GetChannel(), open.GetChannel()) {
		t.Errorf("another seed has the same secret: %v", err)
	}
}

// A part that comes in pieces, with pauses between them, is read as it is: the
// system must not wait for more than there is.
func TestChannelInPieces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()

	line := &stream{}
	c := newChannel(line, newBufferPool())
	data := mem.SliceBuffer(content64(1, 1<<20))
	sent := []*chainfirev1.GetSnapshotResponse{{Frame: &chainfirev1.GetSnapshotResponse_Chunk{
		Chunk: &chainfirev1.FrameChunk{Seed: 1, File: 2, Index: 3, RawSize: 1 << 20, Xxh3: 4}}}, endFrame(1, 1<<20)}
	if err := errors.Join(c.sendFrame(sent[0], data), c.sendFrame(sent[1], nil)); err != nil {
		t.Fatal(err)
	}
	all := line.out.Bytes()
	end := len(all) - channelHead + 15 // what is left is less than a head
	pieces := [][]byte{all[:20], all[20:60], all[60:end], all[end : end+13], all[end+13:]}
	next := make(chan struct{})
	go func() {
		for _, p := range pieces {
			_, _ = far.Write(p)
			<-next
		}
	}()
	reader := newChannel(near, newBufferPool())
	reader.atOnce = channelWake
	frames := make(chan *inFrame)
	go func() {
		for range sent {
			f := newInFrame()
			if err := reader.frame(f); err != nil {
				t.Error(err)
			}
			frames <- f
		}
	}()
	wait := func() (f *inFrame) {
		select {
		case f = <-frames:
		case <-time.After(50 * time.Millisecond): // the reader has taken what there is
		}
		return f
	}
	var got []*inFrame
	for range pieces {
		if f := wait(); f != nil {
			got = append(got, f)
		}
		next <- struct{}{}
	}
	for len(got) < len(sent) {
		select {
		case f := <-frames:
			got = append(got, f)
		case <-time.After(20 * time.Second):
			t.Fatalf("%d frames of %d: the rest is in the system, which wakes nobody for it", len(got), len(sent))
		}
	}
	if len(got[0].GetChunk().GetData()) != 1<<20 || got[1].GetEnd().GetChunks() != 1 {
		t.Errorf("%v, %v", got[0].GetChunk().GetIndex(), got[1])
	}
	for _, f := range got {
		f.free()
	}
}

// Strangers are as many as there may be, and do not keep out who has a secret.
func TestChannelStrangers(t *testing.T) {
	seed := seedSpec{sizes: []int{50_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	var conns []net.Conn
	for range maxStrangers + 20 {
		conn, err := dialChannel(t.Context(), src.addr, func(c net.Conn) net.Conn { return c })
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	ended := make(chan int, len(conns))
	for i, c := range conns {
		go func() {
			_, _ = c.Read(make([]byte, 1))
			ended <- i
		}()
	}
	for range 20 {
		<-ended // at once, not after channelFirst
	}
	if n := len(src.server.strangers); n != maxStrangers {
		t.Errorf("%d strangers", n)
	}
	disk := newMemDisk() // by streams
	if _, err := Pull(t.Context(), pullConfig(disk, src.addr)); err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
}

// A connection that asks for nothing is ended, soon when it never did.
func TestSilentChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(Config{Authorizer: &fakeAuth{}, Leases: newFakeLeases(), Seeds: &fakeProvider{}, Cluster: testCluster, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		near, far := net.Pipe()
		began := time.Now()
		s.channel(t.Context(), near)
		if took := time.Since(began); took != channelFirst {
			t.Errorf("ended after %s, want %s", took, channelFirst)
		}
		if _, err := far.Write([]byte{1}); err == nil {
			t.Error("the connection is open")
		}
	})
}

// fileSeed is a seed in files.
type fileSeed struct {
	*memSeed
	dir           string
	opened, reads atomic.Int32
}

func newFileSeed(t *testing.T, seed *memSeed) *fileSeed {
	t.Helper()
	f := &fileSeed{memSeed: seed, dir: t.TempDir()}
	for i, data := range seed.files {
		if err := os.WriteFile(f.path(i), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fileSeed) path(file int) string { return filepath.Join(f.dir, f.m.Files[file].Name) }

func (f *fileSeed) OpenChunk(file, index int) (interface {
	Fd() uintptr
	Close() error
}, int64, error) {
	f.opened.Add(1)
	off, _ := chunk.Bounds(uint64(len(f.files[file])), f.m.ChunkSize, uint64(index))
	opened, err := os.Open(f.path(file))
	return opened, int64(off), err
}

func (f *fileSeed) ReadChunk(_ context.Context, file, index int, buf []byte) ([]byte, error) {
	f.reads.Add(1)
	off, n := chunk.Bounds(uint64(len(f.files[file])), f.m.ChunkSize, uint64(index))
	data, err := os.ReadFile(f.path(file))
	if err != nil {
		return nil, err
	}
	buf = append(buf[:0], data[min(off, uint64(len(data))):min(off+uint64(n), uint64(len(data)))]...)
	if chunk.Sum(buf) != f.m.Files[file].Chunks[index] {
		return nil, fault.Newf(fault.Corrupt, "read chunk", "chunk %d is not what was captured", index)
	}
	return buf, nil
}

// plainSource is a source whose connections are sockets as they are.
func plainSource(t *testing.T, seed Seed) string {
	t.Helper()
	s, err := NewServer(Config{Authorizer: &fakeAuth{}, Leases: newFakeLeases(), Seeds: &fakeProvider{seeds: []Seed{seed}},
		Cluster: testCluster, Logger: quiet(), Conns: new(ConnMeter), Channels: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	addr, _ := serveOn(t, s.cfg.Conns, s, func(l net.Listener) net.Listener { return l },
		func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, s) })
	return addr
}

// What lies in files is sent without being read, but for a look now and then;
// where it differs from the manifest, the target says so and it is checked.
func TestChannelFromFiles(t *testing.T) {
	seed := newFileSeed(t, seedSpec{chunkSize: 64 << 10, sizes: []int{12<<20 + 11, 100}}.build(t))
	addr := plainSource(t, seed)
	pull := func() (*memDisk, PullResult, error) {
		disk := newMemDisk()
		cfg := pullConfig(disk, addr)
		cfg.Compression = "none"
		res, err := Pull(t.Context(), cfg)
		return disk, res, err
	}
	disk, res, err := pull()
	if err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed.memSeed)
	if o, r := seed.opened.Load(), seed.reads.Load(); rawFiles && (o < 190 || r != 0) || res.BytesWire < seed.total() {
		t.Errorf("%d chunks from files, %d read, %d bytes on the wire", o, r, res.BytesWire)
	}

	data := bytes.Clone(seed.files[0])
	data[5<<20] ^= 8
	if err := os.WriteFile(seed.path(0), data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, res, err = pull()
	wantCode(t, err, fault.Corrupt)
	if rawFiles && (res.BytesRefetched == 0 || seed.reads.Load() == 0) {
		t.Errorf("%d bytes again, %d chunks checked", res.BytesRefetched, seed.reads.Load())
	}

	// A file that became shorter is read when it is asked for again: then it has a
	// name what is wrong.
	if err := os.WriteFile(seed.path(0), seed.files[0][:6<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	seed.reads.Store(0)
	_, _, err = pull()
	wantCode(t, err, fault.Corrupt)
	if seed.reads.Load() == 0 {
		t.Error("nothing was read")
	}
}
