package transfer

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// TestLineOfSeveralStreams: what counts is the line, not a stream's share of it.
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
						c.next(codec, data)
						<-time.After(takes)
						c.sent(takes)
					}
				})
			}
			wg.Wait()
			if s.with != tc.want {
				t.Errorf("%d streams, %.0f MiB/s in all: chose %s, want %s", tc.streams, tc.rate, s.with, tc.want)
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
					used[c.next(codec, text)]++
					<-time.After(time.Second)
					c.sent(blocked)
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
		"one stream that does not":           {1, 60, 0, chunk.S2, lookSoon + lookEvery},
		"streams of a chunk each that wait":  {100, 1, time.Second, chunk.Zstd, 2*lookSoon + lookEvery},
		"short streams that wait":            {10, 10, time.Second, chunk.Zstd, 2*lookSoon + lookEvery},
		"short streams that do not":          {20, 3, 0, chunk.S2, lookSoon + lookEvery},
	} {
		t.Run(name, func(t *testing.T) {
			s, used := run(t, tc.streams, tc.chunks, tc.blocked)
			if s.with != tc.want || s.due < lookSoon || s.due > tc.due {
				t.Errorf("chose %s, next look at %d of %d chunks; want %s, %d", s.with, s.due, s.chunks, tc.want, tc.due)
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
	fixed.share(&choice{with: chunk.Zstd, chunks: 1, due: 100})
	if got := fixed.next(nil, text); got != chunk.None {
		t.Errorf("a stream that asked for none has %s", got)
	}
}

// TestOneSlowMoment: a line that seems slow once is not packed for; one that
// stays slow is.
func TestOneSlowMoment(t *testing.T) {
	for _, tc := range []struct {
		advice []chunk.Compression
		want   chunk.Compression
		sure   bool // of the last look
	}{
		{[]chunk.Compression{chunk.None, chunk.Zstd}, chunk.None, false},
		{[]chunk.Compression{chunk.S2, chunk.Zstd}, chunk.S2, false},
		{[]chunk.Compression{chunk.None, chunk.Zstd, chunk.None, chunk.Zstd}, chunk.None, false},
		{[]chunk.Compression{chunk.None, chunk.Zstd, chunk.Zstd}, chunk.Zstd, true},
		{[]chunk.Compression{chunk.None, chunk.Zstd, chunk.Zstd, chunk.None}, chunk.None, true},
		{[]chunk.Compression{chunk.Zstd, chunk.Zstd, chunk.S2, chunk.Zstd}, chunk.S2, false},
	} {
		s, sure := new(choice), false
		for _, advice := range tc.advice {
			sure = s.look(advice)
		}
		if s.with != tc.want || sure != tc.sure {
			t.Errorf("%v: %s, sure %t; want %s, %t", tc.advice, s.with, sure, tc.want, tc.sure)
		}
	}
}
