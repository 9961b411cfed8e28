package chunk

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
)

func newCodec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(b)
	return b
}

func text(n int) []byte {
	return []byte(strings.Repeat(`{"user":"alice","balance":42,"tags":["a","b"]}`, n/46+1))[:n]
}

func TestSplitAgreesWithBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint32Range(1, 64).Draw(t, "size")
		data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
		chunks := Split(data, size)
		if got := Count(uint64(len(data)), size); got != uint64(len(chunks)) {
			t.Fatalf("Count %d, Split %d", got, len(chunks))
		}
		var joined []byte
		for i, c := range chunks {
			off, n := Bounds(uint64(len(data)), size, uint64(i))
			if off != uint64(len(joined)) || n != len(c) || n == 0 {
				t.Fatalf("chunk %d: bounds %d+%d, split %d+%d", i, off, n, len(joined), len(c))
			}
			joined = append(joined, c...)
		}
		if !bytes.Equal(joined, data) {
			t.Fatal("chunks do not join to the data")
		}
	})
}

func TestCountDoesNotOverflow(t *testing.T) {
	if got := Count(1<<64-1, 1<<20); got != 1<<44 {
		t.Fatalf("got %d", got)
	}
}

// The sum is part of the manifest format.
func TestSumIsPinned(t *testing.T) {
	for in, want := range map[string]uint64{"": 0x2d06800538d394c2, "a": 0xe6c632b61e964e1f} {
		if got := Sum([]byte(in)); got != want {
			t.Errorf("Sum(%q) = %#x, want %#x", in, got, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	c := newCodec(t)
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.ByteRange(0, 3), 0, 5000).Draw(t, "raw")
		with := rapid.SampledFrom([]Compression{None, Zstd, S2}).Draw(t, "with")
		dst := make([]byte, rapid.IntRange(0, 8000).Draw(t, "room"))
		packed, used := c.Compress(nil, raw, with)
		if len(packed) > len(raw) {
			t.Fatalf("%s made %d bytes of %d", with, len(packed), len(raw))
		}
		got, err := c.Decompress(dst, packed, used, len(raw))
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%s: %v", used, err)
		}
		if len(raw) == 0 {
			return
		}
		if _, err := c.Decompress(nil, packed, used, len(raw)-1); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("%s: one byte less accepted: %v", used, err)
		}
		if _, err := c.Decompress(nil, packed, used, len(raw)+1); !fault.Is(err, fault.Corrupt) {
			t.Fatalf("%s: one byte more accepted: %v", used, err)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	c := newCodec(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			raw := text(10_000 + g)
			for _, with := range []Compression{Zstd, S2} {
				packed, used := c.Compress(nil, raw, with)
				got, err := c.Decompress(nil, packed, used, len(raw))
				if used != with || err != nil || !bytes.Equal(got, raw) {
					t.Errorf("%s: used %s, %v", with, used, err)
				}
			}
		})
	}
	wg.Wait()
}

