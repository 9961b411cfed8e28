package bench

import (
	"fmt"
	"io"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// What a seed should cost at most.
const (
	maxOverCopy = 2.5     // times copying and syncing the files
	boundsFrom  = 1 << 30 // bytes of values; below, what does not grow with them prevails
	maxPeakOver = 96      // MiB of the source, above the control
	maxPutOver  = 3       // times the p99 of puts before
)

// Row is one line of a cell's table. Bound and Verdict are empty where nothing
// is expected.
type Row struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Median  float64 `json:"median"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Bound   string  `json:"bound,omitempty"`
	Verdict string  `json:"verdict,omitempty"` // "ok" or "MISSED"
}

// Verdicts.
const (
	within = "ok"
	missed = "MISSED"
)

// atMost holds the median against a bound.
func (r Row) atMost(bound float64) Row {
	r.Bound, r.Verdict = "at most "+number(bound, r.Unit), within
	if r.Median > bound {
		r.Verdict = missed
	}
	return r
}

// never holds the worst run against zero.
func (r Row) never() Row {
	r.Bound, r.Verdict = "none in any run", within
	if r.High > 0 {
		r.Verdict = missed
	}
	return r
}

// rows are the table of a cell. Ratios and differences are taken inside each
// run, then their median.
func rows(c Cell) []Row {
	row := func(name, unit string, of func(Sample) float64) Row {
		s := over(c.Samples, of)
		return Row{Name: name, Unit: unit, Median: s.median, Low: s.low, High: s.high}
	}
	mib := func(bytes float64) float64 { return bytes / (1 << 20) }
	toCopy := row("member add / copy + fsync", "x", func(s Sample) float64 { return ratio(s.Seconds, s.Copy.Seconds) })
	if c.Bytes >= boundsFrom {
		toCopy = toCopy.atMost(maxOverCopy)
	}
	out := []Row{row("member add, to voter", "s", func(s Sample) float64 { return s.Seconds })}
	out = append(out, phaseRows(c, row)...)
	return append(out,
		row("copy + fsync of the directory", "s", func(s Sample) float64 { return s.Copy.Seconds }),
		toCopy,
		row("bytes seeded", "MiB", func(s Sample) float64 { return mib(float64(s.BytesTotal)) }),
		row("bytes on the wire", "MiB", func(s Sample) float64 { return mib(float64(s.BytesWire)) }),
		row("bytes copied", "MiB", func(s Sample) float64 { return mib(float64(s.Copy.Bytes)) }),
		row("entries after add", "", func(s Sample) float64 { return float64(s.EntriesAfterAdd) }),
		row("raft snapshots sent", "", func(s Sample) float64 { return float64(s.RaftSnapshotsSent) }).never(),
		row("puts that failed", "", func(s Sample) float64 {
			return float64(s.PutQuiet.Failed + s.PutSeed.Failed + s.PutCopy.Failed + s.PutControl.Failed)
		}).never(),
		row("put p50 before", "ms", func(s Sample) float64 { return s.PutQuiet.P50 }),
		row("put p50 during the seed", "ms", func(s Sample) float64 { return s.PutSeed.P50 }),
		row("put p99 before", "ms", func(s Sample) float64 { return s.PutQuiet.P99 }),
		row("put p99 during the seed", "ms", func(s Sample) float64 { return s.PutSeed.P99 }),
		row("put p99 during the copy", "ms", func(s Sample) float64 { return s.PutCopy.P99 }),
		row("put p99 of the control", "ms", func(s Sample) float64 { return s.PutControl.P99 }),
		row("put p99, seed / before", "x", func(s Sample) float64 { return ratio(s.PutSeed.P99, s.PutQuiet.P99) }).atMost(maxPutOver),
		row("put p99, copy / before", "x", func(s Sample) float64 { return ratio(s.PutCopy.P99, s.PutQuiet.P99) }),
		row("source CPU", "s", func(s Sample) float64 { return s.Source.CPUSeconds }),
		row("control CPU", "s", func(s Sample) float64 { return s.Control.CPUSeconds }),
		row("target CPU", "s", func(s Sample) float64 { return s.Target.CPUSeconds }),
		row("source peak RSS", "MiB", func(s Sample) float64 { return mib(float64(s.Source.PeakRSS)) }),
		row("control peak RSS", "MiB", func(s Sample) float64 { return mib(float64(s.Control.PeakRSS)) }),
		row("source peak RSS above control", "MiB", func(s Sample) float64 {
			return mib(float64(s.Source.PeakRSS) - float64(s.Control.PeakRSS))
		}).atMost(maxPeakOver),
		row("busy besides, before", "cores", func(s Sample) float64 { return s.PutQuiet.OtherCores }),
		row("busy besides, during the seed", "cores", func(s Sample) float64 { return s.PutSeed.OtherCores }),
		row("busy besides, during the copy", "cores", func(s Sample) float64 { return s.PutCopy.OtherCores }),
		row("target peak RSS", "MiB", func(s Sample) float64 { return mib(float64(s.Target.PeakRSS)) }),
	)
}

// phaseRows has a row for each phase that the first run had.
func phaseRows(c Cell, row func(string, string, func(Sample) float64) Row) []Row {
	if len(c.Samples) == 0 {
		return nil
	}
	var out []Row
	for _, p := range c.Samples[0].Phases {
		out = append(out, row("  "+p.Name, "s", func(s Sample) float64 {
			for _, q := range s.Phases {
				if q.Name == p.Name {
					return q.Seconds
				}
			}
			return 0
		}))
	}
	return out
}

// Write prints the report as text.
func (r Report) Write(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "machine     %d cores, %s, %s memory, Linux %s, %s, %s\n", m.Cores, m.CPU, m.Memory, m.Kernel, m.FileSystem, m.Go)
	fmt.Fprintf(w, "page cache  %s\n", m.PageCache)
	fmt.Fprintf(w, "load        average at the start %s; %d puts/s in every window\n", m.LoadAverage, r.Rate)
	for _, c := range r.Cells {
		fmt.Fprintf(w, "\n%s, %s in %d values of %d bytes, loaded in %.1f s; runs: %d\n",
			memberCount(c.Members), output.Size(c.Bytes), c.Values, c.ValueSize, c.LoadSeconds, len(c.Samples))
		table := [][]string{{"", "median", "lowest", "highest", "bound", ""}}
		for _, row := range c.Rows {
			table = append(table, []string{row.Name, number(row.Median, row.Unit), number(row.Low, row.Unit), number(row.High, row.Unit),
				row.Bound, row.Verdict})
		}
		output.Table(w, table...)
	}
}

// number prints a value with its unit.
func number(v float64, unit string) string {
	switch unit {
	case "":
		return fmt.Sprintf("%.0f", v)
	case "s", "x":
		return fmt.Sprintf("%.2f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func memberCount(members int) string {
	if members == 1 {
		return "1 member"
	}
	return fmt.Sprintf("%d members", members)
}
