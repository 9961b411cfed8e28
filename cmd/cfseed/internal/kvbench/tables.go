package kvbench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
)

// withFewKeys measures all chosen workloads on clusters of so many members.
func withFewKeys(ctx context.Context, cfg Config, dir string, members int) (t Table, err error) {
	cfg.Progress.Phase(fmt.Sprintf("start, members: %d", members))
	sides, stop, err := startSides(ctx, cfg, dir, members)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, s := range sides {
		if err := workload.Fill(ctx, s.client, cfg.Seed, fewKeys, cfg.ValueSize); err != nil {
			return t, err
		}
	}
	samples, err := alternate(ctx, cfg, sides, cfg.chosen(), place{keys: fewKeys, values: cfg.values()})
	return fewTable(cfg, members, samples), err
}

func (c Config) values() [][]byte { return workload.Values(c.Seed+1, 64, c.ValueSize) }

func fewTable(cfg Config, members int, samples []Sample) Table {
	t := Table{Name: fmt.Sprintf("members-%d", members), Samples: samples, Grid: grid(samples),
		Title: fmt.Sprintf("members: %d; %d keys, values of %d bytes; %.1f s a run, runs: %d", members, fewKeys, cfg.ValueSize, cfg.Span.Seconds(), cfg.Runs)}
	for _, l := range loads() {
		if of := only(samples, l.name); len(of) > 0 {
			t.Rows = append(t.Rows, ratio(l.title+": throughput, cfseed / etcd", of, perSecond).AtLeast(l.bound))
		}
	}
	return t
}

func perSecond(s Sample) float64 { return s.PerSecond }

func only(samples []Sample, name string) []Sample {
	return slices.DeleteFunc(slices.Clone(samples), func(s Sample) bool { return s.Workload != name })
}

// ratio is ours over etcd's, run by run.
func ratio(name string, samples []Sample, of func(Sample) float64) measure.Row {
	byRun := map[int]*[2]float64{}
	var runs []int
	for _, s := range samples {
		pair := byRun[s.Run]
		if pair == nil {
			pair = new([2]float64)
			byRun[s.Run] = pair
			runs = append(runs, s.Run)
		}
		if s.Side == oursName {
			pair[0] = of(s)
		} else {
			pair[1] = of(s)
		}
	}
	return measure.RowOf(name, "x", runs, func(run int) float64 { return measure.Ratio(byRun[run][0], byRun[run][1]) })
}

// grid has a line for each workload and side: medians over the runs.
func grid(samples []Sample) [][]string {
	out := [][]string{{"", "", "per second", "p50", "p99", "CPU of 1,000", "peak RSS"}}
	for _, l := range loads() {
		for _, name := range []string{oursName, etcdName} {
			of := slices.DeleteFunc(only(samples, l.name), func(s Sample) bool { return s.Side != name })
			if len(of) == 0 {
				continue
			}
			mid := func(v func(Sample) float64) float64 { return measure.Over(of, v).Median }
			title := l.title
			if name != oursName {
				title = ""
			}
			out = append(out, []string{title, name, fmt.Sprintf("%.0f", mid(perSecond)),
				fmt.Sprintf("%.2f ms", mid(func(s Sample) float64 { return s.P50 })), fmt.Sprintf("%.2f ms", mid(func(s Sample) float64 { return s.P99 })),
				fmt.Sprintf("%.3f s", mid(func(s Sample) float64 { return measure.Ratio(s.Usage.CPUSeconds*1000, float64(s.Count)) })),
				fmt.Sprintf("%.0f MiB", mid(func(s Sample) float64 { return measure.MiB(s.Usage.PeakRSS) }))})
		}
	}
	return out
}

// Restart is one restart of each side with all keys loaded: from the start of
// the process until a linearizable read is answered.
type Restart struct {
	Run    int     `json:"run"`
	Cfseed float64 `json:"cfseed_seconds"`
	Etcd   float64 `json:"etcd_seconds"`
}

