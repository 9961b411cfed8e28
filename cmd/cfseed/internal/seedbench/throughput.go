package seedbench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// What a pull should cost at most.
const (
	maxPullOverCopy = 1.5     // times copying and syncing the same files
	maxCPUPerGiB    = 1.6     // seconds of source and target, each GiB on the wire
	maxPeakOver     = 64      // MiB above a node that idles
	maxWireShare    = 0.5     // of the bytes of keys and values
	judgedFrom      = 1 << 30 // bytes of values; below, what does not grow with them prevails
)

// Throughput is one run: a pull from a member without load, and the same files
// moved in other ways.
type Throughput struct {
	Run     int      `json:"run"`
	Order   []string `json:"order"` // of the sides
	Logical uint64   `json:"logical_bytes"`

	Pull    Pulled             `json:"pull"`
	Source  measure.Usage      `json:"source"`
	Ahead   float64            `json:"ahead_cpu_seconds"` // of the source, from its start to the pull
	Control measure.Usage      `json:"control"`           // the same node before, without a seed, for as long as the pull before took
	Sides   map[string]float64 `json:"sides_seconds"`

	OtherCores  float64 `json:"other_cores"` // busy besides, during the pull
	LoadAverage string  `json:"load_average"`
}

// pullSide is the name of the side that is measured.
const pullSide = "cfseed pull"

