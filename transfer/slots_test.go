package transfer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// TestStreamsAreBounded: one lease does not open any number of streams.
func TestStreamsAreBounded(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	seed.delay = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	src := startSource(t, nil, []*memSeed{seed}, func(c *Config, _ *wire) { c.Streams = 2 })
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 3 {
		stream, err := c.GetSnapshot(ctx, &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(),
			ManifestRoot: open.GetMeta().GetManifestRoot(), Ranges: []*chainfirev1.FileRange{{File: 0}}})
		if err == nil {
			_, err = stream.Recv()
		}
		if (err != nil) != (i == 2) {
			t.Errorf("stream %d: %v", i, err)
		}
	}
}

// TestServing: what is open is listed until its lease is closed.
func TestServing(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	res, err := Pull(t.Context(), pullConfig(newMemDisk(), src.addr))
	if err != nil {
		t.Fatal(err)
	}
	open := src.server.Serving()
	if len(open) != 1 || open[0].LeaseID != res.LeaseID || open[0].Target != "test" || open[0].BytesTotal != seed.total() ||
		open[0].BytesSent < seed.total() || open[0].Rate <= 0 {
		t.Errorf("serving %+v", open)
	}
	if _, err := client(t, src.addr).CloseLease(t.Context(), &chainfirev1.CloseLeaseRequest{LeaseId: res.LeaseID}); err != nil {
		t.Fatal(err)
	}
	if open := src.server.Serving(); len(open) != 0 {
		t.Errorf("serving %+v after the lease was closed", open)
	}
}

// TestSlots: eight pulls at once, two slots: all get through, never more than
// two at a time, and nothing is held when they are done.
func TestSlots(t *testing.T) {
	seed := seedSpec{sizes: []int{60_000}}.build(t)
	src := startSource(t, nil, []*memSeed{seed}, func(c *Config, _ *wire) { c.Slots, c.SlotGrace = 2, time.Millisecond })
	most := 0
	var mu sync.Mutex
	seed.delay = func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		src.server.mu.Lock()
		defer src.server.mu.Unlock()
		slots := 0
		for _, sess := range src.server.sessions {
			if sess.slot {
				slots++
			}
		}
		most = max(most, slots)
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	disks := make([]*memDisk, 8)
	for i := range errs {
		wg.Go(func() {
			disks[i] = newMemDisk()
			res, err := Pull(t.Context(), pullConfig(disks[i], src.addr))
			if err == nil {
				_, err = client(t, src.addr).CloseLease(t.Context(), &chainfirev1.CloseLeaseRequest{LeaseId: res.LeaseID})
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("pull %d: %v", i, err)
			continue
		}
		disks[i].check(t, seed)
	}
	if most > 2 || most == 0 {
		t.Errorf("%d slots used at a time", most)
	}
	eventually(t, "nothing is held", func() bool {
		_, held := src.provider.counts()
		return held == 0 && len(src.server.slots.free) == 2
	})
}

func TestSlotQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, 1, 20*time.Millisecond)
		if err := s.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() { waiting <- s.acquire(t.Context()) }()
		synctest.Wait()
		if n := s.waiting.Load(); n != 1 {
			t.Fatalf("%d wait", n)
		}
		wantCode(t, s.acquire(t.Context()), fault.Unreachable)
		wantCode(t, <-waiting, fault.Timeout)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.acquire(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		s.release()
		if err := s.acquire(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestQueueIsTold: a pull that waits for a slot says so, soon and then now and
// again, and how many wait.
func TestQueueIsTold(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	inBubble(t, seed, new(wire), func(t *testing.T, src *source, dial DialFunc) {
		for src.server.slots.try() {
			continue // all are taken
		}
		cfg := pullConfig(newMemDisk(), "memory")
		cfg.Dial = dial
		start := time.Now()
		var told []string
		cfg.Notify = func(e Event) {
			if e.Kind != EventQueued {
				return
			}
			told = append(told, fmt.Sprintf("%d served, %d waiting after %s", e.Served, e.Waiting, time.Since(start).Round(time.Second)))
			if len(told) == 4 {
				src.server.slots.release()
			}
		}
		if _, err := Pull(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		const one = "8 served, 1 waiting after "
		want := fmt.Sprint([]string{one + "1s", one + "4s", one + "8s", one + "11s"}) // longer than first contact may take
		if got := fmt.Sprint(told); got != want {
			t.Errorf("told %s", got)
		}
	})
}

// TestQueueIsWaitedFor: a pull waits for its turn for longer than a source that has
// a place may take to open a seed.
func TestQueueIsWaitedFor(t *testing.T) {
	seed := seedSpec{sizes: []int{20_000}}.build(t)
	inBubble(t, seed, new(wire), func(t *testing.T, src *source, dial DialFunc) {
		for src.server.slots.try() {
			continue
		}
		cfg := pullConfig(newMemDisk(), "memory")
		cfg.Dial, cfg.OpenTimeout = dial, 10*time.Minute
		start := time.Now()
		freed := false
		cfg.Notify = func(e Event) {
			if e.Kind == EventQueued && !freed && time.Since(start) > 25*time.Minute {
				freed = true
				src.server.slots.release()
			}
		}
		if _, err := Pull(t.Context(), cfg); err != nil || !freed {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// TestOneSlotASession: a session that is opened again waits for a slot while a
// stream of it takes one back; it ends up with one, and gives it back.
func TestOneSlotASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := seedSpec{sizes: []int{20_000}}.build(t)
		s, err := NewServer(Config{Authorizer: &fakeAuth{}, Leases: newFakeLeases(), Seeds: &fakeProvider{seeds: []Seed{seed}},
			Cluster: testCluster, Logger: quiet(), Slots: 2})
		if err != nil {
			t.Fatal(err)
		}
		sess, err := s.open(t.Context(), &chainfirev1.OpenSeedRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_ = sleep(t.Context(), time.Minute) // idle, it loses its slot
		for range 2 {
			if !s.slots.try() {
				t.Fatal("an idle session keeps its slot")
			}
		}
		again := make(chan error, 1)
		go func() { again <- s.takeSlot(t.Context(), sess) }()
		synctest.Wait()
		s.mu.Lock()
		s.slots.release() // to the one that waits, which then waits for the lock
		s.slots.release()
		err = s.keepSlot(sess)
		s.mu.Unlock()
		if err := errors.Join(err, <-again); err != nil {
			t.Fatal(err)
		}
		if free := len(s.slots.free); !sess.slot || free != 1 {
			t.Errorf("slot %t, %d free, want 1", sess.slot, free)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if free := len(s.slots.free); free != 2 {
			t.Errorf("%d slots free at the end, want 2", free)
		}
	})
}