// Keys is what was measured with many keys.
type Keys struct {
	Loaded   map[string]float64 `json:"load_seconds"` // by side
	Samples  []Sample           `json:"samples"`
	Restarts []Restart          `json:"restarts"`
}

// Bounds of the table with many keys; judged where there are many.
const (
	mostRSS      = 0.2 // of etcd's
	leastRestart = 10  // times as fast
	judgedFrom   = 1_000_000
)

// manyLoads are the workloads that are measured with many keys.
var manyLoads = []string{"put-16", "range"}

// withManyKeys loads both sides with all keys, measures, and restarts them.
func withManyKeys(ctx context.Context, cfg Config, dir string) (t Table, err error) {
	sides, stop, err := startSides(ctx, cfg, dir, 1)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	k := Keys{Loaded: map[string]float64{}}
	for _, s := range sides {
		cfg.Progress.Phase(fmt.Sprintf("load %d keys into %s", cfg.Keys, s.name))
		began := time.Now()
		if err := workload.Fill(ctx, s.client, cfg.Seed, cfg.Keys, cfg.ValueSize); err != nil {
			return t, err
		}
		k.Loaded[s.name] = time.Since(began).Seconds()
		cfg.Say("%s: %d keys loaded in %.1f s", s.name, cfg.Keys, k.Loaded[s.name])
	}
	chosen := slices.DeleteFunc(loads(), func(l load) bool { return !slices.Contains(manyLoads, l.name) })
	if k.Samples, err = alternate(ctx, cfg, sides, chosen, place{keys: cfg.Keys, values: cfg.values()}); err != nil {
		return t, err
	}
	for run := range cfg.Runs {
		cfg.Progress.Phase(fmt.Sprintf("restart with %d keys, run %d of %d", cfg.Keys, run+1, cfg.Runs))
		r := Restart{Run: run}
		for i := range sides {
			s := sides[(i+run)%len(sides)]
			into := &r.Cfseed
			if s.name == etcdName {
				into = &r.Etcd
			}
			if *into, err = s.restart(ctx); err != nil {
				return t, err
			}
		}
		cfg.Say("restart: cfseed %.2f s, etcd %.2f s", r.Cfseed, r.Etcd)
		k.Restarts = append(k.Restarts, r)
	}
	return keysTable(cfg, k), nil
}

func keysTable(cfg Config, k Keys) Table {
	judged := func(r measure.Row, hold func(measure.Row) measure.Row) measure.Row {
		if cfg.Keys < judgedFrom {
			return r
		}
		return hold(r)
	}
	t := Table{Name: KeysTable, Samples: []Keys{k}, Grid: grid(k.Samples), Title: fmt.Sprintf("1 member; %d keys, values of %d bytes, loaded in %.0f s (etcd: %.0f s); runs: %d",
		cfg.Keys, cfg.ValueSize, k.Loaded[oursName], k.Loaded[etcdName], cfg.Runs)}
	for _, l := range loads() {
		if of := only(k.Samples, l.name); len(of) > 0 {
			t.Rows = append(t.Rows, ratio(l.title+": throughput, cfseed / etcd", of, perSecond).AtLeast(l.bound))
		}
	}
	rss := ratio("peak RSS while keys are read, cfseed / etcd", only(k.Samples, "range"), func(s Sample) float64 { return float64(s.Usage.PeakRSS) })
	restart := func(name, unit string, of func(Restart) float64) measure.Row {
		return measure.RowOf(name, unit, k.Restarts, of)
	}
	t.Rows = append(t.Rows,
		judged(rss, func(r measure.Row) measure.Row { return r.AtMost(mostRSS) }),
		restart("restart until it reads: cfseed", "s", func(r Restart) float64 { return r.Cfseed }),
		restart("restart until it reads: etcd", "s", func(r Restart) float64 { return r.Etcd }),
		judged(restart("restart, etcd / cfseed", "x", func(r Restart) float64 { return measure.Ratio(r.Etcd, r.Cfseed) }),
			func(r measure.Row) measure.Row { return r.AtLeast(leastRestart) }),
	)
	return t
}
