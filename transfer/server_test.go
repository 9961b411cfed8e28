package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func client(t testing.TB, addr string) chainfirev1.SeedClient {
	t.Helper()
	conn, err := dialTCP(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return chainfirev1.NewSeedClient(conn)
}

// callAll calls every method of the Seed service by reflection, so that one
// added to the service is called as well, and gives each one's error.
func callAll(t *testing.T, c chainfirev1.SeedClient) map[string]error {
	t.Helper()
	out := make(map[string]error)
	v := reflect.ValueOf(c)
	iface := reflect.TypeFor[chainfirev1.SeedClient]()
	for i := range iface.NumMethod() {
		m := iface.Method(i)
		req := reflect.New(m.Type.In(1).Elem())
		res := v.MethodByName(m.Name).Call([]reflect.Value{reflect.ValueOf(t.Context()), req})
		err, _ := res[1].Interface().(error)
		if stream, ok := res[0].Interface().(grpc.ClientStream); ok && err == nil {
			err = stream.RecvMsg(new(chainfirev1.GetSnapshotResponse))
		}
		out[m.Name] = err
	}
	return out
}

// TestEveryRPCIsAuthorised: whatever is in the service asks the authoriser
// first, by its own name.
func TestEveryRPCIsAuthorised(t *testing.T) {
	src := startSource(t, nil, []*memSeed{seedSpec{}.build(t)})
	src.auth.deny = func(string) bool { return true }
	answers := callAll(t, client(t, src.addr))
	if len(answers) != len(chainfirev1.Seed_ServiceDesc.Methods)+len(chainfirev1.Seed_ServiceDesc.Streams) {
		t.Fatalf("%d methods called", len(answers))
	}
	for rpc, err := range answers {
		if got := fault.CodeOf(rpcfault.FromStatus(rpc, err)); got != fault.Permission {
			t.Errorf("%s: %v (%s), want permission", rpc, err, got)
		}
		if _, asked := src.auth.asked.Load("/" + chainfirev1.Seed_ServiceDesc.ServiceName + "/" + rpc); !asked {
			t.Errorf("%s did not ask the authoriser by its name", rpc)
		}
	}
	opens, _ := src.leases.calls()
	if acquired, _ := src.provider.counts(); opens+acquired != 0 {
		t.Error("work was done before authorisation")
	}
	// Denied one by one: a pull that may open but not read ends the same way.
	for _, rpc := range []string{"OpenSeed", "GetSnapshot"} {
		src.auth.deny = func(full string) bool { return strings.HasSuffix(full, "/"+rpc) }
		_, err := Pull(t.Context(), pullConfig(newMemDisk(), src.addr))
		wantCode(t, err, fault.Permission)
	}
	// The other way round: nobody is denied everything by the test itself.
	src.auth.deny = nil
	for rpc, err := range callAll(t, client(t, src.addr)) {
		if fault.Is(rpcfault.FromStatus(rpc, err), fault.Permission) {
			t.Errorf("%s is denied to all", rpc)
		}
	}
}

func TestRequestsAreChecked(t *testing.T) {
	seed := seedSpec{sizes: []int{10_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root := seed.root()
	get := func(change func(r *chainfirev1.GetSnapshotRequest)) error {
		r := &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: root[:]}
		change(r)
		stream, err := c.GetSnapshot(t.Context(), r)
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return rpcfault.FromStatus("get", err)
	}
	ranges := func(rs ...*chainfirev1.FileRange) func(r *chainfirev1.GetSnapshotRequest) {
		return func(r *chainfirev1.GetSnapshotRequest) { r.Ranges = rs }
	}
	for name, tc := range map[string]struct {
		change func(r *chainfirev1.GetSnapshotRequest)
		code   fault.Code
	}{
		"nothing asked":     {ranges(), ""},
		"to the end":        {ranges(&chainfirev1.FileRange{File: 0, FirstChunk: 1}), ""},
		"empty file":        {ranges(&chainfirev1.FileRange{File: 3}), ""},
		"file out of range": {ranges(&chainfirev1.FileRange{File: 99}), fault.Usage},
		"manifest's number": {ranges(&chainfirev1.FileRange{File: ManifestFile}), fault.Usage},
		"chunk past end":    {ranges(&chainfirev1.FileRange{FirstChunk: 3, Chunks: 1}), fault.Usage},
		"count past end":    {ranges(&chainfirev1.FileRange{Chunks: 0xffffffff}), fault.Usage},
		"first past end":    {ranges(&chainfirev1.FileRange{FirstChunk: 0xffffffff}), fault.Usage},
		"short root":        {func(r *chainfirev1.GetSnapshotRequest) { r.ManifestRoot = root[:4] }, fault.Usage},
		"other root":        {func(r *chainfirev1.GetSnapshotRequest) { r.ManifestRoot = make([]byte, 32) }, fault.Unreachable},
		"other lease":       {func(r *chainfirev1.GetSnapshotRequest) { r.LeaseId = 999 }, fault.LeaseLost},
		"compression":       {func(r *chainfirev1.GetSnapshotRequest) { r.Compression = "rar" }, fault.Usage},
		"too many ranges": {func(r *chainfirev1.GetSnapshotRequest) {
			for range maxRanges + 1 {
				r.Ranges = append(r.Ranges, &chainfirev1.FileRange{File: 3})
			}
		}, fault.Usage},
	} {
		t.Run(name, func(t *testing.T) {
			if err := get(tc.change); fault.CodeOf(err) != tc.code {
				t.Errorf("%v (%s), want %q", err, fault.CodeOf(err), tc.code)
			}
		})
	}
	for name, req := range map[string]*chainfirev1.OpenSeedRequest{
		"nonce": {ClusterId: 0xc1, GenesisNonce: []byte{1}},
		"root":  {ManifestRoot: []byte{1}},
	} {
		if _, err := c.OpenSeed(t.Context(), req); !fault.Is(rpcfault.FromStatus("", err), fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	renewed, err := c.RenewLease(t.Context(), &chainfirev1.RenewLeaseRequest{LeaseId: open.GetMeta().GetLeaseId()})
	if err != nil || renewed.GetTtlMs() != 60_000 {
		t.Errorf("renewed %v: %v", renewed, err)
	}
	digest, err := c.DigestAt(t.Context(), &chainfirev1.DigestAtRequest{Index: 200})
	if err != nil || digest.GetIndex() != 200 || len(digest.GetDigest()) != 16 || digest.GetRevision() != 5 {
		t.Errorf("digest %v: %v", digest, err)
	}
	if _, err := c.CloseLease(t.Context(), &chainfirev1.CloseLeaseRequest{LeaseId: open.GetMeta().GetLeaseId()}); err != nil {
		t.Error(err)
	}
	if err := get(ranges()); !fault.Is(err, fault.LeaseLost) {
		t.Errorf("after the lease was closed: %v", err)
	}
	eventually(t, "the seed is given back", func() bool {
		_, held := src.provider.counts()
		return held == 0
	})
}

// TestReleaseIsAside: a seed whose files take long to delete holds up neither
// other seeds nor the closing of its lease; Close waits for it.
func TestReleaseIsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deleted := make(chan struct{})
		goOn := sync.OnceFunc(func() { close(deleted) })
		provider := &fakeProvider{seeds: []Seed{seedSpec{}.build(t)}, release: func() { <-deleted }}
		s, err := NewServer(Config{Authorizer: &fakeAuth{}, Leases: newFakeLeases(), Seeds: provider, Cluster: testCluster, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		sess, err := s.open(t.Context(), &chainfirev1.OpenSeedRequest{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // for the janitor, which takes the lock as well
		closed := make(chan error, 1)
		go func() {
			_, err := s.CloseLease(t.Context(), &chainfirev1.CloseLeaseRequest{LeaseId: sess.lease.ID})
			closed <- err
		}()
		synctest.Wait()
		if s.mu.TryLock() {
			s.mu.Unlock()
		} else {
			t.Error("the seed is given back under the lock")
			goOn()
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Close() }()
		synctest.Wait()
		if _, held := provider.counts(); held != 0 && len(ended) != 0 {
			t.Error("Close did not wait")
		}
		goOn()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestGeneratedClient: a client that knows nothing of the raw codec reads the
// same stream, from a server with it and from one without.
func TestGeneratedClient(t *testing.T) {
	seed := seedSpec{sizes: []int{10_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	plain, _ := serve(t, nil, new(wire), func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, src.server) },
		grpc.MaxRecvMsgSize(MaxMessage))
	for _, addr := range []string{src.addr, plain} {
		c := client(t, addr)
		open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := c.GetSnapshot(t.Context(), &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(),
			ManifestRoot: open.GetMeta().GetManifestRoot(), Compression: "none", Ranges: []*chainfirev1.FileRange{{File: 0}}})
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		var end *chainfirev1.FrameEnd
		for {
			f, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, f.GetChunk().GetData()...)
			if f.GetEnd() != nil {
				end = f.GetEnd()
			}
		}
		if string(data) != string(seed.files[0]) || end.GetChunks() != 3 || end.GetRawBytes() != 10_000 {
			t.Errorf("%d bytes, end %v", len(data), end)
		}
		// The raw client does as well with a server that has no raw codec.
		disk := newMemDisk()
		if _, err := Pull(t.Context(), pullConfig(disk, addr)); err != nil {
			t.Fatal(err)
		}
		disk.check(t, seed)
	}
}

// TestErrorFrame: a lease that ends in the middle of a stream is told in a frame.
func TestErrorFrame(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	reads := 0
	seed.delay = func(context.Context) error {
		if reads++; reads == 3 {
			src.leases.expireAll()
		}
		return nil
	}
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.GetSnapshot(t.Context(), &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(),
		ManifestRoot: open.GetMeta().GetManifestRoot(), Ranges: []*chainfirev1.FileRange{{File: 0}}})
	var kinds []string
	for err == nil {
		var f *chainfirev1.GetSnapshotResponse
		if f, err = stream.Recv(); err == nil {
			kinds = append(kinds, fmt.Sprintf("%T %s", f.GetFrame(), f.GetError().GetCode()))
		}
	}
	wantCode(t, rpcfault.FromStatus("get", err), fault.LeaseLost)
	if n := len(kinds); n != 5 || !strings.HasSuffix(kinds[4], "_Error lease_lost") {
		t.Errorf("frames %q", kinds)
	}
}

// TestServerDropsDeadClient: a client that takes nothing loses its stream, and
// the seed and slot with it when the lease ends.
func TestServerDropsDeadClient(t *testing.T) {
	seed := seedSpec{chunkSize: 1 << 20, sizes: []int{32 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed}, func(c *Config, _ *wire) {
		c.IdleTimeout, c.SweepInterval = 100*time.Millisecond, 10*time.Millisecond
	})
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.GetSnapshot(t.Context(), &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(),
		ManifestRoot: open.GetMeta().GetManifestRoot(), Compression: "none", Ranges: []*chainfirev1.FileRange{{File: 0}}})
	if err != nil {
		t.Fatal(err)
	}
	users := func() int {
		src.server.mu.Lock()
		defer src.server.mu.Unlock()
		n := 0
		for _, sess := range src.server.sessions {
			n += sess.users
		}
		return n
	}
	if _, err := stream.Recv(); err != nil { // the stream has begun
		t.Fatal(err)
	}
	eventually(t, "the stream is dropped", func() bool { return users() == 0 })
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, rpcfault.FromStatus("get", err), fault.Timeout)
	src.leases.expireAll()
	eventually(t, "the seed is given back", func() bool {
		_, held := src.provider.counts()
		return held == 0
	})
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestServerCloses: Close ends streams in the middle with a class that makes the
// target go on elsewhere.
func TestServerCloses(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{1 << 20}}.build(t)
	leases := newFakeLeases()
	a, b := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{seed})
	closed := make(chan struct{})
	var once sync.Once
	slow := *seed
	slow.delay = func(ctx context.Context) error {
		once.Do(func() {
			go func() {
				defer close(closed)
				if err := a.server.Close(); err != nil {
					t.Error(err)
				}
			}()
		})
		<-ctx.Done()
		return context.Cause(ctx)
	}
	a.provider.seeds = []Seed{&slow}
	disk := newMemDisk()
	res, err := Pull(t.Context(), pullConfig(disk, a.addr, b.addr))
	if err != nil || res.Source != b.addr {
		t.Fatalf("source %q: %v", res.Source, err)
	}
	disk.check(t, seed)
	<-closed
	if _, held := a.provider.counts(); held != 0 {
		t.Errorf("%d seeds held after Close", held)
	}
	if _, err := client(t, a.addr).OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{}); !fault.Is(rpcfault.FromStatus("", err), fault.Unreachable) {
		t.Errorf("after Close: %v", err)
	}
}

// TestOpenFails: a seed that can not be made leaves no lease and no slot taken.
func TestOpenFails(t *testing.T) {
	seed := seedSpec{}.build(t)
	other := seedSpec{cluster: testCluster()}
	other.cluster.ID = 0xbad
	for name, tc := range map[string]struct {
		seed *memSeed
		wait func(context.Context) error
		min  uint64
		code fault.Code
	}{
		"no space":        {seed, func(context.Context) error { return fault.Newf(fault.NoSpace, "checkpoint", "full") }, 0, fault.NoSpace},
		"foreign seed":    {other.build(t), nil, 0, fault.Corrupt},
		"too old":         {seed, nil, 101, fault.Refused},
		"not a manifest":  {&memSeed{encoded: []byte("x")}, nil, 0, fault.Corrupt},
		"works otherwise": {seed, nil, 100, ""},
	} {
		t.Run(name, func(t *testing.T) {
			src := startSource(t, nil, []*memSeed{tc.seed}, func(c *Config, _ *wire) { c.Slots = 1 })
			src.provider.wait = tc.wait
			cfg := pullConfig(newMemDisk(), src.addr)
			cfg.MinPosition.Index = tc.min
			_, err := Pull(t.Context(), cfg)
			if fault.CodeOf(err) != tc.code {
				t.Fatalf("%v (%s), want %q", err, fault.CodeOf(err), tc.code)
			}
			_, held := src.provider.counts()
			if tc.code != "" && (src.leases.alive() != 0 || held != 0 || len(src.server.slots.free) != 1) {
				t.Errorf("%d leases, %d seeds, %d slots free", src.leases.alive(), held, len(src.server.slots.free))
			}
		})
	}
}

// TestSlowOpen: a checkpoint that takes longer than the idle timeout is waited
// for as long as the source answers.
func TestSlowOpen(t *testing.T) {
	seed := seedSpec{sizes: []int{5000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	src.provider.wait = func(ctx context.Context) error { return sleep(ctx, 300*time.Millisecond) }
	disk := newMemDisk()
	cfg := pullConfig(disk, src.addr)
	cfg.IdleTimeout = 100 * time.Millisecond
	if _, err := Pull(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	// It does not take for ever either.
	src.provider.wait = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	cfg = pullConfig(newMemDisk(), src.addr)
	cfg.OpenTimeout = 150 * time.Millisecond
	_, err := Pull(t.Context(), cfg)
	wantCode(t, err, fault.Timeout)
}