// A few bytes that claim to be very many cost nothing: neither memory nor an
// answer.
func TestBombsAreRefused(t *testing.T) {
	c := newCodec(t)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	var stream bytes.Buffer // a streamed frame does not declare its size
	streamed, err := zstd.NewWriter(&stream, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 64 {
		if _, err := streamed.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := streamed.Close(); err != nil {
		t.Fatal(err)
	}
	wide, err := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	defer wide.Close()
	frame := enc.EncodeAll(make([]byte, 64<<20), nil)
	small := enc.EncodeAll(make([]byte, 1<<10), nil)
	for name, tc := range map[string]struct {
		packed []byte
		with   Compression
		raw    int
	}{
		"zstd, declared 64 MiB":         {frame, Zstd, 1 << 10},
		"zstd, undeclared 64 MiB":       {stream.Bytes(), Zstd, 1 << 10},
		"zstd, many small frames":       {bytes.Repeat(small, 4096), Zstd, 1 << 10},
		"zstd, raw size above the most": {frame, Zstd, 64 << 20},
		"s2, claims 4 GiB":              {binary.AppendUvarint(nil, 1<<32-1), S2, 1 << 10},
		"s2, claims 64 MiB":             {s2.Encode(nil, make([]byte, 64<<20)), S2, 1 << 10},
		"s2, overlong length":           {bytes.Repeat([]byte{0xff}, 20), S2, 1 << 10},
		"negative raw size":             {small, Zstd, -1},
		"unknown compression":           {small, 9, 1 << 10},
		"none, too long":                {make([]byte, 1<<11), None, 1 << 10},
		"empty zstd":                    {nil, Zstd, 1 << 10},
		"empty s2":                      {nil, S2, 1 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := c.Decompress(nil, tc.packed, tc.with, tc.raw)
			runtime.ReadMemStats(&after)
			if !fault.Is(err, fault.Corrupt) {
				t.Fatalf("got %v", err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("allocated %d bytes", grown)
			}
		})
	}
}

func TestDecompressUsesTheRoomItIsGiven(t *testing.T) {
	c := newCodec(t)
	raw := text(100_000)
	dst := make([]byte, 200_000)
	for _, with := range []Compression{Zstd, S2} {
		packed, used := c.Compress(nil, raw, with)
		got, err := c.Decompress(dst, packed, used, len(raw))
		if err != nil || &got[0] != &dst[0] {
			t.Errorf("%s: another buffer (%v)", with, err)
		}
		if cap(got) != len(raw) {
			t.Errorf("%s: result reaches beyond the raw size", with)
		}
	}
}

func TestAuto(t *testing.T) {
	c := newCodec(t)
	for _, tc := range []struct {
		name   string
		sample []byte
		line   float64
		want   Compression
	}{
		{"text on a slow line", text(1 << 16), 1 << 20, Zstd},
		{"text on a line that takes 200 MiB/s", text(1 << 16), 200 << 20, Zstd},
		{"text on a line as fast as zstd", text(1 << 16), 250 << 20, None},
		{"text on a line that does not block", text(1 << 16), 0, None},
		{"noise on a slow line", noise(1 << 16), 1 << 20, None},
		{"noise on a line that does not block", noise(1 << 16), 0, None},
		{"a quarter saved, a line of 60 MiB/s", append(noise(3<<15), text(1<<15)...), 60 << 20, Zstd},
		{"a quarter saved, a line of 65 MiB/s", append(noise(3<<15), text(1<<15)...), 65 << 20, None},
		{"nothing", nil, 1 << 20, None},
	} {
		if got := c.Auto(tc.sample, tc.line); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestNoiseIsSentRaw(t *testing.T) {
	c := newCodec(t)
	raw := noise(1 << 16)
	for _, with := range []Compression{None, Zstd, S2, 77} {
		if packed, used := c.Compress(nil, raw, with); used != None || &packed[0] != &raw[0] {
			t.Errorf("%s: packed as %s into %d bytes", with, used, len(packed))
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []Compression{None, Zstd, S2} {
		if got, err := Parse(c.String()); err != nil || got != c {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	for _, bad := range []string{"", "auto", "ZSTD", "compression(9)", Compression(9).String()} {
		if _, err := Parse(bad); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	c := newCodec(f)
	for _, with := range []Compression{None, Zstd, S2} {
		packed, used := c.Compress(nil, text(3000), with)
		f.Add(packed, uint8(used), 3000)
	}
	f.Fuzz(func(t *testing.T, packed []byte, with uint8, raw int) {
		got, err := c.Decompress(nil, packed, Compression(with), raw)
		if err == nil && len(got) != raw {
			t.Fatalf("%d bytes, want %d", len(got), raw)
		}
		if err != nil && !fault.Is(err, fault.Corrupt) {
			t.Fatalf("untyped error %v", err)
		}
	})
}
