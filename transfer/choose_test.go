package transfer

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// TestLineOfSeveralStreams: what counts for zstd is the line, not a stream's share of
// it.
func TestLineOfSeveralStreams(t *testing.T) {
	data := content64(3, 1<<20) // packs to about a half
	for _, tc := range []struct {
		streams int
		rate    float64 // MiB a second, of all
		want    chunk.Compression
	}{
		{1, 300, chunk.None}, {3, 300, chunk.None}, {4, 300, chunk.None}, {1, 50, chunk.Zstd}, {2, 110, chunk.Zstd}, {4, 110, chunk.Zstd},
	} {
		synctest.Test(t, func(t *testing.T) {
			codec, err := chunk.NewCodec(1)
			if err != nil {
				t.Fatal(err)
			}
			defer codec.Close()
			s, takes := new(choice), time.Duration(float64(tc.streams)/tc.rate*float64(time.Second))
			var wg sync.WaitGroup
			for range tc.streams {
				wg.Go(func() {
					c := &chooser{auto: s}
					for range 3 * lookEvery / tc.streams {
						c.next(codec, 0, data)
						<-time.After(takes)
						c.sent(len(data), takes)
					}
				})
			}
			wg.Wait()
			if got := s.files[0]; got != tc.want {
				t.Errorf("%d streams, %.0f MiB/s in all: chose %s, want %s", tc.streams, tc.rate, got, tc.want)
			}
		})
	}
}

// TestChoiceIsShared: however short streams are, the data is looked at a few
// times only, and what was chosen is kept.
func TestChoiceIsShared(t *testing.T) {
	text := bytes.Repeat([]byte("all work and no play "), 1000)
	// Sending a chunk takes a second, of which the line takes blocked.
	run := func(t *testing.T, streams, chunks int, blocked time.Duration) (s *choice, used map[chunk.Compression]int) {
		synctest.Test(t, func(*testing.T) {
			s, used = new(choice), map[chunk.Compression]int{}
			codec, err := chunk.NewCodec(1)
			if err != nil {
				t.Fatal(err)
			}
			defer codec.Close()
			for range streams {
				c, err := newChooser("auto")
				if err != nil {
					t.Fatal(err)
				}
				c.share(s)
				for range chunks {
					used[c.next(codec, 0, text)]++
					<-time.After(time.Second)
					c.sent(len(text), blocked)
				}
			}
		})
		return s, used
	}
	for name, tc := range map[string]struct {
		streams, chunks int
		blocked         time.Duration
		want            chunk.Compression // when the looks have settled
		due             int               // the next look
	}{
		"one stream that waits for the line": {1, 100, time.Second, chunk.Zstd, 2*lookSoon + lookEvery},
		"one stream that does not":           {1, 60, 0, chunk.None, lookSoon + lookEvery},
		"streams of a chunk each that wait":  {100, 1, time.Second, chunk.Zstd, 2*lookSoon + lookEvery},
		"short streams that wait":            {10, 10, time.Second, chunk.Zstd, 2*lookSoon + lookEvery},
		"short streams that do not":          {20, 3, 0, chunk.None, lookSoon + lookEvery},
	} {
		t.Run(name, func(t *testing.T) {
			s, used := run(t, tc.streams, tc.chunks, tc.blocked)
			if got := s.files[0]; got != tc.want || s.due < lookSoon || s.due > tc.due {
				t.Errorf("chose %s, next look at %d of %d chunks; want %s, %d", got, s.due, s.chunks, tc.want, tc.due)
			}
			if n := tc.streams * tc.chunks; used[tc.want] < n-2*lookSoon-8 {
				t.Errorf("%s for %d of %d chunks: %v", tc.want, used[tc.want], n, used)
			}
		})
	}
	fixed, err := newChooser("none")
	if err != nil {
		t.Fatal(err)
	}
	fixed.share(&choice{line: 1, chunks: 1, due: 100})
	if got := fixed.next(nil, 0, text); got != chunk.None {
		t.Errorf("a stream that asked for none has %s", got)
	}
}

