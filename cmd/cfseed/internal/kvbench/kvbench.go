// Package kvbench measures what clients get from a cluster beside what they get
// from etcd on the same machine: puts, reads, transactions, watches and leases,
// with few keys and with millions, memory, and the time of a restart.
//
// Both sides run as processes all the time and one of them is asked at a time,
// in turns; each run begins with the other one. Both sync what they acknowledge.
// A run is warmed up first, and every sample is kept.
package kvbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// Config is what the benchmark is told.
type Config struct {
	Binary    string        // of cfseed itself
	Etcd      string        // etcd's binary
	Dir       string        // where data directories are made; empty: the system's
	Members   []int         // sizes of clusters
	Only      []string      // names of workloads, and KeysTable; empty: all
	Keys      int           // loaded for KeysTable
	ValueSize int           // bytes
	Span      time.Duration // of one run of a workload
	Runs      int
	Seed      uint64
	Progress  output.Progress
	Say       func(format string, args ...any) // a line of narration
}

// KeysTable is the name of the table with many keys.
const KeysTable = "keys"

// Report is what was measured.
type Report struct {
	Command   string          `json:"command"`
	Started   time.Time       `json:"started"`
	Machine   measure.Machine `json:"machine"`
	Runs      int             `json:"runs"`
	Span      float64         `json:"span_seconds"`
	ValueSize int             `json:"value_bytes"`
	Seconds   float64         `json:"seconds"`
	Tables    []Table         `json:"tables"`
}

// Table is one table: rows that hold figures against bounds, and a grid with
// the figures of both sides.
type Table struct {
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	Rows    []measure.Row `json:"rows"`
	Grid    [][]string    `json:"grid"` // the first row is its head
	Samples any           `json:"samples"`
}

// Run measures. Slowness is a row of the report, never an error.
func Run(ctx context.Context, cfg Config) (rep Report, err error) {
	began := time.Now()
	rep = Report{Started: began.UTC(), Runs: cfg.Runs, Span: cfg.Span.Seconds(), ValueSize: cfg.ValueSize}
	dir, err := os.MkdirTemp(cfg.Dir, "cfseed-bench-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep.Machine = measure.MachineAt(dir)
	for _, members := range cfg.Members {
		if len(cfg.chosen()) == 0 {
			break
		}
		t, err := withFewKeys(ctx, cfg, dir, members)
		if err != nil {
			return rep, fmt.Errorf("%d members: %w", members, err)
		}
		rep.Tables = append(rep.Tables, t)
	}
	if cfg.Keys > 0 && cfg.wants(KeysTable) {
		t, err := withManyKeys(ctx, cfg, dir)
		if err != nil {
			return rep, fmt.Errorf("%d keys: %w", cfg.Keys, err)
		}
		rep.Tables = append(rep.Tables, t)
	}
	rep.Seconds = time.Since(began).Seconds()
	return rep, nil
}

func (c Config) wants(name string) bool { return len(c.Only) == 0 || slices.Contains(c.Only, name) }

// chosen are the workloads to measure.
func (c Config) chosen() []load {
	return slices.DeleteFunc(loads(), func(l load) bool { return !c.wants(l.name) })
}

// Names are the workloads that there are, and KeysTable.
func Names() []string {
	var out []string
	for _, l := range loads() {
		out = append(out, l.name)
	}
	return append(out, KeysTable)
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	const op = "bench"
	switch {
	case len(c.Members) == 0 || slices.Min(c.Members) < 1 || slices.Max(c.Members) > 7:
		return fault.Newf(fault.Usage, op, "--members %v: want sizes from 1 to 7", c.Members)
	case c.Runs < 1:
		return fault.Newf(fault.Usage, op, "--runs %d: want at least one", c.Runs)
	case c.Span < 100*time.Millisecond:
		return fault.Newf(fault.Usage, op, "--span %s: want at least 100ms", c.Span)
	case c.ValueSize < workload.MinValueSize || c.ValueSize > 1<<16:
		return fault.Newf(fault.Usage, op, "--value-size %d: want %d to 65536", c.ValueSize, workload.MinValueSize)
	case c.Keys < 0:
		return fault.Newf(fault.Usage, op, "--keys %d: want 0 or more", c.Keys)
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
		fmt.Fprintf(w, "\n%s: %s\n\n", t.Name, t.Title)
		output.Table(w, t.Grid...)
		fmt.Fprintln(w)
		measure.WriteRows(w, t.Rows)
	}
}
