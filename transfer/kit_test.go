package transfer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fewer gives how often a test repeats: less under -short, which is also how the
// race detector runs.
func fewer(often, short int) int {
	if testing.Short() {
		return short
	}
	return often
}

func testCluster() ident.Cluster { return ident.Cluster{ID: 0xc1, Genesis: ident.Nonce{1, 2, 3}} }

// memSeed is a seed in memory.
type memSeed struct {
	encoded []byte
	m       *manifest.Manifest
	files   [][]byte
	records *memRecords                     // nil: none
	delay   func(ctx context.Context) error // before each chunk; may be nil
	damage  func(file, index int) bool      // whether this read gives a wrong byte; may be nil
}

type seedSpec struct {
	cluster   ident.Cluster
	index     uint64
	chunkSize uint32
	sizes     []int  // of tables
	seed      uint64 // of table i's content is seed+i, unless contents says otherwise
	contents  []uint64
}

func (s seedSpec) build(t testing.TB) *memSeed {
	t.Helper()
	if s.cluster.ID == 0 {
		s.cluster = testCluster()
	}
	if s.chunkSize == 0 {
		s.chunkSize = 4096
	}
	if s.index == 0 {
		s.index = 100
	}
	m := &manifest.Manifest{Version: manifest.Version, Cluster: s.cluster, Position: ident.Position{Term: 2, Index: s.index},
		ConfState: manifest.ConfState{Voters: []uint64{1}}, Revision: 5, FormatMajorVersion: 24, SchemaVersion: 1, ChunkSize: s.chunkSize}
	seed := &memSeed{m: m}
	add := func(kind manifest.Kind, name string, data []byte) {
		f := manifest.File{Kind: kind, Name: name, Size: uint64(len(data))}
		for _, c := range chunk.Split(data, s.chunkSize) {
			f.Chunks = append(f.Chunks, chunk.Sum(c))
		}
		f.Digest = manifest.FileDigest(f.Size, f.Chunks)
		m.Files = append(m.Files, f)
		seed.files = append(seed.files, data)
	}
	for i, size := range s.sizes {
		content := s.seed + uint64(i)
		if i < len(s.contents) {
			content = s.contents[i]
		}
		add(manifest.KindTable, fmt.Sprintf("%06d.sst", i+10), content64(content, size))
	}
	add(manifest.KindVersions, "MANIFEST-000001", content64(s.seed^7777+s.index, 300))
	add(manifest.KindOptions, "OPTIONS-000002", content64(9, 1500))
	add(manifest.KindMarker, "marker.format-version.000001.024", nil)
	add(manifest.KindMarker, "marker.manifest.000001.MANIFEST-000001", nil)
	var err error
	if seed.encoded, err = m.Marshal(); err != nil {
		t.Fatal(err)
	}
	return seed
}

// content64 is random bytes of which a half compresses.
func content64(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 99))
	out := make([]byte, n)
	for i := range out {
		if (i/64)%2 == 0 {
			out[i] = byte(r.Uint32())
		}
	}
	return out
}

func (s *memSeed) root() [32]byte        { return manifest.RootOf(s.encoded) }
func (s *memSeed) total() uint64         { return s.m.TotalBytes() }
func (s *memSeed) ManifestBytes() []byte { return s.encoded }
func (s *memSeed) ReadChunk(ctx context.Context, file, index int, buf []byte) ([]byte, error) {
	if s.delay != nil {
		if err := s.delay(ctx); err != nil {
			return nil, err
		}
	}
	off, n := chunk.Bounds(uint64(len(s.files[file])), s.m.ChunkSize, uint64(index))
	buf = append(buf[:0], s.files[file][off:off+uint64(n)]...)
	if s.damage != nil && s.damage(file, index) {
		buf[n/2] ^= 4
	}
	return buf, nil
}

// memDisk is what a target has: files by digest, partly filled.
type memDisk struct {
	mu     sync.Mutex
	files  map[[32]byte]*memFile
	opened int
	putErr error
	onPut  func(puts int) // may be nil
	puts   int
	twice  int
}

