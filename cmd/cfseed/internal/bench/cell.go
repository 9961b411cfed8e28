package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// cell loads a cluster and runs every run of one cell.
func cell(ctx context.Context, cfg Config, parent string, members int, size uint64) (rep Cell, err error) {
	dir, err := os.MkdirTemp(parent, "cell-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench", err)
	}
	rep = Cell{Members: members, Bytes: size, ValueSize: cfg.ValueSize, Values: int(size / uint64(cfg.ValueSize))}
	r := rig.New(cfg.Binary, dir)
	defer func() { err = errors.Join(err, r.Close()) }()
	cfg.Progress.Phase(fmt.Sprintf("load %s", output.Size(size)))
	if err := r.First(ctx); err != nil {
		return rep, err
	}
	began := time.Now()
	if err := workload.Fill(ctx, r.Leader.Client(), cfg.Seed, rep.Values, cfg.ValueSize); err != nil {
		return rep, err
	}
	rep.LoadSeconds = time.Since(began).Seconds()
	if err := r.Grow(ctx, members); err != nil {
		return rep, err
	}
	cfg.Say("%s: %d values of %d bytes, loaded in %.1f s", MemberCount(members), rep.Values, cfg.ValueSize, rep.LoadSeconds)
	rep.Samples, err = Runs(ctx, r, Plan{Name: fmt.Sprintf("%s, %s", MemberCount(members), output.Size(size)), Runs: cfg.Runs, Quiet: cfg.Quiet, Copy: true, Control: true,
		Puts: workload.Puts{Rate: cfg.Rate, ValueSize: cfg.ValueSize, Seed: cfg.Seed + 1}, Progress: cfg.Progress, Say: cfg.Say})
	return rep, err
}

// Plan is what the runs on one cluster are told.
type Plan struct {
	Name     string // of the cell, for narration
	Runs     int
	Quiet    time.Duration
	Puts     workload.Puts
	Copy     bool // copy the source's data directory as well, in turns
	Control  bool // and a second start, with the load alone
	Stay     bool // the members stay up from run to run, and have rested before the first
	Progress output.Progress
	Say      func(format string, args ...any)
}

// Runs measures every run on a loaded cluster, see the package comment. Each
// leaves the members as they were, but for the puts of the load.
func Runs(ctx context.Context, r *rig.Rig, plan Plan) ([]Sample, error) {
	var out []Sample
	c := &course{Rig: r, plan: plan}
	for run := range plan.Runs {
		plan.Progress.Phase(fmt.Sprintf("%s, run %d of %d", plan.Name, run+1, plan.Runs))
		s, err := c.run(ctx, run)
		if err != nil {
			return out, fmt.Errorf("run %d: %w", run, err)
		}
		plan.Say("member add %.2f s, copy %.2f s, put p99 %.1f ms before, %.1f ms during", s.Seconds, s.Copy.Seconds, s.PutQuiet.P99, s.PutSeed.P99)
		out = append(out, s)
	}
	return out, nil
}

// course is the runs on one cluster.
type course struct {
	*rig.Rig
	plan   Plan
	source *cluster.Process // of the last seed
}

// run is one run, see the package comment.
func (c *course) run(ctx context.Context, number int) (Sample, error) {
	s := Sample{Run: number, CopyFirst: c.plan.Copy && number%2 == 1, LoadAverage: measure.LoadAverageNow()}
	start := c.UnderLoad
	if c.plan.Stay {
		if number == 0 {
			if err := errors.Join(c.Anew(ctx), c.Rest(ctx)); err != nil {
				return s, err
			}
		}
		start = c.WithLoad
	}
	err := start(ctx, c.plan.Puts, func() (err error) {
		if s.PutQuiet, err = c.Quiet(ctx, c.plan.Quiet); err != nil {
			return err
		}
		if !c.plan.Copy {
			return c.seed(ctx, &s)
		}
		first, second := c.seed, c.copy
		if s.CopyFirst {
			first, second = second, first
		}
		if err := first(ctx, &s); err != nil {
			return err
		}
		if err := c.Settle(ctx); err != nil {
			return err
		}
		return second(ctx, &s)
	})
	if err != nil || !c.plan.Control {
		return s, err
	}
	return s, c.UnderLoad(ctx, c.plan.Puts, func() error {
		if err := workload.Pause(ctx, c.plan.Quiet); err != nil {
			return err
		}
		return c.control(ctx, &s)
	})
}

// seed adds a member at the leader and removes it again. The cluster chooses its
// source.
func (c *course) seed(ctx context.Context, s *Sample) error {
	name := fmt.Sprintf("t%d", s.Run)
	members := map[string]*cluster.Process{}
	meters := map[string]measure.Meter{}
	for _, p := range c.Cluster.Nodes() {
		meter, err := measure.Watch(p.PID())
		if err != nil {
			return err
		}
		members[p.ID()], meters[p.ID()] = p, meter
	}
	target, err := c.Cluster.Start(ctx, name, "--await-seed")
	if err != nil {
		return err
	}
	joining, err := measure.Watch(target.PID())
	if err != nil {
		return err
	}
	var added output.MemberAdd
	s.PutSeed, err = c.During(ctx, func() (err error) {
		began := time.Now()
		added, err = c.Add(ctx, target)
		s.Seconds = time.Since(began).Seconds()
		if err != nil {
			return err
		}
		if added.SourceID == nil || members[added.SourceID.String()] == nil {
			return fault.Newf(fault.Internal, "bench", "%s: it is not known where its seed came from", name)
		}
		c.source = members[added.SourceID.String()]
		if s.Source, err = meters[c.source.ID()].Usage(); err != nil {
			return err
		}
		s.Target, err = joining.Usage()
		return err
	})
	if err != nil {
		return err
	}
	if err := rig.Voter(added); err != nil {
		return err
	}
	s.Phases = added.Phases
	for _, told := range []struct{ to, from *uint64 }{{&s.BytesTotal, added.BytesTotal}, {&s.BytesWire, added.BytesWire},
		{&s.EntriesAfterAdd, added.EntriesAfterAdd}, {&s.RaftSnapshotsSent, added.RaftSnapshotsSent}} {
		if told.from == nil {
			return fault.Newf(fault.Internal, "bench", "%s: what the join cost is not all known; did the leader change?", name)
		}
		*told.to = *told.from
	}
	if err := c.Remove(ctx, uint64(added.MemberID)); err != nil {
		return err
	}
	return c.Cluster.Remove(target)
}

// copy copies the leader's data directory.
func (c *course) copy(ctx context.Context, s *Sample) error {
	to := filepath.Join(c.Dir, "copy")
	var err error
	s.PutCopy, err = c.During(ctx, func() (err error) {
		s.Copy, err = measure.CopyTree(c.Leader.DataDir, to)
		return err
	})
	return errors.Join(err, os.RemoveAll(to))
}

// control is the load alone for as long as the seed took, at the seed's source.
func (c *course) control(ctx context.Context, s *Sample) error {
	source, err := measure.Watch(c.source.PID())
	if err != nil {
		return err
	}
	s.PutControl, err = c.During(ctx, func() (err error) {
		if err := workload.Pause(ctx, time.Duration(s.Seconds*float64(time.Second))); err != nil {
			return err
		}
		s.Control, err = source.Usage()
		return err
	})
	return err
}
