package netbench

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// Report is what was measured.
type Report struct {
	Command string          `json:"command"`
	Started time.Time       `json:"started"`
	Machine measure.Machine `json:"machine"`
	Runs    int             `json:"runs"`
	Window  int64           `json:"tcp_window_bytes"`
	Flags   []string        `json:"pull_flags"`
	Seconds float64         `json:"seconds"`
	Cells   []Cell          `json:"cells"`
}

// Cell is one round trip time and rate.
type Cell struct {
	RTT     float64       `json:"rtt_seconds"`
	Mbit    int           `json:"mbit"`
	Samples []Sample      `json:"samples"`
	Rows    []measure.Row `json:"rows"`
}

// Sample is one run of a cell. Times are in seconds, sizes in bytes.
type Sample struct {
	LineUse    float64 `json:"line_use"`    // share of the line while the seed moved
	CommandUse float64 `json:"command_use"` // and over the whole command
	PlainUse   float64 `json:"plain_use"`   // by TCP alone

	Seconds float64 `json:"seconds"`        // of the command
	Before  float64 `json:"before_seconds"` // until the seed moved
	Moving  float64 `json:"moving_seconds"`
	After   float64 `json:"after_seconds"` // until the command ended

	BytesLine  int64  `json:"bytes_line"` // came down the line
	BytesTotal uint64 `json:"bytes_total"`
	BytesWire  uint64 `json:"bytes_wire"`

	Source     measure.Usage `json:"source"`
	SourceIdle uint64        `json:"source_idle_rss_bytes"` // before the pull
	Target     measure.Usage `json:"target"`
	TargetIdle measure.Usage `json:"target_idle"` // a pull that finds all there

	LoadAverage string `json:"load_average"` // of the machine, after the run
}

// leastUse is what a pull makes of a line, where it is held against it.
const leastUse = 85 // percent

// mostOver is the memory that moving a seed takes, at most, on either side.
const mostOver = 64 // MiB

func rows(c Cell) []measure.Row {
	row := func(name, unit string, of func(Sample) float64) measure.Row {
		return measure.RowOf(name, unit, c.Samples, of)
	}
	return []measure.Row{
		row("line used while the seed moves", "%", func(s Sample) float64 { return 100 * s.LineUse }).AtLeast(leastUse),
		row("line used by TCP alone", "%", func(s Sample) float64 { return 100 * s.PlainUse }),
		row("line used, the seed / TCP alone", "x", func(s Sample) float64 { return measure.Ratio(s.LineUse, s.PlainUse) }),
		row("line used by the whole command", "%", func(s Sample) float64 { return 100 * s.CommandUse }),
		row("the command", "s", func(s Sample) float64 { return s.Seconds }),
		row("  until the seed moves", "s", func(s Sample) float64 { return s.Before }),
		row("  after its last byte", "s", func(s Sample) float64 { return s.After }),
		row("bytes on the line / of the seed", "x", func(s Sample) float64 {
			return measure.Ratio(float64(s.BytesLine), float64(s.BytesTotal))
		}),
		row("source CPU", "s", func(s Sample) float64 { return s.Source.CPUSeconds }),
		row("target CPU", "s", func(s Sample) float64 { return s.Target.CPUSeconds }),
		row("source RSS, peak above before", "MiB", func(s Sample) float64 {
			return measure.MiB(s.Source.PeakRSS) - measure.MiB(s.SourceIdle)
		}).AtMost(mostOver),
		row("target RSS, peak above a pull of nothing", "MiB", func(s Sample) float64 {
			return measure.MiB(s.Target.PeakRSS) - measure.MiB(s.TargetIdle.PeakRSS)
		}).AtMost(mostOver),
	}
}

// Write prints the report as text.
func (r Report) Write(w io.Writer) {
	r.Machine.Write(w)
	fmt.Fprintf(w, "load        average at the start %s\n", r.Machine.LoadAverage)
	window := "not bounded"
	if r.Window > 0 {
		window = "opens from 10 segments to " + output.Size(uint64(r.Window))
	}
	fmt.Fprintf(w, "line        handshakes take a round trip; the window of a TCP connection %s\n", window)
	flags := "none"
	if len(r.Flags) > 0 {
		flags = strings.Join(r.Flags, " ")
	}
	fmt.Fprintf(w, "flags       of pull, besides --from, --data-dir and --name: %s\n", flags)
	for _, c := range r.Cells {
		var bytes uint64
		if len(c.Samples) > 0 {
			bytes = c.Samples[0].BytesTotal
		}
		fmt.Fprintf(w, "\n%s round trip, %d Mbit/s, a seed of %s; runs: %d\n",
			time.Duration(c.RTT*float64(time.Second)).Round(time.Microsecond), c.Mbit, output.Size(bytes), len(c.Samples))
		measure.WriteRows(w, c.Rows)
	}
}
