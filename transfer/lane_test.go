package transfer

import (
	"context"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestHole: a line that swallows everything for as long as the idle timeout is
// survived, though the connections of before stay dead; one that does so for
// longer is not, and the end is in time.
func TestHole(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{300_000}}.build(t)
	for _, tc := range []struct {
		lasts time.Duration
		code  fault.Code // "" is survived
	}{
		{time.Second, ""}, {25 * time.Second, ""}, {50 * time.Second, ""}, {60 * time.Second, ""},
		{70 * time.Second, fault.Timeout}, {time.Hour, fault.Timeout},
	} {
		w := new(wire)
		w.holeAt = 150_000
		inBubble(t, seed, w, func(t *testing.T, _ *source, dial DialFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			defer func() { cancel(); <-done }()
			go func() { // no time passes before the hole
				defer close(done)
				if sleep(ctx, tc.lasts) == nil {
					w.plan(func(*wire) {})
				}
			}()
			disk := newMemDisk()
			cfg := pullConfig(disk, "memory")
			cfg.Dial, cfg.Compression, cfg.Backoff = dial, "none", nil
			start := time.Now()
			res, err := Pull(t.Context(), cfg)
			took := time.Since(start)
			if tc.code == "" {
				if err != nil {
					t.Fatalf("a hole of %s: %v", tc.lasts, err)
				}
				disk.check(t, seed)
				if most := max(tc.lasts, 20*time.Second) + 8*time.Second; disk.opened != 1 || disk.twice != 0 || res.Retries == 0 || took > most {
					t.Errorf("a hole of %s: went on after %s, want %s at most; stage opened %d times, %d chunks twice, %d retries",
						tc.lasts, took, most, disk.opened, disk.twice, res.Retries)
				}
				return
			}
			wantCode(t, err, tc.code)
			if took < time.Minute || took > 66*time.Second {
				t.Errorf("a hole of %s: gave up after %s, want 60 s to 66 s", tc.lasts, took)
			}
		})
	}
}

// TestLaneGoesOn: a connection that breaks is made again by the lane alone; the
// round, and what other connections bring, go on.
func TestLaneGoesOn(t *testing.T) {
	seed := seedSpec{chunkSize: 16 << 10, sizes: []int{1 << 20}}.build(t)
	src := startSource(t, nil, []*memSeed{seed})
	src.wire.plan(func(w *wire) { w.cutAt = 500_000 })
	disk := newMemDisk()
	cfg := pullConfig(disk, src.addr)
	cfg.Compression = "none"
	var events []EventKind
	cfg.Notify = func(e Event) { events = append(events, e.Kind) }
	res, err := Pull(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	disk.check(t, seed)
	opens, _ := src.leases.calls()
	if opens != 1 || res.Retries != 1 || res.Failovers != 0 || disk.opened != 1 || disk.twice != 0 {
		t.Errorf("%d opens, %d retries, %d failovers; stage opened %d times, %d chunks twice; %v",
			opens, res.Retries, res.Failovers, disk.opened, disk.twice, events)
	}
}

// TestLanesInUse: two on a short line, all on a long one, and as many as the
// caller wants wherever.
func TestLanesInUse(t *testing.T) {
	known := make(chan struct{})
	close(known)
	for _, tc := range []struct {
		parallel  int
		trip      time.Duration
		want, ask int // lanes; chunks asked for at a time
	}{
		{0, 0, shortLanes, leastShare}, {0, longTrip - 1, shortLanes, leastShare}, {0, longTrip, longLanes, mostShare},
		{1, time.Second, 1, mostShare}, {7, 0, 7, leastShare},
	} {
		r := &round{puller: &puller{cfg: PullConfig{Parallel: tc.parallel}}, trip: tc.trip, measured: known}
		r.lanes = make([]*lane, max(tc.parallel, longLanes))
		if tc.parallel > 0 {
			r.lanes = r.lanes[:tc.parallel]
		}
		if got := r.inUse(t.Context()); len(got) != tc.want || r.long != (tc.ask == mostShare) {
			t.Errorf("%d wanted, %s: %d lanes, long %t", tc.parallel, tc.trip, len(got), r.long)
		}
	}
}

// TestAhead: a share is asked for a round trip before the last one has come.
func TestAhead(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		long         bool
		answer, each time.Duration
		want         int
	}{
		{false, 100 * ms, ms, 0}, {true, 0, 0, 1}, {true, 50 * ms, 100 * ms, 1}, {true, 50 * ms, 33 * ms, 2},
		{true, 70 * ms, 33 * ms, 3}, {true, 100 * ms, ms, aheadMost},
	} {
		l := &lane{round: &round{long: tc.long}, answer: tc.answer, each: tc.each}
		if got := l.ahead(); got != tc.want {
			t.Errorf("long %t, answer %s, a chunk each %s: %d ahead, want %d", tc.long, tc.answer, tc.each, got, tc.want)
		}
	}
}

// TestGrace: who has fetched for long waits for as long, within bounds.
func TestGrace(t *testing.T) {
	for fetched, want := range map[time.Duration]time.Duration{
		0: 2 * time.Second, 5 * time.Second: 5 * time.Second, time.Hour: 20 * time.Second,
	} {
		p := &puller{fetching: fetched}
		p.cfg.setDefaults()
		if got := p.grace(); got != want {
			t.Errorf("after %s of fetching: %s, want %s", fetched, got, want)
		}
	}
}