type memFile struct {
	data []byte
	have []bool
}

type memStage struct {
	disk *memDisk
	l    *layout
}

func newMemDisk() *memDisk { return &memDisk{files: make(map[[32]byte]*memFile)} }

func (d *memDisk) open(encoded []byte) (Stage, error) {
	l, err := newLayout(encoded)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened++
	for i := range l.Files {
		f := &l.Files[i]
		if d.files[f.Digest] == nil {
			d.files[f.Digest] = &memFile{data: make([]byte, f.Size), have: make([]bool, len(f.Chunks))}
		}
	}
	return &memStage{disk: d, l: l}, nil
}

func (s *memStage) Missing() []Range {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	var out []Range
	for i := range s.l.Files {
		have := s.disk.files[s.l.Files[i].Digest].have
		for c := 0; c < len(have); c++ {
			if have[c] {
				continue
			}
			first := c
			for c < len(have) && !have[c] {
				c++
			}
			out = append(out, Range{i, first, c - first})
		}
	}
	return out
}

func (s *memStage) Put(file, index int, data []byte) error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	if s.disk.putErr != nil {
		return s.disk.putErr
	}
	if len(data) != s.l.rawSize(file, index) || chunk.Sum(data) != s.l.Files[file].Chunks[index] {
		return fault.Newf(fault.Corrupt, "put", "bad sum of chunk %d of file %d", index, file)
	}
	f := s.disk.files[s.l.Files[file].Digest]
	s.disk.puts++
	if s.disk.onPut != nil {
		s.disk.onPut(s.disk.puts)
	}
	if f.have[index] {
		s.disk.twice++
	}
	f.have[index] = true
	off, _ := chunk.Bounds(s.l.Files[file].Size, s.l.ChunkSize, uint64(index))
	copy(f.data[off:], data)
	return nil
}

func (s *memStage) Close() error { return nil }

// check is the oracle: every byte of the seed is on the disk.
func (d *memDisk) check(t testing.TB, s *memSeed) {
	t.Helper()
	if diff := d.compare(s); diff != "" {
		t.Fatal(diff)
	}
}

func (d *memDisk) compare(s *memSeed) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range s.m.Files {
		f := d.files[s.m.Files[i].Digest]
		if f == nil || string(f.data) != string(s.files[i]) {
			return fmt.Sprintf("file %s is not that of the source", s.m.Files[i].Name)
		}
	}
	return ""
}

// source is a running server on loopback.
type source struct {
	addr     string
	leases   *fakeLeases
	provider *fakeProvider
	auth     *fakeAuth
	server   *Server
	wire     *wire
	grpc     *grpc.Server
	stop     func()
}

