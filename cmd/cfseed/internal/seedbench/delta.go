package seedbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
)

// change is what happens to the keys while a node is away.
type change struct {
	name    string
	percent int     // of the keys
	hot     bool    // all in one range of keys, else anywhere
	bound   float64 // percent of the bytes that may be fetched
}

var changes = []change{
	{"1 % of the keys, anywhere", 1, false, 5},
	{"5 % of the keys, anywhere", 5, false, 35},
	{"20 % of the keys, anywhere", 20, false, 65},
	{"5 % of the keys, in one range", 5, true, 25},
}

// numbers are the keys that change, of so many.
func (c change) numbers(values int, seed uint64) []int {
	count := max(1, values*c.percent/100)
	if !c.hot {
		return rand.New(rand.NewPCG(seed, uint64(c.percent))).Perm(values)[:count]
	}
	out := make([]int, count)
	for i := range out {
		out[i] = values/3 + i
	}
	return out
}

// Delta is one run: a node was seeded, became a member and was stopped; keys
// changed; a new directory takes what did not change from the old one.
type Delta struct {
	Run     int    `json:"run"`
	Change  string `json:"change"`
	Changed int    `json:"keys_changed"`
	Whole   Pulled `json:"whole"` // the first seed of the node
	Auto    Pulled `json:"auto"`
	Files   Pulled `json:"files"`
	Ranges  Pulled `json:"ranges"`
}

// fetched is the bytes on the wire as a percentage of the seed's.
func (p Pulled) fetched() float64 {
	return 100 * measure.Ratio(float64(p.BytesWire), float64(p.BytesTotal))
}

// deltaWay is a value of --delta-by. What is judged is what nobody has to ask for.
type deltaWay struct {
	name   string
	of     func(*Delta) *Pulled
	judged bool
}

var deltaWays = []deltaWay{
	{"auto", func(d *Delta) *Pulled { return &d.Auto }, true},
	{"files", func(d *Delta) *Pulled { return &d.Files }, false},
	{"ranges", func(d *Delta) *Pulled { return &d.Ranges }, false},
}

func delta(ctx context.Context, g *ground) ([]Table, error) {
	var samples []Delta
	for run := range g.cfg.Runs {
		for _, c := range changes {
			g.cfg.Progress.Phase(fmt.Sprintf("delta, %s, run %d of %d", c.name, run+1, g.cfg.Runs))
			s, err := deltaOnce(ctx, g, c, run)
			if err != nil {
				return nil, fmt.Errorf("%s, run %d: %w", c.name, run, err)
			}
			for _, way := range deltaWays {
				p := way.of(&s)
				g.cfg.Say("%s, %s: %.1f %% fetched in %.2f s", c.name, way.name, p.fetched(), p.Seconds)
			}
			samples = append(samples, s)
		}
	}
	return []Table{deltaTable(g.templates[g.cfg.Sizes[0]], samples)}, nil
}

// deltaOnce is one run, on a source of its own.
func deltaOnce(ctx context.Context, g *ground, c change, run int) (s Delta, err error) {
	r, loaded, err := g.rig(ctx, g.cfg.Sizes[0])
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s = Delta{Run: run, Change: c.name}
	old, err := seedAndStop(ctx, g.cfg.Binary, r, &s.Whole)
	if err != nil {
		return s, err
	}
	numbers := c.numbers(loaded.values, g.cfg.Seed+uint64(run))
	s.Changed = len(numbers)
	if err := workload.Change(ctx, r.Leader.Client(), g.cfg.Seed+uint64(run)+1, numbers, loaded.valueSize); err != nil {
		return s, err
	}
	if err := r.Settle(ctx); err != nil {
		return s, err
	}
	for i := range deltaWays {
		way := deltaWays[(i+run)%len(deltaWays)]
		dir := filepath.Join(r.Dir, way.name)
		p, err := pull(ctx, g.cfg.Binary, r.Leader.Client(), dir, "--delta", old, "--delta-by", way.name)
		if err != nil {
			return s, fmt.Errorf("by %s: %w", way.name, err)
		}
		*way.of(&s) = p
		if err := forget(ctx, r, p, dir); err != nil {
			return s, err
		}
	}
	return s, nil
}

// seedAndStop seeds a node, lets it become a learner, and stops and removes it.
// It gives the directory that is left.
func seedAndStop(ctx context.Context, binary string, r *rig.Rig, whole *Pulled) (dir string, err error) {
	const name = "old"
	dir = filepath.Join(r.Dir, name)
	if *whole, err = pull(ctx, binary, r.Leader.Client(), dir, "--name", name, "--learner"); err != nil {
		return dir, err
	}
	p, err := r.Cluster.Start(ctx, name, "--join", r.Leader.Client(), "--learner")
	if err != nil {
		return dir, err
	}
	if err := p.Ready(ctx); err != nil {
		return dir, err
	}
	if err := r.Settle(ctx); err != nil {
		return dir, err
	}
	if err := r.Cluster.Retire(ctx, p); err != nil {
		return dir, err
	}
	return dir, r.Remove(ctx, whole.member)
}

func deltaTable(loaded template, samples []Delta) Table {
	var rows, shares []measure.Row
	for _, c := range changes {
		var of []Delta
		for _, s := range samples {
			if s.Change == c.name {
				of = append(of, s)
			}
		}
		for _, way := range deltaWays {
			share := measure.RowOf(c.name+": fetched, "+way.name, "%", of, func(d Delta) float64 { return way.of(&d).fetched() })
			if way.judged && loaded.size >= judgedFrom {
				share = share.AtMost(c.bound)
			}
			shares = append(shares, share)
			rows = append(rows, share, measure.RowOf("  pull, "+way.name, "s", of, func(d Delta) float64 { return way.of(&d).Seconds }))
		}
		rows = append(rows,
			measure.RowOf("  bytes in all", "MiB", of, func(d Delta) float64 { return measure.MiB(d.Auto.BytesTotal) }),
			measure.RowOf("  the first pull, of all bytes", "s", of, func(d Delta) float64 { return d.Whole.Seconds }))
	}
	title := fmt.Sprintf("%s, of a stopped node whose cluster went on; runs: %d", loaded, len(samples)/len(changes))
	return Table{Name: "delta", Title: title, Rows: rows, Samples: samples,
		Charts: []plot.Chart{{Name: "delta", Title: "Bytes fetched by a delta of " + loaded.String(), Unit: "%", Bars: bars(shares)}}}
}