// TestOneSlowMoment: a line that seems slow once is not packed for; one that
// stays slow is. Files are looked at again when it has become another one.
func TestOneSlowMoment(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		found []float64 // by the looks
		line  float64
		due   int // chunks until the next look
	}{
		{[]float64{0, 8 * mib}, 0, lookSoon},
		{[]float64{0, 8 * mib, 0, 8 * mib}, 0, lookSoon},
		{[]float64{0, 8 * mib, 9 * mib}, 9 * mib, lookEvery},
		{[]float64{0, 8 * mib, 9 * mib, 12 * mib}, 9 * mib, lookEvery}, // much the same
		{[]float64{0, 8 * mib, 9 * mib, 40 * mib}, 40 * mib, lookEvery},
		{[]float64{0, 8 * mib, 9 * mib, 2 * mib}, 2 * mib, lookEvery},
		{[]float64{0, 8 * mib, 9 * mib, 0}, 0, lookEvery},
		{[]float64{0, 8 * mib, 9 * mib, 0, 9 * mib}, 0, lookSoon},
	} {
		s := &choice{chunks: 1}
		for _, found := range tc.found {
			s.look(found)
		}
		if s.line != tc.line || s.due-s.chunks != tc.due {
			t.Errorf("%v: a line of %.0f, next look after %d; want %.0f, %d", tc.found, s.line, s.due-s.chunks, tc.line, tc.due)
		}
	}
}

// TestEachFileIsLookedAt: on a slow line files differ, and each is sent as its
// first chunk advises; what is sent as it lies is looked at no more. On a line
// that is not waited for nothing is.
func TestEachFileIsLookedAt(t *testing.T) {
	codec, err := chunk.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	text := bytes.Repeat([]byte("all work and no play "), 5000)
	c, err := newChooser("")
	if err != nil {
		t.Fatal(err)
	}
	if c.plain(1) {
		t.Error("a chunk goes unseen when a look is due")
	}
	if got := c.next(codec, 1, text); got != chunk.None || !c.plain(1) || !c.plain(2) {
		t.Errorf("on a line that is not waited for: %s", got)
	}
	c.auto.look(1 << 20)
	c.auto.look(1 << 20)
	for file, tc := range []struct {
		raw  []byte
		want chunk.Compression
	}{{noise, chunk.None}, {text, chunk.Zstd}, {noise, chunk.None}} {
		if c.plain(uint32(file)) {
			t.Errorf("file %d is sent before it was looked at", file)
		}
		if got := c.next(codec, uint32(file), tc.raw); got != tc.want {
			t.Errorf("file %d: %s, want %s", file, got, tc.want)
		}
		if plain := c.plain(uint32(file)); plain != (tc.want == chunk.None) {
			t.Errorf("file %d: the next chunk is sent as it lies: %t", file, plain)
		}
	}
	c.auto.due = c.auto.chunks
	if c.plain(0) {
		t.Error("a chunk goes unseen when a look is due")
	}
}

// TestLimitIsNoLine: what waits for a limit waits for no line, and is not packed.
func TestLimitIsNoLine(t *testing.T) {
	const n = 1 << 20
	for name, tc := range map[string]struct {
		limiters []*rate.Limiter
		takes    time.Duration // to send a chunk
		line     bool
	}{
		"a limit":           {[]*rate.Limiter{rate.NewLimiter(n, n)}, time.Millisecond, false},
		"a line":            {nil, time.Second, true},
		"a limited line":    {[]*rate.Limiter{rate.NewLimiter(n, n)}, time.Second, true},
		"two wide limits":   {[]*rate.Limiter{nil, rate.NewLimiter(64*n, n)}, time.Second, true},
		"a line, as a half": {[]*rate.Limiter{rate.NewLimiter(n, n)}, 400 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := newChooser("auto")
				if err != nil {
					t.Fatal(err)
				}
				s := &sender{ctx: t.Context(), limiters: tc.limiters, choice: c}
				for range 4 * lookEvery {
					if c.auto.mu.Lock(); c.auto.chunks >= c.auto.due {
						c.auto.look(c.auto.waits())
					}
					c.took()
					c.auto.mu.Unlock()
					if err := s.dispatch(n, n, func() error { <-time.After(tc.takes); return nil }); err != nil {
						t.Fatal(err)
					}
				}
				if got := c.auto.line > 0; got != tc.line {
					t.Errorf("a line of %.0f bytes a second, want one: %t", c.auto.line, tc.line)
				}
			})
		})
	}
}
