package transfer

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func TestPull(t *testing.T) {
	sizes := []int{1, 4095, 4096, 4097, 300_000, 50_000}
	for _, compression := range []string{"", "auto", "zstd", "s2", "none"} {
		for way, dial := range ways() {
			t.Run(compression+"/"+way, func(t *testing.T) {
				seed := seedSpec{sizes: sizes}.build(t)
				src := startSource(t, nil, []*memSeed{seed})
				disk := newMemDisk()
				cfg := pullConfig(disk, src.addr)
				cfg.Compression, cfg.DialChannel, cfg.Cluster = compression, dial, testCluster()
				cfg.Parallel = 1 + 3*(len(compression)%2)
				var last Progress
				cfg.Progress = func(p Progress) { last = p }
				res, err := Pull(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				disk.check(t, seed)
				if res.BytesTotal != seed.total() || res.BytesReused != 0 || res.BytesRefetched != 0 || res.Failovers != 0 {
					t.Errorf("result %+v", res)
				}
				if res.Meta.Root != seed.root() || res.Meta.Position != seed.m.Position || res.LeaseID == 0 || res.Source != src.addr {
					t.Errorf("meta %+v", res.Meta)
				}
				if string(res.ManifestBytes) != string(seed.encoded) {
					t.Error("manifest differs")
				}
				if last.BytesDone != seed.total() || last.BytesTotal != seed.total() {
					t.Errorf("last progress %+v", last)
				}
				if compressed := res.BytesWire < res.BytesTotal; compressed != (compression == "zstd" || compression == "s2") && compression != "" && compression != "auto" {
					t.Errorf("%d bytes on the wire of %d", res.BytesWire, res.BytesTotal)
				}
				if disk.twice != 0 {
					t.Errorf("%d chunks came twice", disk.twice)
				}
				if !src.leases.Alive(res.LeaseID) {
					t.Error("the lease does not live after the pull")
				}
			})
		}
	}
}

// TestPullLarge has chunks of the usual size, so that pooled buffers, views and
// flow control are used as in earnest.
func TestPullLarge(t *testing.T) {
	seed := seedSpec{chunkSize: 1 << 20, sizes: []int{9<<20 + 17, 3 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	for _, compression := range []string{"none", "zstd", "s2"} {
		disk := newMemDisk()
		cfg := pullConfig(disk, src.addr)
		cfg.Compression = compression
		if _, err := Pull(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		disk.check(t, seed)
	}
}

func TestPullResumesAfterCuts(t *testing.T) {
	// What a cut loses is what was on the line: at memory speed that is whatever
	// the sockets buffer, megabytes when the machine is busy. So the bound is on
	// the mean of many cuts, which starting over would raise to one half; cuts of
	// a line with a rate are tested with whole processes.
	seed := seedSpec{chunkSize: 64 << 10, sizes: []int{12 << 20, 4 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	pull := func() (*memDisk, PullResult, error) {
		disk := newMemDisk()
		cfg := pullConfig(disk, src.addr)
		cfg.Compression = "none"
		res, err := Pull(t.Context(), cfg)
		return disk, res, err
	}
	if _, _, err := pull(); err != nil {
		t.Fatal(err)
	}
	clean := src.wire.count()
	r := rand.New(rand.NewPCG(1, 2))
	runs, worst, sum := fewer(40, 20), 0.0, 0.0
	for range runs {
		before := src.wire.count()
		at := 1 + r.Int64N(clean-1)
		src.wire.plan(func(w *wire) { w.cutAt = at })
		disk, _, err := pull()
		if err != nil {
			t.Fatalf("cut at %d: %v", at, err)
		}
		disk.check(t, seed)
		again := float64(src.wire.count()-before-clean) / float64(clean)
		worst, sum = max(worst, again), sum+again
		if disk.twice != 0 {
			t.Errorf("cut at %d: %d chunks stored twice", at, disk.twice)
		}
	}
	if src.wire.cuts != runs {
		t.Errorf("%d cuts happened, want %d", src.wire.cuts, runs)
	}
	mean := sum / float64(runs)
	t.Logf("N=%d cuts: %.2f %% of the bytes sent twice in the mean, %.2f %% at worst", runs, 100*mean, 100*worst)
	if mean > 0.05 {
		t.Errorf("%.1f %% of the bytes were sent twice in the mean of %d cuts", 100*mean, runs)
	}
}

// TestPullResumesLater is a second call after one that was interrupted.
func TestPullResumesLater(t *testing.T) {
	seed := seedSpec{sizes: []int{1 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	disk := newMemDisk()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := pullConfig(disk, src.addr)
	cfg.Compression, cfg.RateLimit = "none", 1<<20
	half := seed.total() / 2
	cfg.Progress = func(p Progress) {
		if p.BytesDone > half {
			cancel()
		}
	}
	first, err := Pull(ctx, cfg)
	wantCode(t, err, fault.Interrupted)
	if first.LeaseID == 0 {
		t.Fatal("an interrupted pull does not say which lease it opened")
	}
	cfg = pullConfig(disk, src.addr)
	cfg.LeaseID, cfg.WantRoot = first.LeaseID, first.Meta.Root[:]
	second, err := Pull(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	if second.LeaseID != first.LeaseID || second.BytesReused < half || disk.twice != 0 {
		t.Errorf("resumed with lease %d (was %d), %d bytes reused of %d", second.LeaseID, first.LeaseID, second.BytesReused, half)
	}
	// All there: nothing but the manifest moves.
	third, err := Pull(t.Context(), cfg)
	if err != nil || third.BytesReused != seed.total() {
		t.Errorf("third pull: %v, reused %d", err, third.BytesReused)
	}
}

// TestPullFlippedBits flips one bit of what the source sends, anywhere: the
// bytes that arrive are right or there is a typed error.
func TestPullFlippedBits(t *testing.T) {
	seed := seedSpec{sizes: []int{40_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	pull := func(way DialChannelFunc, idle time.Duration) (*memDisk, PullResult, error) {
		disk := newMemDisk()
		cfg := pullConfig(disk, src.addr)
		cfg.Compression, cfg.Parallel, cfg.IdleTimeout, cfg.DialChannel = "none", 2, idle, way
		res, err := Pull(t.Context(), cfg)
		return disk, res, err
	}
	if _, _, err := pull(dialChannel, 0); err != nil { // by default it is patient
		t.Fatal(err)
	}
	clean := src.wire.count()
	r := rand.New(rand.NewPCG(3, 4))
	runs, refetched, failed := fewer(2000, 400), 0, 0
	for i := range runs {
		at, bit := 30+r.Int64N(clean-30), uint(r.IntN(8))
		src.wire.plan(func(w *wire) { w.flipAt, w.flipBit = at, bit })
		way := dialChannel
		if i%2 == 0 {
			way = nil
		}
		disk, res, err := pull(way, 80*time.Millisecond)
		if err != nil {
			failed++
			t.Logf("bit %d of byte %d: %v", bit, at, err)
			if fault.CodeOf(err) == fault.Internal {
				t.Errorf("run %d, bit %d of byte %d: untyped %v", i, bit, at, err)
			}
			continue
		}
		if res.BytesRefetched > 0 || res.Retries > 0 {
			refetched++
		}
		if diff := disk.compare(seed); diff != "" {
			t.Fatalf("run %d, bit %d of byte %d: silent: %s", i, bit, at, diff)
		}
	}
	t.Logf("N=%d flips: %d fetched again, %d ended with a typed error, 0 silent", runs, refetched, failed)
}

func TestPullFailover(t *testing.T) {
	leases := newFakeLeases()
	spec := seedSpec{chunkSize: 16 << 10, sizes: []int{1 << 20, 1 << 20}, seed: 40}
	seed := spec.build(t)
	other := spec
	other.index, other.contents = 200, []uint64{40, 1234} // one table shared
	otherSeed := other.build(t)

	t.Run("same seed", func(t *testing.T) {
		a, b := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{seed})
		a.wire.plan(func(w *wire) { w.cutAt, w.onCut = 700_000, w.die })
		disk := newMemDisk()
		cfg := pullConfig(disk, a.addr, b.addr)
		cfg.Compression = "none"
		res, err := Pull(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		disk.check(t, seed)
		if res.Failovers != 1 || res.Source != b.addr || res.BytesDiscarded != 0 || disk.opened != 1 || disk.twice != 0 {
			t.Errorf("result %+v, stage opened %d times", res, disk.opened)
		}
		if leases.alive() != 1 {
			t.Errorf("%d leases, want the one", leases.alive())
		}
	})
	t.Run("another seed", func(t *testing.T) {
		leases.expireAll()
		a, b := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{otherSeed})
		a.wire.plan(func(w *wire) { w.cutAt, w.onCut = 1_700_000, w.die })
		disk := newMemDisk()
		cfg := pullConfig(disk, a.addr, b.addr)
		cfg.Compression, cfg.Parallel = "none", 1
		var restaged []Event
		cfg.Notify = func(e Event) {
			if e.Kind == EventRestaged {
				restaged = append(restaged, e)
			}
		}
		res, err := Pull(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		disk.check(t, otherSeed)
		if res.Meta.Root != otherSeed.root() || res.Meta.Position.Index != 200 || disk.opened != 2 || len(restaged) != 1 {
			t.Fatalf("result %+v, stage opened %d times, %d events", res.Meta, disk.opened, len(restaged))
		}
		if e := restaged[0]; e.BytesKept < 1<<20 || e.BytesLost == 0 || e.BytesLost != res.BytesDiscarded || disk.twice != 0 {
			t.Errorf("event %+v, discarded %d", e, res.BytesDiscarded)
		}
	})
	t.Run("another seed, and the first is back", func(t *testing.T) {
		leases.expireAll()
		a, b := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{otherSeed})
		a.wire.plan(func(w *wire) { w.holeAt = 1_700_000 })
		disk := newMemDisk()
		cfg := pullConfig(disk, a.addr, b.addr)
		cfg.Compression, cfg.Parallel, cfg.IdleTimeout = "none", 1, 400*time.Millisecond
		cfg.Notify = func(e Event) {
			if e.Kind == EventFailover && e.Next == b.addr {
				a.wire.plan(func(*wire) {})
			}
		}
		res, err := Pull(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		disk.check(t, seed)
		if res.Source != a.addr || res.Failovers != 2 || res.BytesDiscarded != 0 || disk.opened != 1 {
			t.Errorf("%+v, stage opened %d times", res, disk.opened)
		}
	})
	t.Run("slow, and another is there", func(t *testing.T) {
		leases.expireAll()
		a, b := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{otherSeed})
		const idle = 600 * time.Millisecond
		disk := newMemDisk()
		cfg := pullConfig(disk, a.addr, b.addr)
		cfg.Compression, cfg.Parallel, cfg.IdleTimeout = "none", 1, idle
		disk.onPut = func(puts int) { // the source waits for us, and answers
			if puts == 20 {
				<-time.After(2 * idle / 3)
			}
		}
		res, err := Pull(t.Context(), cfg)
		if err != nil || res.Source != a.addr || res.Failovers != 0 {
			t.Errorf("source %s, %d failovers, %v", res.Source, res.Failovers, err)
		}
	})
	t.Run("the third of three", func(t *testing.T) { // the first two swallow all
		leases.expireAll()
		a, b, c := startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{seed}), startSource(t, leases, []*memSeed{seed})
		for _, s := range []*source{a, b} {
			s.wire.plan(func(w *wire) { w.holeAt = 1 })
		}
		cfg := pullConfig(newMemDisk(), a.addr, b.addr, c.addr)
		cfg.IdleTimeout, cfg.ContactWithin = 30*time.Second, 300*time.Millisecond
		res, err := Pull(t.Context(), cfg)
		if err != nil || res.Source != c.addr {
			t.Errorf("source %q, %v", res.Source, err)
		}
	})
	t.Run("endpoints learnt", func(t *testing.T) {
		leases.expireAll()
		b := startSource(t, leases, []*memSeed{seed})
		a := startSource(t, leases, []*memSeed{seed}, func(c *Config, _ *wire) {
			c.ClientURLs = func() []string { return []string{"http://" + b.addr} }
		})
		a.wire.plan(func(w *wire) { w.cutAt, w.onCut = 700_000, w.die })
		disk := newMemDisk()
		cfg := pullConfig(disk, a.addr)
		cfg.Compression = "none"
		res, err := Pull(t.Context(), cfg)
		if err != nil || res.Source != "http://"+b.addr {
			t.Fatalf("source %q: %v", res.Source, err)
		}
		a = startSource(t, leases, []*memSeed{seed}, func(c *Config, _ *wire) {
			c.ClientURLs = func() []string { return []string{"http://" + b.addr} }
		})
		a.wire.plan(func(w *wire) { w.cutAt, w.onCut = 700_000, w.die })
		cfg = pullConfig(newMemDisk(), a.addr)
		cfg.Compression, cfg.Fixed, cfg.IdleTimeout = "none", true, 200*time.Millisecond
		if res, err := Pull(t.Context(), cfg); err == nil || res.Failovers != 0 {
			t.Errorf("a seed that only %s has came from %s", a.addr, res.Source)
		}
	})
	t.Run("first refuses connections", func(t *testing.T) {
		leases.expireAll()
		b := startSource(t, leases, []*memSeed{seed})
		disk := newMemDisk()
		res, err := Pull(t.Context(), pullConfig(disk, "127.0.0.1:1", b.addr))
		if err != nil || res.Source != b.addr || res.Failovers != 1 {
			t.Fatalf("source %q, %d failovers: %v", res.Source, res.Failovers, err)
		}
	})
}

func TestPullWrongCluster(t *testing.T) {
	seed := seedSpec{sizes: []int{1000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	for name, cluster := range map[string]ident.Cluster{
		"id":    {ID: 0xc2, Genesis: testCluster().Genesis},
		"nonce": {ID: 0xc1, Genesis: ident.Nonce{9}},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newMemDisk()
			cfg := pullConfig(disk, src.addr)
			cfg.Cluster = cluster
			_, err := Pull(t.Context(), cfg)
			wantCode(t, err, fault.Refused)
			opens, _ := src.leases.calls()
			acquired, _ := src.provider.counts()
			if disk.opened != 0 || opens != 0 || acquired != 0 {
				t.Errorf("%d stages, %d leases, %d seeds before the refusal", disk.opened, opens, acquired)
			}
		})
	}
}

func TestPullStops(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{4 << 20}}.build(t)
	const idle = 400 * time.Millisecond
	t.Run("black hole", func(t *testing.T) {
		for _, at := range []int64{1, 2000, 500_000} {
			src := startSource(t, nil, []*memSeed{seed})
			src.wire.plan(func(w *wire) { w.holeAt = at })
			cfg := pullConfig(newMemDisk(), src.addr)
			cfg.IdleTimeout, cfg.Compression = idle, "none"
			start := time.Now()
			_, err := Pull(t.Context(), cfg)
			wantCode(t, err, fault.Timeout)
			if took := time.Since(start); took < idle {
				t.Errorf("gave up after %s, before the idle timeout", took)
			}
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		cfg := pullConfig(newMemDisk(), "127.0.0.1:1")
		cfg.ContactWithin = 50 * time.Millisecond
		_, err := Pull(t.Context(), cfg)
		wantCode(t, err, fault.Unreachable)
	})
	t.Run("slow but alive", func(t *testing.T) {
		slow := seedSpec{chunkSize: 256 << 10, sizes: []int{1 << 20}}.build(t)
		src := startSource(t, nil, []*memSeed{slow}, func(c *Config, _ *wire) { c.IdleTimeout = 250 * time.Millisecond })
		// One chunk takes longer than the idle timeout.
		src.wire.plan(func(w *wire) { w.perByte, w.slice = 500*time.Nanosecond, 2000 })
		disk := newMemDisk()
		cfg := pullConfig(disk, src.addr)
		cfg.IdleTimeout, cfg.Compression, cfg.Parallel = 250*time.Millisecond, "none", 4
		if _, err := Pull(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		disk.check(t, slow)
	})
	t.Run("slices", func(t *testing.T) {
		small := seedSpec{sizes: []int{20_000}}.build(t)
		src := startSource(t, nil, []*memSeed{small})
		src.wire.plan(func(w *wire) { w.slice = 1 })
		disk := newMemDisk()
		if _, err := Pull(t.Context(), pullConfig(disk, src.addr)); err != nil {
			t.Fatal(err)
		}
		disk.check(t, small)
	})
	t.Run("cancelled", func(t *testing.T) {
		src := startSource(t, nil, []*memSeed{seed})
		src.wire.plan(func(w *wire) { w.holeAt = 1_000_000 })
		ctx, cancel := context.WithCancel(t.Context())
		disk := newMemDisk()
		disk.onPut = func(puts int) {
			if puts == 10 {
				cancel()
			}
		}
		cfg := pullConfig(disk, src.addr)
		cfg.Compression = "none"
		_, err := Pull(ctx, cfg)
		wantCode(t, err, fault.Interrupted)
	})
	t.Run("own disk", func(t *testing.T) {
		a := startSource(t, nil, []*memSeed{seed})
		disk := newMemDisk()
		disk.putErr = fault.Newf(fault.NoSpace, "put", "full")
		res, err := Pull(t.Context(), pullConfig(disk, a.addr, a.addr+"/"))
		wantCode(t, err, fault.NoSpace)
		if res.Failovers+res.Retries != 0 {
			t.Errorf("%d failovers and %d retries for a full disk", res.Failovers, res.Retries)
		}
	})
}
