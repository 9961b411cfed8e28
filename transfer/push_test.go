package transfer

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// target is a waiting node.
type target struct {
	chainfirev1.UnimplementedAwaitServer
	cfg  ReceiveConfig
	disk *memDisk

	busy     sync.Mutex // one at a time, as a directory's lock has it
	mu       sync.Mutex
	results  []*ReceiveResult
	errs     []error
	finished int
}

func (a *target) Receive(stream chainfirev1.Await_ReceiveServer) error {
	if !a.busy.TryLock() {
		return rpcfault.ToStatus(fault.Newf(fault.InUse, "receive", "another push is under way"))
	}
	defer a.busy.Unlock()
	res, err := Receive(stream, a.cfg)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.results = append(a.results, res)
	a.errs = append(a.errs, err)
	return rpcfault.ToStatus(err)
}

func (a *target) last() (*ReceiveResult, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.results) == 0 {
		return nil, errors.New("nothing received")
	}
	return a.results[len(a.results)-1], a.errs[len(a.errs)-1]
}

func startTarget(t *testing.T, w *wire) (*target, string) {
	t.Helper()
	a := &target{disk: newMemDisk()}
	a.cfg = ReceiveConfig{OpenStage: a.disk.open, Logger: quiet(), Conns: new(ConnMeter),
		Accept: func(context.Context, Offer) error { return nil },
		Finish: func(context.Context, Offer, Stage) error { a.mu.Lock(); a.finished++; a.mu.Unlock(); return nil }}
	addr, _ := serve(t, a.cfg.Conns, w, func(g *grpc.Server) { chainfirev1.RegisterAwaitServer(g, a) })
	return a, addr
}

func pushConfig(seed Seed, addr string) PushConfig {
	return PushConfig{Dial: dialTCP, Target: addr, Seed: seed, Lease: Lease{ID: 9, TTL: time.Minute}, JoinToken: "token",
		Endpoints: []string{"http://a"}, Retry: 2 * time.Second, Backoff: func(int) time.Duration { return time.Millisecond }}
}

