// Package seedbench measures what seeding costs, table by table: seconds and
// bytes beside other ways to move the same files, what is left of a join once
// the bytes are there, what clients of the leader notice, what a delta saves,
// many targets at once, and etcd's way where its binary is at hand.
//
// Each size is loaded once, into the data directory of a member that is then
// stopped and never started again: the template. Each table begins with a copy
// of it, so that no table sees what another one left. Runs go in turns over the
// sides that are compared, everything that was written is synced, the first run
// is discarded where sides are compared, and every sample is kept.
package seedbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// Config is what the benchmark is told.
type Config struct {
	Binary    string   // of cfseed itself
	Dir       string   // where data directories are made; empty: the system's
	Sizes     []uint64 // bytes of values, rising; tables that need one take the first
	ValueSize int      // bytes; 0: chosen by the size, see valueSize
	Only      []string // names of tables; empty: all
	Runs      int
	Quiet     time.Duration // of a window without anything else
	Seed      uint64        // of the values
	Progress  output.Progress
	Say       func(format string, args ...any) // a line of narration
}

// Report is what was measured.
type Report struct {
	Command string          `json:"command"`
	Started time.Time       `json:"started"`
	Machine measure.Machine `json:"machine"`
	Runs    int             `json:"runs"`
	Seconds float64         `json:"seconds"`
	Tables  []Table         `json:"tables"`
}

// Table is one table: rows of figures, or a grid of cells.
type Table struct {
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	Rows    []measure.Row `json:"rows,omitempty"`
	Grid    [][]string    `json:"grid,omitempty"`    // the first row is its head
	Samples any           `json:"samples,omitempty"` // a list, one a run
	Charts  []plot.Chart  `json:"-"`
}

// part measures one or more tables.
type part struct {
	name    string
	measure func(context.Context, *ground) ([]Table, error)
}

// parts are all, in the order in which they are measured and printed.
func parts() []part {
	return []part{
		{"throughput", throughput},
		{"admit", admit},
		{"leader", leader},
		{"delta", delta},
		{"many", many},
		{"etcd", besideEtcd},
		{"projection", projection},
	}
}

// Names are the tables that there are.
func Names() []string {
	var out []string
	for _, p := range parts() {
		out = append(out, p.name)
	}
	return out
}

// valueSizes by the size of all values: loading takes most of the time, and
// takes it by the number of values.
const (
	smallValue = 256
	largeValue = 1024
	largeFrom  = 1<<30 + 1
)

// valueSize is the size of values where all of them together have so many bytes.
func (c Config) valueSize(size uint64) int {
	switch {
	case c.ValueSize != 0:
		return c.ValueSize
	case size >= largeFrom:
		return largeValue
	}
	return smallValue
}

// Run measures the tables asked for. Slowness is a row of the report, never an
// error.
func Run(ctx context.Context, cfg Config) (rep Report, err error) {
	began := time.Now()
	rep = Report{Started: began.UTC(), Runs: cfg.Runs}
	dir, err := os.MkdirTemp(cfg.Dir, "cfseed-bench-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep.Machine = measure.MachineAt(dir)
	g := &ground{cfg: cfg, dir: dir, templates: map[uint64]template{}, pulls: map[uint64][]Throughput{}}
	for _, p := range parts() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, p.name) {
			continue
		}
		tables, err := p.measure(ctx, g)
		rep.Tables = append(rep.Tables, tables...)
		if err != nil {
			return rep, fmt.Errorf("%s: %w", p.name, err)
		}
		for _, t := range tables {
			cfg.Say("%s: %s: %s", t.Name, t.Title, verdicts(t.Rows))
		}
	}
	rep.Seconds = time.Since(began).Seconds()
	return rep, nil
}

// verdicts counts what was held against a bound.
func verdicts(rows []measure.Row) string {
	count := map[string]int{}
	for _, r := range rows {
		count[r.Verdict]++
	}
	return fmt.Sprintf("%d within their bounds, %d missed", count[measure.Within], count[measure.Missed])
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	const op = "bench"
	switch {
	case len(c.Sizes) == 0:
		return fault.Newf(fault.Usage, op, "nothing to measure: give --sizes")
	case !slices.IsSorted(c.Sizes):
		return fault.Newf(fault.Usage, op, "--sizes: want them rising")
	case c.Sizes[0] < 1<<20:
		return fault.Newf(fault.Usage, op, "--sizes: want at least 1MiB each")
	case c.Runs < 1:
		return fault.Newf(fault.Usage, op, "--runs %d: want at least one", c.Runs)
	case c.ValueSize != 0 && c.ValueSize < workload.MinValueSize:
		return fault.Newf(fault.Usage, op, "--value-size %d: want at least %d, or 0", c.ValueSize, workload.MinValueSize)
	case c.Quiet < time.Second:
		return fault.Newf(fault.Usage, op, "--quiet %s: want at least 1s", c.Quiet)
	}
	for _, name := range c.Only {
		if !slices.Contains(Names(), name) {
			return fault.Newf(fault.Usage, op, "--only %q: there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

// Write prints the report as text.
func (r Report) Write(w io.Writer) {
	r.Machine.Write(w)
	fmt.Fprintf(w, "load        average at the start %s; all took %.0f s\n", r.Machine.LoadAverage, r.Seconds)
	for _, t := range r.Tables {
		fmt.Fprintf(w, "\n%s: %s\n", t.Name, t.Title)
		if len(t.Rows) > 0 {
			measure.WriteRows(w, t.Rows)
		}
		if len(t.Grid) > 0 {
			fmt.Fprintln(w)
			output.Table(w, t.Grid...)
		}
	}
}

// Plot writes every chart into dir, which is made when absent.
func (r Report) Plot(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fault.New(fault.Internal, "plot", err)
	}
	for _, t := range r.Tables {
		for _, c := range t.Charts {
			path := filepath.Join(dir, c.Name+".svg")
			if err := os.WriteFile(path, c.SVG(), 0o600); err != nil {
				return fault.New(fault.Internal, "plot", err).At(path)
			}
		}
	}
	return nil
}
