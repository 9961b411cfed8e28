package seedbench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// targetCounts are the numbers of targets that pull at the same time.
var targetCounts = []int{1, 2, 4, 8}

// Many is one run: so many targets began to pull at the same moment, under a
// constant load.
type Many struct {
	Run         int             `json:"run"`
	Targets     int             `json:"targets"`
	Wall        float64         `json:"wall_seconds"` // until the last had all
	Pulls       []Pulled        `json:"pulls"`
	Checkpoints int             `json:"checkpoints"` // the most that the source had at a time
	Source      measure.Usage   `json:"source"`
	Control     measure.Usage   `json:"control"` // of the source in the quiet window before
	PutQuiet    measure.Latency `json:"put_quiet"`
	PutSeed     measure.Latency `json:"put_seed"`
}

func many(ctx context.Context, g *ground) (tables []Table, err error) {
	r, loaded, err := g.rig(ctx, g.cfg.Sizes[0])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var samples []Many
	for run := range g.cfg.Runs {
		for i := range targetCounts {
			targets := targetCounts[(i+run)%len(targetCounts)]
			g.cfg.Progress.Phase(fmt.Sprintf("many, %d targets, run %d of %d", targets, run+1, g.cfg.Runs))
			s := Many{Run: run, Targets: targets}
			if err := errors.Join(r.Anew(ctx), r.Rest(ctx)); err != nil {
				return nil, err
			}
			err := r.WithLoad(ctx, workload.Puts{Rate: slowRate, ValueSize: loaded.valueSize, Seed: g.cfg.Seed + 1}, func() error {
				return manyOnce(ctx, g.cfg, r, &s)
			})
			if err != nil {
				return nil, fmt.Errorf("%d targets, run %d: %w", targets, run, err)
			}
			g.cfg.Say("%d targets: %.2f s, %d checkpoints", targets, s.Wall, s.Checkpoints)
			samples = append(samples, s)
		}
	}
	return []Table{manyTable(loaded, samples)}, nil
}

func manyOnce(ctx context.Context, cfg Config, r *rig.Rig, s *Many) error {
	if err := noCheckpoint(ctx, r.Leader.DataDir); err != nil {
		return err
	}
	var err error
	s.Control, err = during(r.Leader.PID(), func() (err error) {
		s.PutQuiet, err = r.Quiet(ctx, cfg.Quiet)
		return err
	})
	if err != nil {
		return err
	}
	s.PutSeed, err = r.During(ctx, func() (err error) {
		s.Source, err = during(r.Leader.PID(), func() (err error) {
			began := time.Now()
			s.Pulls, s.Checkpoints, err = pullTogether(ctx, cfg.Binary, r, s.Targets)
			s.Wall = time.Since(began).Seconds()
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	for i, p := range s.Pulls {
		if err := forget(ctx, r, p, targetDir(r, i)); err != nil {
			return err
		}
	}
	return nil
}

func targetDir(r *rig.Rig, i int) string { return filepath.Join(r.Dir, fmt.Sprintf("target-%d", i)) }

// pullTogether lets targets pull at the same time, and counts the checkpoints
// of the source meanwhile.
func pullTogether(ctx context.Context, binary string, r *rig.Rig, targets int) (pulls []Pulled, most int, err error) {
	looking, stop := context.WithCancel(ctx)
	var (
		look    sync.WaitGroup
		lookErr error
	)
	look.Go(func() { most, lookErr = mostCheckpoints(looking, r.Leader.DataDir) })
	pulls = make([]Pulled, targets)
	g, gctx := errgroup.WithContext(ctx)
	for i := range targets {
		g.Go(func() (err error) {
			pulls[i], err = pullAside(gctx, binary, r.Leader.Client(), targetDir(r, i))
			return err
		})
	}
	err = g.Wait()
	stop()
	look.Wait()
	return pulls, most, errors.Join(err, lookErr)
}

// mostCheckpoints looks at the checkpoints of a member until ctx ends.
func mostCheckpoints(ctx context.Context, dataDir string) (most int, err error) {
	for {
		there, err := checkpoints(dataDir)
		if err != nil {
			return most, err
		}
		most = max(most, len(there))
		if workload.Pause(ctx, 10*time.Millisecond) != nil {
			return most, nil
		}
	}
}

// noCheckpoint waits until none is left of what went before.
func noCheckpoint(ctx context.Context, dataDir string) error {
	for began := time.Now(); ; {
		there, err := checkpoints(dataDir)
		if err != nil || len(there) == 0 {
			return err
		}
		if time.Since(began) > 30*time.Second {
			return fault.Newf(fault.Timeout, "bench", "%d checkpoints of earlier seeds stay", len(there)).At(dataDir)
		}
		if err := workload.Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func manyTable(loaded template, samples []Many) Table {
	var rows []measure.Row
	chart := plot.Chart{Name: "many", Title: "Targets that pull " + output.Size(loaded.size) + " at the same time: seconds until the last has all", Unit: "s"}
	for _, targets := range targetCounts {
		var of []Many
		for _, s := range samples {
			if s.Targets == targets {
				of = append(of, s)
			}
		}
		row := func(name, unit string, value func(Many) float64) measure.Row {
			return measure.RowOf(name, unit, of, value)
		}
		name := "1 target"
		if targets > 1 {
			name = fmt.Sprintf("%d targets", targets)
		}
		ratio := row("  put p99, meanwhile / before", "x", func(s Many) float64 { return measure.Ratio(s.PutSeed.P99, s.PutQuiet.P99) })
		if loaded.size >= judgedFrom {
			ratio = ratio.AtMost(maxPutOver)
		}
		wall := row(name+": until the last has all", "s", func(s Many) float64 { return s.Wall })
		chart.Bars = append(chart.Bars, plot.Bar{Label: name, Value: wall.Median, Low: wall.Low, High: wall.High})
		rows = append(rows, wall,
			row("  each, in the mean", "s", Many.each),
			row("  checkpoints of the source", "", func(s Many) float64 { return float64(s.Checkpoints) }).Always(1),
			row("  source CPU", "s", func(s Many) float64 { return s.Source.CPUSeconds }),
			row("  source peak RSS above control", "MiB", func(s Many) float64 {
				return measure.MiB(float64(s.Source.PeakRSS) - float64(s.Control.PeakRSS))
			}).AtMost(maxPeakOver),
			ratio,
			row("  put p99 before", "ms", func(s Many) float64 { return s.PutQuiet.P99 }),
			row("  put p99 meanwhile", "ms", func(s Many) float64 { return s.PutSeed.P99 }))
	}
	return Table{Name: "many", Title: fmt.Sprintf("%s, %d puts/s; targets with the lowest priority for a processor; runs: %d", loaded, slowRate, len(samples)/len(targetCounts)), Rows: rows,
		Samples: samples, Charts: []plot.Chart{chart}}
}

// each is the mean of the seconds of one pull.
func (s Many) each() float64 {
	var sum float64
	for _, p := range s.Pulls {
		sum += p.Seconds
	}
	return measure.Ratio(sum, float64(len(s.Pulls)))
}