func TestPush(t *testing.T) {
	for _, compression := range []string{"", "zstd", "s2", "none"} {
		seed := seedSpec{chunkSize: 16 << 10, sizes: []int{1, 300_000, 16 << 10}}.build(t)
		a, addr := startTarget(t, new(wire))
		cfg := pushConfig(seed, addr)
		cfg.Compression = compression
		res, err := Push(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		a.disk.check(t, seed)
		got, err := a.last()
		if err != nil || got.Offer.JoinToken != "token" || got.Offer.Endpoints[0] != "http://a" || got.Offer.Meta != res.Meta || a.finished != 1 {
			t.Errorf("received %+v: %v", got, err)
		}
		if res.Meta.LeaseID != 9 || res.Attempts != 1 || res.BytesReused != 0 || res.BytesWire == 0 || res.BytesWire != got.BytesWire {
			t.Errorf("pushed %+v, received %d bytes", res, got.BytesWire)
		}
		again, err := Push(t.Context(), cfg)
		if err != nil || !again.AlreadyComplete || again.BytesWire != 0 || again.BytesReused != seed.total() {
			t.Errorf("pushed again: %+v: %v", again, err)
		}
	}
}

// TestPushBigManifest: one that does not fit into the offer follows as frames.
func TestPushBigManifest(t *testing.T) {
	seed := seedSpec{sizes: []int{5000}, chunkSize: 4096}.build(t)
	l, err := newLayout(seed.encoded)
	if err != nil {
		t.Fatal(err)
	}
	a, addr := startTarget(t, new(wire))
	conn, err := dialTCP(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := chainfirev1.NewAwaitClient(conn).Receive(t.Context(), callOptions(NewCodec())...)
	if err != nil {
		t.Fatal(err)
	}
	choice, err := newChooser("none")
	if err != nil {
		t.Fatal(err)
	}
	var out frames
	snd := &sender{ctx: t.Context(), alive: func() error { return nil }, seed: seed, layout: l, pool: newBufferPool(), choice: choice, send: collect(&out)}
	if err := snd.manifest(); err != nil {
		t.Fatal(err)
	}
	offer := &chainfirev1.ReceiveOffer{Meta: l.meta(Lease{ID: 9}).Proto()}
	if err := stream.Send(&chainfirev1.ReceiveRequest{Msg: &chainfirev1.ReceiveRequest_Offer{Offer: offer}}); err != nil {
		t.Fatal(err)
	}
	for _, f := range out {
		if err := stream.Send(pushOf(f)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := stream.Recv()
	if err != nil || len(m.GetWant().GetRanges()) == 0 {
		t.Fatalf("got %v: %v", m, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !fault.Is(rpcfault.FromStatus("", err), fault.Unreachable) {
		t.Errorf("after half a push: %v", err)
	}
	if a.disk.opened != 1 {
		t.Errorf("stage opened %d times", a.disk.opened)
	}
}

func TestPushResumesAfterCuts(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{2 << 20}}.build(t)
	r := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		w := new(wire)
		a, addr := startTarget(t, w)
		// The wire counts what the target sends; cut when enough was stored.
		at := 1 + r.IntN(100)
		var once sync.Once
		a.disk.onPut = func(puts int) {
			if puts == at {
				once.Do(func() { go w.kill() })
			}
		}
		cfg := pushConfig(seed, addr)
		cfg.Compression = "none"
		res, err := Push(t.Context(), cfg)
		if err != nil {
			t.Fatalf("cut at chunk %d: %v", at, err)
		}
		a.disk.check(t, seed)
		if res.Attempts < 2 || a.disk.twice != 0 || a.finished < 1 {
			t.Errorf("cut at chunk %d: %d attempts, %d chunks twice, finished %d times", at, res.Attempts, a.disk.twice, a.finished)
		}
	}
}

func TestPushRefused(t *testing.T) {
	seed := seedSpec{sizes: []int{50_000}}.build(t)
	for name, tc := range map[string]struct {
		change func(a *target)
		code   fault.Code
		opened int
	}{
		"not accepted": {func(a *target) {
			a.cfg.Accept = func(_ context.Context, o Offer) error {
				if o.Meta.Cluster == testCluster() && o.JoinToken == "token" {
					return fault.Newf(fault.Permission, "accept", "wrong token").WithHint("say please")
				}
				return nil
			}
		}, fault.Permission, 0},
		"disk full": {func(a *target) { a.disk.putErr = fault.Newf(fault.NoSpace, "put", "full") }, fault.NoSpace, 1},
		"not empty": {func(a *target) {
			a.cfg.OpenStage = func([]byte) (Stage, error) { return nil, fault.Newf(fault.NotEmpty, "open", "x") }
		}, fault.NotEmpty, 0},
		"verification": {func(a *target) {
			a.cfg.Finish = func(context.Context, Offer, Stage) error { return fault.Newf(fault.Corrupt, "verify", "bad") }
		}, fault.Corrupt, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a, addr := startTarget(t, new(wire))
			tc.change(a)
			res, err := Push(t.Context(), pushConfig(seed, addr))
			wantCode(t, err, tc.code)
			if a.disk.opened != tc.opened || res.Attempts != 1 {
				t.Errorf("stage opened %d times, %d attempts", a.disk.opened, res.Attempts)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		_, err := Push(t.Context(), pushConfig(seed, "127.0.0.1:1"))
		wantCode(t, err, fault.Unreachable)
	})
	t.Run("lease lost", func(t *testing.T) {
		a, addr := startTarget(t, new(wire))
		cfg := pushConfig(seed, addr)
		cfg.Alive = func() error { return leaseLost(9) }
		_, err := Push(t.Context(), cfg)
		wantCode(t, err, fault.LeaseLost)
		eventually(t, "the target is told", func() bool { _, err := a.last(); return fault.Is(err, fault.LeaseLost) })
	})
	t.Run("cancelled", func(t *testing.T) {
		a, addr := startTarget(t, new(wire))
		ctx, cancel := context.WithCancel(t.Context())
		a.cfg.Finish = func(ctx context.Context, _ Offer, _ Stage) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := Push(ctx, pushConfig(seed, addr))
		wantCode(t, err, fault.Interrupted)
	})
}

func TestPushStalls(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{1 << 20}}.build(t)
	const idle = 150 * time.Millisecond
	t.Run("target hangs", func(t *testing.T) {
		w := new(wire)
		w.holeAt = 1
		_, addr := startTarget(t, w)
		cfg := pushConfig(seed, addr)
		cfg.IdleTimeout = idle
		_, err := Push(t.Context(), cfg)
		wantCode(t, err, fault.Timeout)
	})
	t.Run("source hangs", func(t *testing.T) {
		a, addr := startTarget(t, new(wire))
		a.cfg.IdleTimeout = idle
		slow := *seed
		slow.delay = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _, _ = Push(ctx, pushConfig(&slow, addr)) }()
		eventually(t, "the target gives up", func() bool { _, err := a.last(); return fault.Is(err, fault.Timeout) })
		cancel()
		<-done
	})
	t.Run("long finish", func(t *testing.T) {
		a, addr := startTarget(t, new(wire))
		a.cfg.IdleTimeout = idle
		a.cfg.Finish = func(ctx context.Context, _ Offer, _ Stage) error { return sleep(ctx, 3*idle) }
		cfg := pushConfig(seed, addr)
		cfg.IdleTimeout = idle
		if _, err := Push(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReceiveDamage: chunks that come damaged are asked for again, three times.
func TestReceiveDamage(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	for _, times := range []int{1, 3, 4} {
		a, addr := startTarget(t, new(wire))
		bad := *seed
		left := times
		var mu sync.Mutex
		bad.damage = func(file, index int) bool {
			mu.Lock()
			defer mu.Unlock()
			if file != 0 || index != 2 || left == 0 {
				return false
			}
			left--
			return true
		}
		res, err := Push(t.Context(), pushConfig(&bad, addr))
		if times <= maxRefetch {
			if err != nil {
				t.Fatal(err)
			}
			a.disk.check(t, seed)
			if got, _ := a.last(); got.BytesRefetched != uint64(times)*4096 {
				t.Errorf("%d bytes fetched again", got.BytesRefetched)
			}
			continue
		}
		wantCode(t, err, fault.Corrupt)
		if res.Attempts != 1 {
			t.Errorf("%d attempts with damaged data", res.Attempts)
		}
	}
}

func TestTransferSnapshot(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{500_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	a, addr := startTarget(t, new(wire))
	call := func(req *chainfirev1.TransferSnapshotRequest) (*chainfirev1.TransferResult, int, error) {
		stream, err := client(t, src.addr).TransferSnapshot(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var res *chainfirev1.TransferResult
		progress := 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return res, progress, nil
			}
			if err != nil {
				return res, progress, rpcfault.FromStatus("transfer", err)
			}
			if m.GetTransfer() != nil {
				progress++
			}
			if m.GetResult() != nil {
				res = m.GetResult()
			}
		}
	}
	res, _, err := call(&chainfirev1.TransferSnapshotRequest{TargetUrl: "http://" + addr, JoinToken: "t"})
	if err != nil {
		t.Fatal(err)
	}
	a.disk.check(t, seed)
	got, _ := a.last()
	if !src.leases.Alive(res.GetMeta().GetLeaseId()) || got.Offer.Meta.LeaseID != res.GetMeta().GetLeaseId() || got.Offer.JoinToken != "t" {
		t.Errorf("result %v, received %+v", res, got.Offer)
	}
	live := src.leases.alive()
	for name, tc := range map[string]struct {
		req  *chainfirev1.TransferSnapshotRequest
		code fault.Code
	}{
		"no target":    {&chainfirev1.TransferSnapshotRequest{}, fault.Usage},
		"nobody there": {&chainfirev1.TransferSnapshotRequest{TargetUrl: "127.0.0.1:1"}, fault.Unreachable},
		"compression":  {&chainfirev1.TransferSnapshotRequest{TargetUrl: addr, Compression: "rar"}, fault.Usage},
	} {
		if _, _, err := call(tc.req); !fault.Is(err, tc.code) {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	if src.leases.alive() != live {
		t.Errorf("%d leases, %d before the pushes that failed", src.leases.alive(), live)
	}
}
