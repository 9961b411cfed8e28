package seedbench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/bench"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/etcd"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// Etcd is one run: a newcomer of an etcd that holds the same records, and one
// of ours, each under the same load.
type Etcd struct {
	Run       int          `json:"run"`
	EtcdFirst bool         `json:"etcd_first"`
	Etcd      Learner      `json:"etcd"`
	Cfseed    bench.Sample `json:"cfseed"`
}

// Learner is one join of etcd: from the call of member add until the newcomer
// has applied what the leader had.
type Learner struct {
	Seconds  float64         `json:"seconds"`
	Newcomer measure.Usage   `json:"newcomer"`
	Leader   measure.Usage   `json:"leader"`
	PutQuiet measure.Latency `json:"put_quiet"`
	PutSeed  measure.Latency `json:"put_seed"`
}

func besideEtcd(ctx context.Context, g *ground) (tables []Table, err error) {
	binary, err := exec.LookPath("etcd")
	if err != nil {
		return []Table{{Name: "etcd", Title: "a learner of etcd, beside ours",
			Rows: []measure.Row{{Name: "etcd", Note: "not installed; `make etcd` builds it into .bin"}}}}, nil
	}
	r, loaded, err := g.rig(ctx, g.cfg.Sizes[0])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	dir := filepath.Join(r.Dir, "etcd")
	members, err := etcd.Start(ctx, binary, dir, "e1")
	if err != nil {
		return nil, err
	}
	first := members[0]
	defer func() { err = errors.Join(err, first.Stop()) }()
	g.cfg.Progress.Phase("etcd, load " + output.Size(loaded.size))
	began := time.Now()
	if err := workload.Fill(ctx, first.Client(), g.cfg.Seed, loaded.values, loaded.valueSize); err != nil {
		return nil, err
	}
	g.cfg.Say("etcd: %s, loaded in %.1f s", loaded, time.Since(began).Seconds())
	puts := workload.Puts{Rate: slowRate, ValueSize: loaded.valueSize, Seed: g.cfg.Seed + 1}
	var samples []Etcd
	for run := range g.cfg.Runs {
		g.cfg.Progress.Phase(fmt.Sprintf("etcd, run %d of %d", run+1, g.cfg.Runs))
		s := Etcd{Run: run, EtcdFirst: run%2 == 0}
		theirs := func() (err error) {
			s.Etcd, err = etcdJoin(ctx, g.cfg, first, puts)
			return err
		}
		ours := func() error {
			joins, err := bench.Runs(ctx, r, bench.Plan{Name: fmt.Sprintf("beside etcd, run %d", run+1), Runs: 1, Quiet: g.cfg.Quiet, Puts: puts,
				Progress: g.cfg.Progress, Say: g.cfg.Say})
			if err == nil {
				s.Cfseed = joins[0]
			}
			return err
		}
		turns := []func() error{theirs, ours}
		if !s.EtcdFirst {
			turns = []func() error{ours, theirs}
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return nil, fmt.Errorf("run %d: %w", run, err)
			}
		}
		g.cfg.Say("etcd: a learner has caught up after %.2f s; cfseed: after %.2f s", s.Etcd.Seconds, caughtUp(s.Cfseed))
		samples = append(samples, s)
	}
	return []Table{etcdTable(loaded, samples)}, nil
}

// etcdJoin adds a learner, waits until it has caught up, and removes it.
func etcdJoin(ctx context.Context, cfg Config, leader *etcd.Process, puts workload.Puts) (l Learner, err error) {
	load, stop, err := workload.Offer(ctx, leader.Client(), puts)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	window := func(fn func() error) (measure.Latency, error) {
		began := time.Now()
		if err := fn(); err != nil {
			return measure.Latency{}, err
		}
		return load.Window(ctx, began, time.Now())
	}
	if l.PutQuiet, err = window(func() error { return workload.Pause(ctx, cfg.Quiet) }); err != nil {
		return l, err
	}
	source, err := measure.Watch(leader.PID())
	if err != nil {
		return l, err
	}
	var newcomer *etcd.Process
	l.PutSeed, err = window(func() (err error) {
		began := time.Now()
		if newcomer, err = leader.AddLearner(ctx, "e2"); err != nil {
			return err
		}
		if err := caughtUpWith(ctx, leader, newcomer); err != nil {
			return err
		}
		l.Seconds = time.Since(began).Seconds()
		if l.Newcomer, err = newcomer.Usage(); err != nil {
			return err
		}
		l.Leader, err = source.Usage()
		return err
	})
	if newcomer == nil {
		return l, err
	}
	return l, errors.Join(err, leader.Remove(ctx, newcomer))
}