type sourceOption func(*Config, *wire)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func startSource(t testing.TB, leases *fakeLeases, seeds []*memSeed, opts ...sourceOption) *source {
	t.Helper()
	if leases == nil {
		leases = newFakeLeases()
	}
	s := &source{leases: leases, provider: &fakeProvider{}, auth: &fakeAuth{}, wire: &wire{}}
	for _, seed := range seeds {
		s.provider.seeds = append(s.provider.seeds, seed)
	}
	cfg := Config{Authorizer: s.auth, Leases: leases, Seeds: s.provider, Digests: fakeDigests{}, Dial: dialTCP,
		Cluster: testCluster, Logger: quiet(), Conns: new(ConnMeter), SlotGrace: 5 * time.Millisecond, Channels: true}
	for _, o := range opts {
		o(&cfg, s.wire)
	}
	var err error
	if s.server, err = NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	s.addr, s.grpc = serveBoth(t, cfg.Conns, s.wire, s.server, func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, s.server) })
	s.stop = sync.OnceFunc(func() {
		s.wire.kill()
		s.grpc.Stop()
		if err := s.server.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// serve starts a gRPC server behind a faulty wire.
func serve(t testing.TB, meter *ConnMeter, w *wire, register func(*grpc.Server), opts ...grpc.ServerOption) (string, *grpc.Server) {
	return serveBoth(t, meter, w, nil, register, opts...)
}

// serveBoth is serve with the channels of a server, if that is not nil, on the
// same address.
func serveBoth(t testing.TB, meter *ConnMeter, w *wire, channels *Server, register func(*grpc.Server), opts ...grpc.ServerOption) (string, *grpc.Server) {
	t.Helper()
	addr, g := serveOn(t, meter, channels, w.listen, register, opts...)
	t.Cleanup(w.kill) // first
	return addr, g
}

// serveOn is serveBoth without the wire; listen goes around the listener.
func serveOn(t testing.TB, meter *ConnMeter, channels *Server, listen func(net.Listener) net.Listener, register func(*grpc.Server), opts ...grpc.ServerOption) (string, *grpc.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	split, err := netsec.Files{}.Split(netsec.URL{Scheme: "http"}, l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if opts == nil {
		opts = ServerOptions()
	}
	g := grpc.NewServer(append(opts, grpc.Creds(split.Credentials()))...)
	register(g)
	var wg sync.WaitGroup
	listener := listen(l)
	if meter != nil {
		listener = meter.Listen(listener)
	}
	if channels != nil {
		apart := split.Apart(ChannelProtocol)
		wg.Go(func() {
			if err := channels.ServeChannels(context.Background(), apart); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() { _ = g.Serve(split.Listen(listener)) })
	t.Cleanup(func() {
		if err := split.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if channels != nil {
			_ = channels.Close() // ends channels
		}
		wg.Wait()
	})
	return l.Addr().String(), g
}

func dialTCP(_ context.Context, endpoint string, opts ...grpc.DialOption) (Conn, error) {
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return grpc.NewClient("passthrough:///"+bare(endpoint), opts...)
}

func dialChannel(ctx context.Context, endpoint string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
	return netsec.DialApart(ctx, "http://"+bare(endpoint), netsec.Files{}, ChannelProtocol, wrap)
}

// ways are how chunks come.
func ways() map[string]DialChannelFunc {
	return map[string]DialChannelFunc{"channels": dialChannel, "streams": nil}
}

func pullConfig(disk *memDisk, endpoints ...string) PullConfig {
	return PullConfig{Endpoints: endpoints, Dial: dialTCP, DialChannel: dialChannel, OpenStage: disk.open, Logger: quiet(), Target: "test",
		Grace: 20 * time.Millisecond, Backoff: func(int) time.Duration { return time.Millisecond }}
}

func wantCode(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Fatalf("error %v (%s), want %s", err, fault.CodeOf(err), code)
	}
}

// collect gives a sender's send function that keeps copies of the frames.
func collect(out *[]*chainfirev1.GetSnapshotResponse) func(*chainfirev1.GetSnapshotResponse, mem.Buffer) error {
	return func(f *chainfirev1.GetSnapshotResponse, _ mem.Buffer) error {
		*out = append(*out, proto.CloneOf(f))
		return nil
	}
}

func testIntake(t testing.TB, l *layout, stage Stage) *intake {
	t.Helper()
	codec, err := chunk.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codec.Close)
	return &intake{layout: l, stage: stage, codec: codec, pool: newBufferPool(), report: new(reporter), attempts: make(map[chunkID]int)}
}

// TestOracleSeesDamage: the comparison that the other tests rely on.
func TestOracleSeesDamage(t *testing.T) {
	seed := seedSpec{sizes: []int{5000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	disk := newMemDisk()
	if diff := disk.compare(seed); diff == "" {
		t.Error("an empty disk is taken for a whole one")
	}
	if _, err := Pull(t.Context(), pullConfig(disk, src.addr)); err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	disk.files[seed.m.Files[0].Digest].data[4999] ^= 1
	if diff := disk.compare(seed); diff == "" {
		t.Error("a flipped bit is not seen")
	}
}
