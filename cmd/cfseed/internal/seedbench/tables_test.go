package seedbench

import (
	"math"
	"slices"
	"testing"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/bench"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// tables are made by name from invented samples of the given runs, in which
// everything grows with the number of the run.
var tables = map[string]func(runs []int) []Table{
	"throughput": func(runs []int) []Table { return []Table{throughputTable(invented, each(runs, inventThroughput))} },
	"admit":      func(runs []int) []Table { return []Table{admitTable(invented, each(runs, inventAdmit))} },
	"leader": func(runs []int) []Table {
		return []Table{leaderTable(invented, inventJoins(runs)), entriesTable(invented, inventJoins(runs))}
	},
	"delta": func(runs []int) []Table { return []Table{deltaTable(invented, inventDeltas(runs))} },
	"many":  func(runs []int) []Table { return []Table{manyTable(invented, inventMany(runs))} },
	"etcd":  func(runs []int) []Table { return []Table{etcdTable(invented, each(runs, inventEtcd))} },
	"projection": func(runs []int) []Table {
		f := figuresOf(2<<30, each(runs, inventThroughput))
		f.Cores = 2
		return []Table{projectionTable(f)}
	},
}

var invented = template{size: 2 << 30, values: 1 << 21, valueSize: 1024, loadSeconds: 60}

func each[S any](runs []int, invent func(n int) S) []S {
	var out []S
	for _, n := range runs {
		out = append(out, invent(n))
	}
	return out
}

func inventPull(n int) Pulled {
	return Pulled{Seconds: 2 * float64(n), BytesTotal: 1 << 30, BytesWire: 1 << 30,
		Target: measure.Usage{CPUSeconds: float64(n) / 2, PeakRSS: uint64(100+20*n) << 20}}
}

func inventThroughput(n int) Throughput {
	return Throughput{Run: n, Logical: 2 << 30, Sides: map[string]float64{"copy + fsync": 2, "tar over TCP": 3}, Pull: inventPull(n),
		Source:  measure.Usage{CPUSeconds: float64(n) / 4, PeakRSS: uint64(100+30*n) << 20},
		Control: measure.Usage{PeakRSS: 100 << 20}, Ahead: 0.75, OtherCores: 0.5}
}

func inventAdmit(n int) Admit {
	f := float64(n)
	return Admit{Run: n, Pull: inventPull(n), Ready: f / 5, Voter: f / 2, Push: 2 * f, Add: f / 4, Again: uint64(n) / 5,
		Phases: []output.Phase{{Name: "admit", Seconds: f / 10}, {Name: "promote", Seconds: f / 5}}}
}

func inventSample(n int) bench.Sample {
	f := float64(n)
	return bench.Sample{Run: n, Seconds: f, Phases: []output.Phase{{Name: "seed", Seconds: f / 2}, {Name: "promote", Seconds: f / 4}},
		EntriesAfterAdd: 100 * uint64(n), RaftSnapshotsSent: uint64(n) / 5, Copy: measure.Copied{Seconds: 1.5},
		PutQuiet: measure.Latency{P50: 1, P99: 4}, PutSeed: measure.Latency{P50: 2, P99: 4 * f, OtherCores: 0.25},
		PutCopy: measure.Latency{P50: 3, P99: 10, Failed: n / 5},
		Source:  measure.Usage{CPUSeconds: f, PeakRSS: 90 << 20}, Target: measure.Usage{CPUSeconds: f / 2, PeakRSS: 80 << 20}}
}

func inventJoins(runs []int) []Joins {
	samples := each(runs, inventSample)
	return []Joins{{Members: 1, Most: 1800, Rate: slowRate, Samples: samples}, {Members: 1, Most: 1800, Rate: 900, Half: true, Samples: samples},
		{Members: 3, Most: 1800, Rate: fastRate, Samples: samples}}
}

func inventDeltas(runs []int) []Delta {
	var out []Delta
	for _, n := range runs {
		for i, c := range changes {
			d := Delta{Run: n, Change: c.name, Changed: i, Whole: inventPull(2), Auto: inventPull(n + 1), Files: inventPull(n), Ranges: inventPull(2 * n)}
			d.Auto.BytesWire = d.Auto.BytesTotal / 100 * uint64(c.percent*n)
			d.Auto.BytesReused = d.Auto.BytesTotal - d.Auto.BytesWire
			d.Files.BytesReused = d.Files.BytesTotal / 100 * uint64(100-c.percent*n)
			d.Files.BytesWire -= d.Files.BytesReused
			d.Ranges.BytesReused = d.Ranges.BytesTotal / 100 * 98
			d.Ranges.BytesWire -= d.Ranges.BytesReused
			out = append(out, d)
		}
	}
	return out
}

func inventMany(runs []int) []Many {
	var out []Many
	for _, n := range runs {
		for _, targets := range targetCounts {
			m := Many{Run: n, Targets: targets, Wall: float64(n * targets), Checkpoints: 1 + n/5, Source: measure.Usage{CPUSeconds: 1, PeakRSS: 120 << 20},
				Control: measure.Usage{PeakRSS: 90 << 20}, PutQuiet: measure.Latency{P99: 3}, PutSeed: measure.Latency{P99: 9}}
			for range targets {
				m.Pulls = append(m.Pulls, inventPull(n))
			}
			out = append(out, m)
		}
	}
	return out
}

func inventEtcd(n int) Etcd {
	return Etcd{Run: n, Cfseed: inventSample(n), Etcd: Learner{Seconds: 3 * float64(n), Newcomer: measure.Usage{CPUSeconds: 2, PeakRSS: 200 << 20},
		Leader: measure.Usage{CPUSeconds: 1, PeakRSS: 300 << 20}, PutQuiet: measure.Latency{P99: 3}, PutSeed: measure.Latency{P99: 5}}}
}

// TestProjection: the largest of the four decides, each grows with the bytes,
// and only the line's depends on the line.
func TestProjection(t *testing.T) {
	f := Figures{Wire: 0.5, Files: 0.6, SourceCPU: 1, TargetCPU: 3, Disk: 600 << 20, Cores: 2, Logical: 2 * gib}
	for _, c := range []struct {
		change  func(*Figures)
		logical float64
		line    float64
		want    limit
	}{
		{func(*Figures) {}, 100 * gib, 1e9, limit{"line", 50 * gib * 8 / 1e9}},
		{func(*Figures) {}, 100 * gib, 100e9, limit{"disk", 2 * 60 * 1024 / 600.}},
		{func(f *Figures) { f.TargetCPU = 12 }, 100 * gib, 100e9, limit{"target CPU", 50 * 12 / 2.}},
		{func(f *Figures) { f.TargetCPU = 12 }, 200 * gib, 100e9, limit{"target CPU", 100 * 12 / 2.}},
		{func(f *Figures) { f.SourceCPU = 20; f.Cores = 4 }, 100 * gib, 25e9, limit{"source CPU", 50 * 20 / 4.}},
	} {
		g := f
		c.change(&g)
		if got := g.slowest(c.logical, c.line); got.name != c.want.name || math.Abs(got.seconds-c.want.seconds) > 1e-6*c.want.seconds {
			t.Errorf("%.0f bytes at %.0f: %v, want %v", c.logical, c.line, got, c.want)
		}
	}
	if got, want := f.here(), 2*2*0.6*1024/600.; math.Abs(got-want) > 1e-9 {
		t.Errorf("here: %v, want the disk's %v", got, want)
	}
	f.TargetCPU = 99
	if got, want := f.here(), 1*100/2.; math.Abs(got-want) > 1e-9 {
		t.Errorf("here: %v, want that of all processors, %v", got, want)
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{0.25: "0.2s", 12.34: "12.3s", 59.96: "60.0s", 200: "3m20s", 3599.9: "60m0s", 3900: "1h5m", 90000: "25h0m"} {
		if got := duration(seconds); got != want {
			t.Errorf("%v: %s, want %s", seconds, got, want)
		}
	}
}

// TestChangedKeys: as many as asked for, none twice, all within the keys; a hot
// range has no gap.
func TestChangedKeys(t *testing.T) {
	const values = 10000
	for _, c := range changes {
		numbers := slices.Sorted(slices.Values(c.numbers(values, 7)))
		if len(numbers) != values*c.percent/100 || len(slices.Compact(slices.Clone(numbers))) != len(numbers) ||
			numbers[0] < 0 || numbers[len(numbers)-1] >= values {
			t.Errorf("%s: %d numbers from %d to %d", c.name, len(numbers), numbers[0], numbers[len(numbers)-1])
		}
		if spread := numbers[len(numbers)-1] - numbers[0] + 1; c.hot != (spread == len(numbers)) {
			t.Errorf("%s: %d numbers in a range of %d", c.name, len(numbers), spread)
		}
	}
	if a, b := changes[0].numbers(values, 7), changes[0].numbers(values, 8); slices.Equal(a, b) {
		t.Error("the seed makes no difference")
	}
}

// Every table is looked at by TestTables.
func TestEveryTableIsInvented(t *testing.T) {
	for _, name := range Names() {
		if tables[name] == nil {
			t.Errorf("no samples are invented for %s", name)
		}
	}
}
