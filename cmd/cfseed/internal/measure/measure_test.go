package measure

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSpread(t *testing.T) {
	for name, tc := range map[string]struct {
		values []float64
		want   Spread
	}{
		"none":   {nil, Spread{}},
		"one":    {[]float64{4}, Spread{4, 4, 4}},
		"odd":    {[]float64{9, 1, 5}, Spread{5, 1, 9}},
		"even":   {[]float64{8, 1, 2, 4}, Spread{3, 1, 8}},
		"signed": {[]float64{-3, 7, -5}, Spread{-3, -5, 7}},
	} {
		if got := SpreadOf(tc.values); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// The percentile by its definition: the smallest value not below the share.
func TestPercentile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 500).Draw(t, "n")
		percent := rapid.IntRange(1, 100).Draw(t, "percent")
		sorted := make([]int, n)
		for i := range sorted {
			sorted[i] = 10 * i
		}
		got := Percentile(sorted, percent)
		notAbove := got/10 + 1 // values at most got
		if notAbove*100 < percent*n || (notAbove-1)*100 >= percent*n {
			t.Fatalf("percentile %d of %d values: %d values are not above it", percent, n, notAbove)
		}
	})
	if got := Percentile([]int{}, 50); got != 0 {
		t.Errorf("of none: %d", got)
	}
}

func TestLatency(t *testing.T) {
	var puts []Put
	for i := 200; i > 0; i-- {
		puts = append(puts, Put{time.Duration(200-i) * time.Second, time.Duration(i) * time.Millisecond})
	}
	got := LatencyOf(puts, 3)
	if len(got.Slow) != Slowest || got.Slow[0] != (Slow{0, 200}) || got.Slow[1] != (Slow{1, 199}) {
		t.Errorf("slow puts: %v", got.Slow)
	}
	got.Slow = nil
	if want := (Latency{Puts: 200, Failed: 3, P50: 100, P99: 198, Max: 200}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCopyTree(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	files := map[string]string{"x": "one", "d/y": "", "d/e/z": strings.Repeat("three", 1<<17)}
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o750),
			os.WriteFile(filepath.Join(from, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := CopyTree(from, to)
	if err != nil || c.Files != 3 || c.Bytes != 3+5<<17 || c.Gone != 0 || c.Seconds <= 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := CopyTree(from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a copy: %v", err)
	}
}

func TestReadProc(t *testing.T) {
	stat := "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 1234 66 0 0 20 0 9 0 100 200 300"
	if got, err := parseStat(stat); err != nil || got != 13 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := parsePeak("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"); err != nil || got != 2<<20 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 - 66"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
		if _, err := parsePeak(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	if got, err := parseBusy("cpu  100 20 3 4000 500 60 7 10 0 0\ncpu0 1 2 3\n"); err != nil || got != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseBusy("cpu0 1 2 3 4 5 6 7 8 9"); err == nil {
		t.Error("the line of one processor is taken for that of all")
	}
	mounts := "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /data/deep btrfs rw 0 0\ntmpfs /da tmpfs rw 0 0\n"
	for dir, want := range map[string]string{"/data/x": "xfs on /dev/b", "/data/deep": "btrfs on /dev/c", "/database": "ext4 on /dev/a"} {
		if got := fileSystem(mounts, dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

// What this process reads is counted.
func TestReadBytes(t *testing.T) {
	const size = 3 << 20
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := ReadBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if after, err := ReadBytes(os.Getpid()); err != nil || after-before < size {
		t.Errorf("%d bytes, %v", after-before, err)
	}
	if _, err := ReadBytes(1 << 30); err == nil {
		t.Error("a process that is not there has read")
	}
}
