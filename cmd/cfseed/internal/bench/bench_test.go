package bench

import (
	"bytes"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// sample is run n of an invented cell in which everything grows with n.
func sample(n int, phases ...output.Phase) Sample {
	f := float64(n)
	return Sample{Run: n, Seconds: 2 * f, Phases: phases, BytesTotal: 700 << 20, BytesWire: 600 << 20, EntriesAfterAdd: 100 * uint64(n),
		RaftSnapshotsSent: uint64(n) / 5,
		Copy:              measure.Copied{Seconds: 1, Bytes: 710 << 20, Files: 9},
		PutQuiet:          measure.Latency{Puts: 1000, P50: 1, P99: 4}, PutSeed: measure.Latency{Puts: 1000, P50: 2, P99: 4 * f},
		PutCopy: measure.Latency{Puts: 1000, P99: 6}, PutControl: measure.Latency{Puts: 1000, P99: 5},
		Source:  measure.Usage{CPUSeconds: 1 + f, PeakRSS: uint64(100+40*n) << 20},
		Control: measure.Usage{CPUSeconds: 1, PeakRSS: 80 << 20}, Target: measure.Usage{CPUSeconds: f, PeakRSS: 64 << 20}}
}

func TestTable(t *testing.T) {
	machine := measure.Machine{Cores: 2, CPU: "a CPU", Memory: "8 kB", Kernel: "6.1", FileSystem: "ext4 on /dev/x", Go: "go1.26", PageCache: "warm",
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
		"tiny values": func(c *Config) { c.ValueSize = workload.MinValueSize - 1 },
		"no time":     func(c *Config) { c.Quiet = 0 },
	} {
		c := good
		spoil(&c)
		if err := c.Check(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
