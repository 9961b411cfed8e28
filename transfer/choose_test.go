package transfer

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// TestLineOfSeveralStreams: what counts for zstd is the line, not a stream's share of
// it; what shrinks as this does gets at least S2.
func TestLineOfSeveralStreams(t *testing.T) {
	data := content64(3, 1<<20) // packs to about a half
	for _, tc := range []struct {
		streams int
		rate    float64 // MiB a second, of all
		want    chunk.Compression
	}{
		{1, 300, chunk.S2}, {3, 300, chunk.S2}, {4, 300, chunk.S2}, {1, 50, chunk.Zstd}, {2, 110, chunk.Zstd}, {4, 110, chunk.Zstd},
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
						c.sent(takes)
					}
				})
			}
			wg.Wait()
			if s.of(0) != tc.want {
				t.Errorf("%d streams, %.0f MiB/s in all: chose %s, want %s", tc.streams, tc.rate, s.of(0), tc.want)
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
			if s.of(0) != tc.want || s.due < lookSoon || s.due > tc.due {
				t.Errorf("chose %s, next look at %d of %d chunks; want %s, %d", s.of(0), s.due, s.chunks, tc.want, tc.due)
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
	fixed.share(&choice{packs: true, chunks: 1, due: 100})
	if got := fixed.next(nil, 0, text); got != chunk.None {
		t.Errorf("a stream that asked for none has %s", got)
	}
}

// TestOneSlowMoment: a line that seems slow once is not packed for; one that
// stays slow is.
func TestOneSlowMoment(t *testing.T) {
	for _, tc := range []struct {
		pays  []bool // as the looks find
		packs bool
		sure  bool // of the last look
	}{
		{[]bool{false, true}, false, false},
		{[]bool{false, true, false, true}, false, false},
		{[]bool{false, true, true}, true, true},
		{[]bool{false, true, true, false}, false, true},
		{[]bool{true, true, false, true}, false, false},
	} {
		s, sure := new(choice), false
		for _, pays := range tc.pays {
			sure = s.look(pays)
		}
		if s.packs != tc.packs || sure != tc.sure {
			t.Errorf("%v: packs %t, sure %t; want %t, %t", tc.pays, s.packs, sure, tc.packs, tc.sure)
		}
	}
}

// TestEachFileIsLookedAt: files differ, and each is sent as its first chunk
// advises; what is sent as it lies is looked at no more.
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
	for file, tc := range []struct {
		raw  []byte
		want chunk.Compression
	}{{noise, chunk.None}, {text, chunk.S2}, {noise, chunk.None}} {
		if c.plain(uint32(file), len(tc.raw)) {
			t.Errorf("file %d is sent before it was looked at", file)
		}
		if got := c.next(codec, uint32(file), tc.raw); got != tc.want {
			t.Errorf("file %d: %s, want %s", file, got, tc.want)
		}
		if plain := c.plain(uint32(file), len(tc.raw)); plain != (tc.want == chunk.None) {
			t.Errorf("file %d: the next chunk is sent as it lies: %t", file, plain)
		}
	}
	c.auto.due = c.auto.chunks
	if c.plain(0, 1) {
		t.Error("a chunk goes unseen when a look is due")
	}
}
