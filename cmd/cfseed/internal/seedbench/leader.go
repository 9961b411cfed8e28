package seedbench

import (
	"context"
	"errors"
	"fmt"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/bench"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
)

// What clients of the leader may notice of a join at most, and what may be left
// to send when the newcomer is admitted.
const (
	maxPutOver    = 1.5 // times the p99 of puts before
	maxEntries    = 200
	slowRate      = 200 // puts a second
	fastRate      = 2000
	closedClients = 16 // that find out the most
	mostWanted    = 10000
)

// Joins are the runs at one number of members and one rate.
type Joins struct {
	Members int            `json:"members"`
	Most    float64        `json:"most_puts_per_second"` // of clients that wait for each answer
	Rate    int            `json:"puts_per_second"`
	Half    bool           `json:"half_of_most"`
	Samples []bench.Sample `json:"samples"`
}

// leader measures joins under load: what puts take meanwhile, and what came in
// between the seed and the admission.
func leader(ctx context.Context, g *ground) (tables []Table, err error) {
	var all []Joins
	for _, members := range []int{1, 3} {
		joins, err := joinsOf(ctx, g, members)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", bench.MemberCount(members), err)
		}
		all = append(all, joins...)
	}
	loaded := g.templates[g.cfg.Sizes[0]]
	return []Table{leaderTable(loaded, all), entriesTable(loaded, all)}, nil
}

func joinsOf(ctx context.Context, g *ground, members int) (out []Joins, err error) {
	r, loaded, err := g.rig(ctx, g.cfg.Sizes[0])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Grow(ctx, members); err != nil {
		return nil, err
	}
	most, err := mostPuts(ctx, g, r, loaded)
	if err != nil {
		return nil, err
	}
	half := max(1, min(int(most/2), mostWanted))
	for _, j := range []Joins{{Rate: slowRate}, {Rate: half, Half: true}, {Rate: fastRate}} {
		j.Members, j.Most = members, most
		j.Samples, err = bench.Runs(ctx, r, bench.Plan{
			Name: fmt.Sprintf("leader, %s, %d puts/s", bench.MemberCount(members), j.Rate), Runs: g.cfg.Runs, Quiet: g.cfg.Quiet,
			Puts: workload.Puts{Rate: j.Rate, ValueSize: loaded.valueSize, Seed: g.cfg.Seed + 1}, Copy: j.Rate != fastRate || j.Half, Stay: true,
			Progress: g.cfg.Progress, Say: g.cfg.Say})
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, nil
}

func mostPuts(ctx context.Context, g *ground, r *rig.Rig, loaded template) (float64, error) {
	if err := r.Anew(ctx); err != nil {
		return 0, err
	}
	most, err := workload.Most(ctx, r.Leader.Client(), closedClients,
		workload.Puts{ValueSize: loaded.valueSize, Seed: g.cfg.Seed + 1}, g.cfg.Quiet/2)
	if err == nil {
		g.cfg.Say("%s: at most %.0f puts/s from %d clients", bench.MemberCount(len(r.Cluster.Nodes())), most, closedClients)
	}
	return most, err
}

// name tells members and rate.
func (j Joins) name() string {
	if j.Half {
		return fmt.Sprintf("%s, half of the most (%d puts/s)", bench.MemberCount(j.Members), j.Rate)
	}
	return fmt.Sprintf("%s, %d puts/s", bench.MemberCount(j.Members), j.Rate)
}

func leaderTable(loaded template, all []Joins) Table {
	var rows, ratios []measure.Row
	for _, j := range all {
		if j.Rate == fastRate && !j.Half {
			continue // that rate is of the table of entries
		}
		row := func(name, unit string, of func(bench.Sample) float64) measure.Row {
			return measure.RowOf(name, unit, j.Samples, of)
		}
		ratio := row(j.name()+": p99, seed / before", "x", func(s bench.Sample) float64 { return measure.Ratio(s.PutSeed.P99, s.PutQuiet.P99) })
		if loaded.size >= judgedFrom {
			ratio = ratio.AtMost(maxPutOver)
		}
		ratios = append(ratios, ratio)
		rows = append(rows, ratio,
			row("  p99, copy / before", "x", func(s bench.Sample) float64 { return measure.Ratio(s.PutCopy.P99, s.PutQuiet.P99) }),
			row("  p50 before", "ms", func(s bench.Sample) float64 { return s.PutQuiet.P50 }),
			row("  p50 during the seed", "ms", func(s bench.Sample) float64 { return s.PutSeed.P50 }),
			row("  p50 during the copy", "ms", func(s bench.Sample) float64 { return s.PutCopy.P50 }),
			row("  p99 before", "ms", func(s bench.Sample) float64 { return s.PutQuiet.P99 }),
			row("  p99 during the seed", "ms", func(s bench.Sample) float64 { return s.PutSeed.P99 }),
			row("  p99 during the copy", "ms", func(s bench.Sample) float64 { return s.PutCopy.P99 }),
			row("  member add, to voter", "s", func(s bench.Sample) float64 { return s.Seconds }),
			row("  copy + fsync of the data directory", "s", func(s bench.Sample) float64 { return s.Copy.Seconds }),
			row("  puts that failed", "", func(s bench.Sample) float64 {
				return float64(s.PutQuiet.Failed + s.PutSeed.Failed + s.PutCopy.Failed)
			}).Never(),
			row("  busy besides, during the seed", "cores", func(s bench.Sample) float64 { return s.PutSeed.OtherCores }))
	}
	return Table{Name: "leader", Title: fmt.Sprintf("%s; puts at a constant rate while a member is added; runs: %d", loaded, runsOf(all)),
		Rows: rows, Samples: all,
		Charts: []plot.Chart{{Name: "leader", Title: "p99 of puts during a seed / before", Unit: "x", Bound: maxPutOver, Bars: bars(ratios)}}}
}

func entriesTable(loaded template, all []Joins) Table {
	var rows, entries []measure.Row
	for _, j := range all {
		if j.Half {
			continue
		}
		row := measure.RowOf(j.name()+": entries after add", "", j.Samples, func(s bench.Sample) float64 { return float64(s.EntriesAfterAdd) }).
			AtMost(maxEntries)
		entries = append(entries, row)
		rows = append(rows, row,
			measure.RowOf("  member add, to voter", "s", j.Samples, func(s bench.Sample) float64 { return s.Seconds }),
			measure.RowOf("  raft snapshots sent", "", j.Samples, func(s bench.Sample) float64 { return float64(s.RaftSnapshotsSent) }).Never())
	}
	return Table{Name: "entries", Title: fmt.Sprintf("%s; what a learner still needs when it is admitted; runs: %d; samples are those of leader", loaded, runsOf(all)),
		Rows:   rows,
		Charts: []plot.Chart{{Name: "entries", Title: "Entries that a learner needs when it is admitted", Bound: maxEntries, Bars: bars(entries)}}}
}

func runsOf(all []Joins) int {
	if len(all) == 0 {
		return 0
	}
	return len(all[0].Samples)
}
