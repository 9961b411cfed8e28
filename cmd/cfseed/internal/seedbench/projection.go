package seedbench

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
)

const gib = 1 << 30

// What is projected.
var (
	projectedSizes = []uint64{100 * gib, 1024 * gib}   // bytes of keys and values
	projectedLines = []float64{1e9, 10e9, 25e9, 100e9} // bits a second
)

// Figures are what a projection is made of, measured at one size.
type Figures struct {
	Size      uint64  `json:"size"`             // bytes of values that were measured
	Wire      float64 `json:"wire_share"`       // bytes on the wire / bytes of keys and values
	Files     float64 `json:"files_share"`      // bytes of files / bytes of keys and values
	SourceCPU float64 `json:"source_cpu"`       // seconds each GiB on the wire
	TargetCPU float64 `json:"target_cpu"`       // seconds each GiB on the wire
	Disk      float64 `json:"disk_per_second"`  // bytes that a copy with fsync writes
	Cores     int     `json:"cores"`            // of each machine
	Measured  float64 `json:"measured_seconds"` // of a pull, both sides on one machine
	Logical   float64 `json:"logical_bytes"`    // bytes of keys and values that it pulled
}

// figuresOf takes the medians of runs.
func figuresOf(size uint64, samples []Throughput) Figures {
	median := func(of func(Throughput) float64) float64 { return measure.Over(samples, of).Median }
	logical := median(func(s Throughput) float64 { return float64(s.Logical) })
	return Figures{
		Size:      size,
		Wire:      measure.Ratio(median(func(s Throughput) float64 { return float64(s.Pull.BytesWire) }), logical),
		Files:     measure.Ratio(median(func(s Throughput) float64 { return float64(s.Pull.BytesTotal) }), logical),
		SourceCPU: median(func(s Throughput) float64 { return s.perGiB(s.Source.CPUSeconds) }),
		TargetCPU: median(func(s Throughput) float64 { return s.perGiB(s.Pull.Target.CPUSeconds) }),
		Disk: median(func(s Throughput) float64 {
			return measure.Ratio(float64(s.Pull.BytesTotal), s.Sides[sides()[0].name])
		}),
		Cores:    runtime.NumCPU(),
		Measured: median(func(s Throughput) float64 { return s.Pull.Seconds }),
		Logical:  logical,
	}
}

// limit is one resource and the seconds that it alone would take.
type limit struct {
	name    string
	seconds float64
}

// limits are what each resource takes for so many bytes of keys and values. The
// disk writes every byte and reads it back, as the other one reads it for its
// sums and reads it to send it.
func (f Figures) limits(logical, line float64) []limit {
	wire := logical * f.Wire
	return []limit{
		{"line", measure.Ratio(wire*8, line)},
		{"source CPU", wire / gib * f.SourceCPU / float64(f.Cores)},
		{"target CPU", wire / gib * f.TargetCPU / float64(f.Cores)},
		{"disk", measure.Ratio(2*logical*f.Files, f.Disk)},
	}
}

// slowest is the limit that decides: the others work meanwhile.
func (f Figures) slowest(logical, line float64) limit {
	var worst limit
	for _, l := range f.limits(logical, line) {
		if l.seconds > worst.seconds {
			worst = l
		}
	}
	return worst
}

// here is what the same reckoning gives for what was measured: without a line,
// and with both sides on the processors and the disk of one machine.
func (f Figures) here() float64 {
	cpu := f.Logical * f.Wire / gib * (f.SourceCPU + f.TargetCPU) / float64(f.Cores)
	return max(cpu, measure.Ratio(2*f.Logical*f.Files, f.Disk))
}

func projection(ctx context.Context, g *ground) ([]Table, error) {
	size := g.cfg.Sizes[len(g.cfg.Sizes)-1]
	if g.pulls[size] == nil { // not asked for as a table
		if _, err := throughputOf(ctx, g, size); err != nil {
			return nil, err
		}
	}
	return []Table{projectionTable(figuresOf(size, g.pulls[size]))}, nil
}

func projectionTable(f Figures) Table {
	figure := func(name, unit string, v float64) measure.Row {
		return measure.Row{Name: name, Unit: unit, Median: v, Low: v, High: v}
	}
	rows := []measure.Row{
		figure("on the wire / keys and values", "x", f.Wire),
		figure("files / keys and values", "x", f.Files),
		figure("source CPU, each GiB on the wire", "s", f.SourceCPU),
		figure("target CPU, each GiB on the wire", "s", f.TargetCPU),
		figure("disk, copied and synced", "MiB/s", measure.MiB(f.Disk)),
		figure("processors of each machine", "", float64(f.Cores)),
		figure("the reckoning for this size, on this one machine", "s", f.here()),
		figure("measured", "s", f.Measured),
	}
	grid := [][]string{{"keys and values"}}
	chart := plot.Chart{Name: "projection", Title: "A pull, reckoned from what was measured", Unit: "s", Log: true}
	for _, line := range projectedLines {
		grid[0] = append(grid[0], fmt.Sprintf("%.0f Gbit/s", line/1e9))
	}
	for _, size := range projectedSizes {
		row := []string{output.Size(size)}
		for i, line := range projectedLines {
			l := f.slowest(float64(size), line)
			row = append(row, fmt.Sprintf("%s, %s", duration(l.seconds), l.name))
			chart.Bars = append(chart.Bars, plot.Bar{Label: row[0] + " at " + grid[0][i+1], Value: l.seconds, Note: "(" + l.name + ")"})
		}
		grid = append(grid, row)
	}
	return Table{Name: "projection", Title: "reckoned from the medians of " + output.Size(f.Size) + "; each cell names what limits",
		Rows: rows, Grid: grid, Samples: []Figures{f}, Charts: []plot.Chart{chart}}
}

// duration prints seconds for people: "1h5m", "3m20s", "12s".
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}