// caughtUpWith waits until the newcomer has applied what the leader had applied
// when it was asked last.
func caughtUpWith(ctx context.Context, leader, newcomer *etcd.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		want, err := leader.Applied(ctx)
		if err != nil {
			return err
		}
		if have, err := newcomer.Applied(ctx); err == nil && have >= want { // until it serves, it does not answer
			return nil
		}
		if !newcomer.Running() {
			return fault.Newf(fault.Internal, "etcd", "the newcomer ended: %s", newcomer.LastWords())
		}
		if err := workload.Pause(ctx, 10*time.Millisecond); err != nil {
			return fault.New(fault.Timeout, "etcd", fmt.Errorf("the newcomer did not catch up: %w", err))
		}
	}
}

// caughtUp is the time of a join of ours up to where etcd's ends: without the
// promotion.
func caughtUp(s bench.Sample) float64 {
	return s.Seconds - output.PhaseSeconds(s.Phases, "promote")
}

func etcdTable(loaded template, samples []Etcd) Table {
	row := func(name, unit string, of func(Etcd) float64) measure.Row {
		return measure.RowOf(name, unit, samples, of)
	}
	seconds := []measure.Row{
		row("etcd: until the learner has caught up", "s", func(s Etcd) float64 { return s.Etcd.Seconds }),
		row("cfseed: until the learner has caught up", "s", func(s Etcd) float64 { return caughtUp(s.Cfseed) }),
		row("cfseed: until a voter", "s", func(s Etcd) float64 { return s.Cfseed.Seconds }),
	}
	rows := append(seconds[:len(seconds):len(seconds)],
		row("cfseed / etcd, until caught up", "x", func(s Etcd) float64 { return measure.Ratio(caughtUp(s.Cfseed), s.Etcd.Seconds) }),
		row("etcd: newcomer CPU", "s", func(s Etcd) float64 { return s.Etcd.Newcomer.CPUSeconds }),
		row("cfseed: newcomer CPU", "s", func(s Etcd) float64 { return s.Cfseed.Target.CPUSeconds }),
		row("etcd: leader CPU", "s", func(s Etcd) float64 { return s.Etcd.Leader.CPUSeconds }),
		row("cfseed: leader CPU", "s", func(s Etcd) float64 { return s.Cfseed.Source.CPUSeconds }),
		row("etcd: newcomer peak RSS", "MiB", func(s Etcd) float64 { return measure.MiB(s.Etcd.Newcomer.PeakRSS) }),
		row("cfseed: newcomer peak RSS", "MiB", func(s Etcd) float64 { return measure.MiB(s.Cfseed.Target.PeakRSS) }),
		row("etcd: leader peak RSS", "MiB", func(s Etcd) float64 { return measure.MiB(s.Etcd.Leader.PeakRSS) }),
		row("cfseed: leader peak RSS", "MiB", func(s Etcd) float64 { return measure.MiB(s.Cfseed.Source.PeakRSS) }),
		row("etcd: put p99 before", "ms", func(s Etcd) float64 { return s.Etcd.PutQuiet.P99 }),
		row("etcd: put p99 meanwhile", "ms", func(s Etcd) float64 { return s.Etcd.PutSeed.P99 }),
		row("cfseed: put p99 before", "ms", func(s Etcd) float64 { return s.Cfseed.PutQuiet.P99 }),
		row("cfseed: put p99 meanwhile", "ms", func(s Etcd) float64 { return s.Cfseed.PutSeed.P99 }),
	)
	return Table{Name: "etcd", Title: fmt.Sprintf("%s, 1 member, %d puts/s: a learner of etcd, beside ours; runs: %d", loaded, slowRate, len(samples)),
		Rows: rows, Samples: samples,
		Charts: []plot.Chart{{Name: "etcd", Title: "A new member of " + loaded.String(), Unit: "s", Bars: bars(seconds)}}}
}
