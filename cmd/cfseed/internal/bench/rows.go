package bench

import (
	"fmt"
	"io"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// What a seed should cost at most.
const (
	maxOverCopy = 2.5     // times copying and syncing the files
	boundsFrom  = 1 << 30 // bytes of values; below, what does not grow with them prevails
	maxPeakOver = 96      // MiB of the source, above the control
	maxPutOver  = 3       // times the p99 of puts before
)

// rows are the table of a cell. Ratios and differences are taken inside each
// run, then their median.
func rows(c Cell) []measure.Row {
	row := func(name, unit string, of func(Sample) float64) measure.Row {
		return measure.RowOf(name, unit, c.Samples, of)
	}
	toCopy := row("member add / copy + fsync", "x", func(s Sample) float64 { return measure.Ratio(s.Seconds, s.Copy.Seconds) })
	if c.Bytes >= boundsFrom {
		toCopy = toCopy.AtMost(maxOverCopy)
	}
	out := []measure.Row{row("member add, to voter", "s", func(s Sample) float64 { return s.Seconds })}
	out = append(out, phaseRows(c, row)...)
	return append(out,
		row("copy + fsync of the directory", "s", func(s Sample) float64 { return s.Copy.Seconds }),
		toCopy,
		row("bytes seeded", "MiB", func(s Sample) float64 { return measure.MiB(s.BytesTotal) }),
		row("bytes on the wire", "MiB", func(s Sample) float64 { return measure.MiB(s.BytesWire) }),
		row("bytes copied", "MiB", func(s Sample) float64 { return measure.MiB(s.Copy.Bytes) }),
		row("entries after add", "", func(s Sample) float64 { return float64(s.EntriesAfterAdd) }),
		row("raft snapshots sent", "", func(s Sample) float64 { return float64(s.RaftSnapshotsSent) }).Never(),
		row("puts that failed", "", func(s Sample) float64 {
			return float64(s.PutQuiet.Failed + s.PutSeed.Failed + s.PutCopy.Failed + s.PutControl.Failed)
		}).Never(),
		row("put p50 before", "ms", func(s Sample) float64 { return s.PutQuiet.P50 }),
		row("put p50 during the seed", "ms", func(s Sample) float64 { return s.PutSeed.P50 }),
		row("put p99 before", "ms", func(s Sample) float64 { return s.PutQuiet.P99 }),
		row("put p99 during the seed", "ms", func(s Sample) float64 { return s.PutSeed.P99 }),
		row("put p99 during the copy", "ms", func(s Sample) float64 { return s.PutCopy.P99 }),
		row("put p99 of the control", "ms", func(s Sample) float64 { return s.PutControl.P99 }),
		row("put p99, seed / before", "x", func(s Sample) float64 { return measure.Ratio(s.PutSeed.P99, s.PutQuiet.P99) }).AtMost(maxPutOver),
		row("put p99, copy / before", "x", func(s Sample) float64 { return measure.Ratio(s.PutCopy.P99, s.PutQuiet.P99) }),
		row("source CPU", "s", func(s Sample) float64 { return s.Source.CPUSeconds }),
		row("control CPU", "s", func(s Sample) float64 { return s.Control.CPUSeconds }),
		row("target CPU", "s", func(s Sample) float64 { return s.Target.CPUSeconds }),
		row("source peak RSS", "MiB", func(s Sample) float64 { return measure.MiB(s.Source.PeakRSS) }),
		row("control peak RSS", "MiB", func(s Sample) float64 { return measure.MiB(s.Control.PeakRSS) }),
		row("source peak RSS above control", "MiB", func(s Sample) float64 {
			return measure.MiB(float64(s.Source.PeakRSS) - float64(s.Control.PeakRSS))
		}).AtMost(maxPeakOver),
		row("busy besides, before", "cores", func(s Sample) float64 { return s.PutQuiet.OtherCores }),
		row("busy besides, during the seed", "cores", func(s Sample) float64 { return s.PutSeed.OtherCores }),
		row("busy besides, during the copy", "cores", func(s Sample) float64 { return s.PutCopy.OtherCores }),
		row("target peak RSS", "MiB", func(s Sample) float64 { return measure.MiB(s.Target.PeakRSS) }),
	)
}

// phaseRows has a row for each phase that the first run had.
func phaseRows(c Cell, row func(string, string, func(Sample) float64) measure.Row) []measure.Row {
	if len(c.Samples) == 0 {
		return nil
	}
	var out []measure.Row
	for _, p := range c.Samples[0].Phases {
		out = append(out, row("  "+p.Name, "s", func(s Sample) float64 { return output.PhaseSeconds(s.Phases, p.Name) }))
	}
	return out
}

// Write prints the report as text.
func (r Report) Write(w io.Writer) {
	r.Machine.Write(w)
	fmt.Fprintf(w, "load        average at the start %s; %d puts/s in every window\n", r.Machine.LoadAverage, r.Rate)
	for _, c := range r.Cells {
		fmt.Fprintf(w, "\n%s, %s in %d values of %d bytes, loaded in %.1f s; runs: %d\n",
			MemberCount(c.Members), output.Size(c.Bytes), c.Values, c.ValueSize, c.LoadSeconds, len(c.Samples))
		measure.WriteRows(w, c.Rows)
	}
}

// MemberCount gives "1 member", "3 members".
func MemberCount(members int) string {
	if members == 1 {
		return "1 member"
	}
	return fmt.Sprintf("%d members", members)
}
