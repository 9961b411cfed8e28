package transfer

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// inBubble serves a seed over memory, inside a synctest bubble: hours pass in no
// time, and a time-out is exact.
func inBubble(t *testing.T, seed *memSeed, w *wire, f func(t *testing.T, src *source, dial DialFunc)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		src := &source{leases: newFakeLeases(), provider: &fakeProvider{seeds: []Seed{seed}}, auth: &fakeAuth{}, wire: w}
		var err error
		src.server, err = NewServer(Config{Authorizer: src.auth, Leases: src.leases, Seeds: src.provider, Cluster: testCluster, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := src.server.Close(); err != nil {
				t.Error(err)
			}
		})
		f(t, src, serveInMemory(t, w, func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, src.server) }))
	})
}

// TestIdleTimeoutIsExact: a source that falls silent at any point is given up
// after the idle timeout, by at most a tenth late.
func TestIdleTimeoutIsExact(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{300_000}}.build(t)
	for _, at := range []int64{1, 100, 400, 3000, 50_000, 250_000} {
		w := new(wire)
		w.holeAt = at
		inBubble(t, seed, w, func(t *testing.T, _ *source, dial DialFunc) {
			cfg := pullConfig(newMemDisk(), "memory")
			cfg.Dial, cfg.Compression, cfg.ContactWithin, cfg.Backoff = dial, "none", time.Hour, nil
			start := time.Now()
			_, err := Pull(t.Context(), cfg)
			took := time.Since(start)
			if at == 1 { // not even a greeting
				wantCode(t, err, fault.Unreachable)
			} else {
				wantCode(t, err, fault.Timeout)
			}
			if took < time.Minute || took > 66*time.Second {
				t.Errorf("silent from byte %d: gave up after %s, want 60 s to 66 s", at, took)
			}
		})
	}
}

// TestLongStage: reading back what was staged before may take longer than any
// silence that is borne, and the other side is not given up for it.
func TestLongStage(t *testing.T) {
	const long = 10 * time.Minute
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{300_000}}.build(t)
	slowly := func(ctx context.Context, disk *memDisk) func([]byte) (Stage, error) {
		return func(encoded []byte) (Stage, error) {
			if err := sleep(ctx, long); err != nil {
				return nil, err
			}
			return disk.open(encoded)
		}
	}
	t.Run("pull", func(t *testing.T) {
		inBubble(t, seed, new(wire), func(t *testing.T, _ *source, dial DialFunc) {
			disk := newMemDisk()
			cfg := pullConfig(disk, "memory")
			cfg.Dial, cfg.OpenStage = dial, slowly(t.Context(), disk)
			if _, err := Pull(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			disk.check(t, seed)
		})
	})
	t.Run("push", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := &target{disk: newMemDisk()}
			a.cfg = ReceiveConfig{OpenStage: slowly(t.Context(), a.disk), Logger: quiet(), Conns: new(ConnMeter),
				Accept: func(context.Context, Offer) error { return nil },
				Finish: func(context.Context, Offer, Stage) error { return nil }}
			dial := serveInMemory(t, new(wire), func(g *grpc.Server) { chainfirev1.RegisterAwaitServer(g, a) })
			cfg := pushConfig(seed, "memory")
			cfg.Dial = dial
			if _, err := Push(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			a.disk.check(t, seed)
		})
	})
}

// serveInMemory serves over memory until the test ends, inside a bubble.
func serveInMemory(t *testing.T, w *wire, register func(*grpc.Server)) DialFunc {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(ServerOptions()...)
	register(g)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(w.listen(l)) })
	t.Cleanup(func() { w.kill(); g.Stop(); wg.Wait() })
	return func(_ context.Context, _ string, opts ...grpc.DialOption) (Conn, error) {
		return grpc.NewClient("passthrough:///memory", append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	}
}

// TestCancelIsQuick: whatever a pull waits for, it ends when its caller says so.
func TestCancelIsQuick(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{300_000}}.build(t)
	for _, at := range []int64{1, 400, 100_000} {
		w := new(wire)
		w.holeAt = at
		inBubble(t, seed, w, func(t *testing.T, _ *source, dial DialFunc) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			cfg := pullConfig(newMemDisk(), "memory")
			cfg.Dial, cfg.Compression = dial, "none"
			cfg.ContactWithin = time.Minute
			start := time.Now()
			_, err := Pull(ctx, cfg)
			wantCode(t, err, fault.Timeout)
			if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
				t.Errorf("silent from byte %d: returned %s after the start, cancelled at 10 s", at, took)
			}
		})
	}
}

// TestLeaseIsKept: a pull of an hour renews a lease of a minute, and a slow
// source is not taken for a dead one.
func TestLeaseIsKept(t *testing.T) {
	seed := seedSpec{sizes: []int{4096 * 60}}.build(t)
	seed.delay = func(ctx context.Context) error { return sleep(ctx, 50*time.Second) }
	inBubble(t, seed, new(wire), func(t *testing.T, src *source, dial DialFunc) {
		cfg := pullConfig(newMemDisk(), "memory")
		cfg.Dial, cfg.Parallel = dial, 1
		res, err := Pull(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, renews := src.leases.calls()
		if least := int(res.Seconds / 20); renews < least {
			t.Errorf("%d renewals in %.0f s, want one each 20 s at least", renews, res.Seconds)
		}
	})
}

// TestIdleTimer: messages and enough bytes are progress, a few bytes are not,
// and a pause stops the clock.
func TestIdleTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c byteCounter
		timer := newIdleTimer(&c)
		check := func(want time.Duration) {
			t.Helper()
			if got := timer.since(); got != want {
				t.Errorf("idle for %s, want %s", got, want)
			}
		}
		_ = sleep(t.Context(), 5*time.Second)
		check(5 * time.Second)
		c.n.Add(noise - 1)
		check(5 * time.Second)
		c.n.Add(1)
		check(0)
		_ = sleep(t.Context(), time.Second)
		check(time.Second)
		timer.pause()
		_ = sleep(t.Context(), time.Hour)
		check(0)
		timer.touch()
		_ = sleep(t.Context(), time.Second)
		check(time.Second)
	})
}

func TestBackoff(t *testing.T) {
	for attempt := range 100 {
		if d := DefaultBackoff(attempt); d < 50*time.Millisecond || d > time.Second {
			t.Errorf("attempt %d waits %s", attempt, d)
		}
	}
}

// TestIdleTurns: only while somebody waits for a peer does its silence count, and
// what it was silent in one turn counts in the next.
func TestIdleTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer := newIdleTimer(nil)
		pass := func(d time.Duration) { _ = sleep(t.Context(), d) }
		is := func(want time.Duration) {
			t.Helper()
			if got := timer.since(); got != want {
				t.Errorf("silent for %s, want %s", got, want)
			}
		}
		timer.pause()
		pass(time.Hour)
		is(0)
		timer.turn()
		pass(time.Second)
		timer.turn() // another one waits as well
		pass(time.Second)
		timer.over()
		pass(time.Second)
		is(3 * time.Second)
		timer.over()
		pass(time.Hour)
		is(0)
		timer.turn()
		pass(time.Second)
		is(4 * time.Second)
		timer.touch()
		is(0)
		timer.over()
		pass(time.Hour)
		timer.resume()
		pass(time.Second)
		is(time.Second)
	})
}