func throughput(ctx context.Context, g *ground) (tables []Table, err error) {
	for _, size := range g.cfg.Sizes {
		t, err := throughputOf(ctx, g, size)
		if err != nil {
			return tables, fmt.Errorf("%s: %w", output.Size(size), err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func throughputOf(ctx context.Context, g *ground, size uint64) (t Table, err error) {
	r, loaded, err := g.rig(ctx, size)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c := &comparison{cfg: g.cfg, rig: r, loaded: loaded}
	for run := -1; run < g.cfg.Runs; run++ { // the first warms the caches and is discarded
		g.cfg.Progress.Phase(fmt.Sprintf("throughput, %s, run %d of %d", output.Size(size), run+1, g.cfg.Runs))
		s, err := c.run(ctx, run)
		if err != nil {
			return t, fmt.Errorf("run %d: %w", run, err)
		}
		g.cfg.Say("pull %.2f s, %v", s.Pull.Seconds, s.Sides)
		if run >= 0 {
			c.samples = append(c.samples, s)
		}
	}
	g.pulls[size] = c.samples
	return throughputTable(loaded, c.samples), nil
}

// comparison is the runs on one size.
type comparison struct {
	cfg     Config
	rig     *rig.Rig
	loaded  template
	files   string        // the files of a checkpoint, which every side moves
	took    time.Duration // of the last pull
	samples []Throughput
}

// run is one turn of all sides; each run begins with another one.
func (c *comparison) run(ctx context.Context, number int) (Throughput, error) {
	s := Throughput{Run: number, Logical: c.loaded.logical(), Sides: map[string]float64{}, LoadAverage: measure.LoadAverageNow()}
	var turns []side
	for _, other := range sides() {
		if other.installed() {
			turns = append(turns, other)
		}
	}
	turns = append(turns, side{name: pullSide})
	first := len(turns) - 1 // the warm-up begins with the pull, which makes the files
	if number >= 0 {
		first = number % len(turns)
	}
	for i := range turns {
		turn := turns[(first+i)%len(turns)]
		s.Order = append(s.Order, turn.name)
		if turn.name == pullSide {
			if err := c.pull(ctx, &s); err != nil {
				return s, err
			}
			continue
		}
		took, err := turn.seconds(ctx, c.files, filepath.Join(c.rig.Dir, "moved"))
		if err != nil {
			return s, err
		}
		s.Sides[turn.name] = took
	}
	return s, nil
}

// pull starts the source anew, lets it do what it does by itself for seeds to
// come, watches it alone for as long as the pull before took, and pulls.
func (c *comparison) pull(ctx context.Context, s *Throughput) error {
	if err := errors.Join(c.rig.Anew(ctx), c.rig.Rest(ctx)); err != nil {
		return err
	}
	dir, pid := filepath.Join(c.rig.Dir, "target"), c.rig.Leader.PID()
	var err error
	if s.Ahead, err = measure.CPUSeconds(pid); err != nil {
		return err
	}
	s.Control, err = during(pid, func() error { return workload.Pause(ctx, max(c.took, time.Second)) })
	if err != nil {
		return err
	}
	s.Source, err = during(pid, func() (err error) {
		s.OtherCores, err = c.rig.Others(func() (used float64, err error) {
			s.Pull, err = pull(ctx, c.cfg.Binary, c.rig.Leader.Client(), dir)
			return s.Pull.Target.CPUSeconds, err
		})
		return err
	})
	if err != nil {
		return err
	}
	c.took = time.Duration(s.Pull.Seconds * float64(time.Second))
	return errors.Join(c.keepFiles(), forget(ctx, c.rig, s.Pull, dir))
}

// during is what a process used while fn ran.
func during(pid int, fn func() error) (measure.Usage, error) {
	meter, err := measure.Watch(pid)
	if err != nil {
		return measure.Usage{}, err
	}
	if err := fn(); err != nil {
		return measure.Usage{}, err
	}
	return meter.Usage()
}

// keepFiles copies the checkpoint that a pull left, the first time: the source
// removes its own when the lease has ended.
func (c *comparison) keepFiles() error {
	if c.files != "" {
		return nil
	}
	left, err := checkpoints(c.rig.Leader.DataDir)
	if err != nil {
		return err
	}
	if len(left) != 1 {
		return fault.Newf(fault.Internal, "bench", "the source has %d checkpoints after one pull, want 1", len(left))
	}
	c.files = filepath.Join(c.rig.Dir, "files")
	_, err = measure.CopyTree(left[0], c.files)
	return err
}

// perGiB is seconds for each GiB on the wire.
func (s Throughput) perGiB(seconds float64) float64 {
	return measure.Ratio(seconds, float64(s.Pull.BytesWire)/(1<<30))
}

func throughputTable(loaded template, samples []Throughput) Table {
	row := func(name, unit string, of func(Throughput) float64) measure.Row {
		return measure.RowOf(name, unit, samples, of)
	}
	judged := func(r measure.Row, bound float64) measure.Row {
		if loaded.size < judgedFrom {
			return r
		}
		return r.AtMost(bound)
	}
	over := func(of func(Throughput) measure.Usage) func(Throughput) float64 {
		return func(s Throughput) float64 { return measure.MiB(float64(of(s).PeakRSS) - float64(s.Control.PeakRSS)) }
	}
	rows := []measure.Row{row(pullSide, "s", func(s Throughput) float64 { return s.Pull.Seconds })}
	for _, other := range sides() {
		if !other.installed() {
			rows = append(rows, measure.Row{Name: other.name, Note: "not installed"})
			continue
		}
		rows = append(rows, row(other.name, "s", func(s Throughput) float64 { return s.Sides[other.name] }))
	}
	chart := plot.Chart{Name: "throughput-" + stem(loaded.size), Title: "Moving " + loaded.String(), Unit: "s", Bars: bars(rows)}
	copySide := sides()[0].name
	rows = append(rows,
		judged(row(pullSide+" / "+copySide, "x", func(s Throughput) float64 { return measure.Ratio(s.Pull.Seconds, s.Sides[copySide]) }), maxPullOverCopy),
		row("source CPU, each GiB on the wire", "s", func(s Throughput) float64 { return s.perGiB(s.Source.CPUSeconds) }),
		row("target CPU, each GiB on the wire", "s", func(s Throughput) float64 { return s.perGiB(s.Pull.Target.CPUSeconds) }),
		judged(row("CPU of both, each GiB on the wire", "s", func(s Throughput) float64 {
			return s.perGiB(s.Source.CPUSeconds + s.Pull.Target.CPUSeconds)
		}), maxCPUPerGiB),
		row("source CPU from its start to the pull", "s", func(s Throughput) float64 { return s.Ahead }),
		row("source peak RSS", "MiB", func(s Throughput) float64 { return measure.MiB(s.Source.PeakRSS) }),
		row("target peak RSS", "MiB", func(s Throughput) float64 { return measure.MiB(s.Pull.Target.PeakRSS) }),
		row("control peak RSS", "MiB", func(s Throughput) float64 { return measure.MiB(s.Control.PeakRSS) }),
		row("source peak RSS above control", "MiB", over(func(s Throughput) measure.Usage { return s.Source })).AtMost(maxPeakOver),
		row("target peak RSS above control", "MiB", over(func(s Throughput) measure.Usage { return s.Pull.Target })).AtMost(maxPeakOver),
		row("keys and values", "MiB", func(s Throughput) float64 { return measure.MiB(s.Logical) }),
		row("bytes seeded", "MiB", func(s Throughput) float64 { return measure.MiB(s.Pull.BytesTotal) }),
		row("bytes on the wire", "MiB", func(s Throughput) float64 { return measure.MiB(s.Pull.BytesWire) }),
		judged(row("on the wire / keys and values", "x", func(s Throughput) float64 {
			return measure.Ratio(float64(s.Pull.BytesWire), float64(s.Logical))
		}), maxWireShare),
		row("busy besides, during the pull", "cores", func(s Throughput) float64 { return s.OtherCores }),
	)
	return Table{Name: "throughput", Title: fmt.Sprintf("%s, loaded in %.1f s; 1 member without load; runs: %d", loaded, loaded.loadSeconds, len(samples)),
		Rows: rows, Samples: samples, Charts: []plot.Chart{chart}}
}
