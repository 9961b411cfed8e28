package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

func TestSpread(t *testing.T) {
	for name, tc := range map[string]struct {
		values []float64
		want   spread
	}{
		"none":   {nil, spread{}},
		"one":    {[]float64{4}, spread{4, 4, 4}},
		"odd":    {[]float64{9, 1, 5}, spread{5, 1, 9}},
		"even":   {[]float64{8, 1, 2, 4}, spread{3, 1, 8}},
		"signed": {[]float64{-3, 7, -5}, spread{-3, -5, 7}},
	} {
		if got := spreadOf(tc.values); got != tc.want {
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
		got := percentile(sorted, percent)
		notAbove := got/10 + 1 // values at most got
		if notAbove*100 < percent*n || (notAbove-1)*100 >= percent*n {
			t.Fatalf("percentile %d of %d values: %d values are not above it", percent, n, notAbove)
		}
	})
	if got := percentile([]int{}, 50); got != 0 {
		t.Errorf("of none: %d", got)
	}
}

func TestLatency(t *testing.T) {
	var puts []put
	for i := 200; i > 0; i-- {
		puts = append(puts, put{time.Duration(200-i) * time.Second, time.Duration(i) * time.Millisecond})
	}
	got := latencyOf(puts, 3)
	if len(got.Slow) != slowest || got.Slow[0] != (Slow{0, 200}) || got.Slow[1] != (Slow{1, 199}) {
		t.Errorf("slow puts: %v", got.Slow)
	}
	got.Slow = nil
	if want := (Latency{Puts: 200, Failed: 3, P50: 100, P99: 198, Max: 200}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A window holds what was due in it, not what was answered in it.
func TestWindow(t *testing.T) {
	start := time.Unix(1000, 0)
	l := &load{}
	for i, p := range []offered{
		{took: 5 * time.Second},                               // before
		{took: time.Millisecond},                              // the first inside
		{took: 9 * time.Second, failed: true},                 // answered after the window
		{took: 2 * time.Millisecond}, {took: time.Nanosecond}, // the second is behind
	} {
		p.due = start.Add(time.Duration(i) * time.Second)
		l.puts = append(l.puts, &p)
	}
	from, to := start.Add(time.Second), start.Add(4*time.Second)
	got, err := l.window(t.Context(), from, to)
	want := Latency{Puts: 3, Failed: 1, P50: 2, P99: 9000, Max: 9000, Slow: []Slow{{0, 1}, {1, 9000}, {2, 2}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	l.puts[2].took = 0
	if _, _, pending := l.between(from, to); pending != 1 {
		t.Errorf("%d puts pending", pending)
	}
}

func TestValues(t *testing.T) {
	seen := map[string]bool{}
	for _, size := range []int{MinValueSize, 256, 257, 4096} {
		for number := range uint64(20) {
			pairs := batch(7, number, batchPuts, size)
			again := batch(7, number, batchPuts, size)
			for i, p := range pairs {
				if len(p.value) != size || !json.Valid(p.value) {
					t.Fatalf("%d bytes, want %d of JSON: %s", len(p.value), size, p.value)
				}
				if p.key != again[i].key || !bytes.Equal(p.value, again[i].value) {
					t.Fatalf("batch %d is not the same twice", number)
				}
				if size == MinValueSize && seen[p.key] {
					t.Fatalf("key %s twice", p.key)
				}
				seen[p.key] = true
			}
		}
	}
	if a, b := batch(7, 3, 1, 256)[0], batch(8, 3, 1, 256)[0]; bytes.Equal(a.value, b.value) {
		t.Error("the seed makes no difference")
	}
	if a, b := batch(7, 3, 5, 256)[4], batch(7, 3, 9, 256)[4]; a.key != b.key || !bytes.Equal(a.value, b.value) {
		t.Error("a shorter batch is another batch")
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
	c, err := copyTree(from, to)
	if err != nil || c.Files != 3 || c.Bytes != 3+5<<17 || c.Gone != 0 || c.Seconds <= 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := copyTree(from, to); !errors.Is(err, fs.ErrExist) {
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

// sample is run n of an invented cell in which everything grows with n.
func sample(n int, phases ...output.Phase) Sample {
	f := float64(n)
	return Sample{Run: n, Seconds: 2 * f, Phases: phases, BytesTotal: 700 << 20, BytesWire: 600 << 20, EntriesAfterAdd: 100 * uint64(n),
		RaftSnapshotsSent: uint64(n) / 5,
		Copy:              Copied{Seconds: 1, Bytes: 710 << 20, Files: 9},
		PutQuiet:          Latency{Puts: 1000, P50: 1, P99: 4}, PutSeed: Latency{Puts: 1000, P50: 2, P99: 4 * f},
		PutCopy: Latency{Puts: 1000, P99: 6}, PutControl: Latency{Puts: 1000, P99: 5},
		Source:  Usage{CPUSeconds: 1 + f, PeakRSS: uint64(100+40*n) << 20},
		Control: Usage{CPUSeconds: 1, PeakRSS: 80 << 20}, Target: Usage{CPUSeconds: f, PeakRSS: 64 << 20}}
}

func TestTable(t *testing.T) {
	machine := Machine{Cores: 2, CPU: "a CPU", Memory: "8 kB", Kernel: "6.1", FileSystem: "ext4 on /dev/x", Go: "go1.26", PageCache: "warm",
		LoadAverage: "0.1 0.2 0.3"}
	datadriven.RunTest(t, "testdata/table", func(t *testing.T, d *datadriven.TestData) string {
		var size uint64
		d.ScanArgs(t, "mib", &size)
		var runs []int
		d.ScanArgs(t, "runs", &runs)
		c := Cell{Members: len(runs), Bytes: size << 20, ValueSize: 256, Values: int(size << 12), LoadSeconds: 12.25}
		for _, n := range runs {
			c.Samples = append(c.Samples, sample(n, output.Phase{Name: "seed", Seconds: float64(n)}))
		}
		c.Rows = rows(c)
		var out bytes.Buffer
		Report{Machine: machine, Rate: 200, Cells: []Cell{c}}.Write(&out)
		return out.String()
	})
}

func TestCheck(t *testing.T) {
	good := Config{Sizes: []uint64{1 << 20}, Members: []int{1}, ValueSize: 256, Runs: 1, Rate: 200, Quiet: time.Second}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no size":     func(c *Config) { c.Sizes = nil },
		"no members":  func(c *Config) { c.Members = nil },
		"small":       func(c *Config) { c.Sizes = []uint64{1} },
		"many":        func(c *Config) { c.Members = []int{8} },
		"no runs":     func(c *Config) { c.Runs = 0 },
		"no load":     func(c *Config) { c.Rate = 0 },
		"tiny values": func(c *Config) { c.ValueSize = MinValueSize - 1 },
		"no time":     func(c *Config) { c.Quiet = 0 },
	} {
		c := good
		spoil(&c)
		if err := c.Check(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
