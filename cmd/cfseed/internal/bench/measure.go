package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// cell is one cell under way.
type cell struct {
	cfg     Config
	dir     string
	cluster *cluster.Cluster
	leader  *cluster.Process
	load    *load
	rep     Cell
}

// measure loads a cluster and runs every run of one cell.
func measure(ctx context.Context, cfg Config, parent string, members int, size uint64) (rep Cell, err error) {
	dir, err := os.MkdirTemp(parent, "cell-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench", err)
	}
	values := int(size / uint64(cfg.ValueSize))
	c := &cell{cfg: cfg, dir: dir, cluster: cluster.New(cfg.Binary, dir),
		rep: Cell{Members: members, Bytes: size, ValueSize: cfg.ValueSize, Values: values}}
	defer func() { err = errors.Join(err, c.cluster.StopAll(context.Background()), os.RemoveAll(dir)) }()
	cfg.Progress.Phase(fmt.Sprintf("load %s", output.Size(size)))
	if err := c.prepare(ctx); err != nil {
		return rep, err
	}
	cfg.Say("%s: %d values of %d bytes, loaded in %.1f s", memberCount(members), values, cfg.ValueSize, c.rep.LoadSeconds)
	for run := range cfg.Runs {
		cfg.Progress.Phase(fmt.Sprintf("%s, %s, run %d of %d", memberCount(members), output.Size(size), run+1, cfg.Runs))
		s, err := c.run(ctx, run)
		if err != nil {
			return rep, fmt.Errorf("run %d: %w", run, err)
		}
		cfg.Say("member add %.2f s, copy %.2f s, put p99 %.1f ms before, %.1f ms during", s.Seconds, s.Copy.Seconds, s.PutQuiet.P99, s.PutSeed.P99)
		c.rep.Samples = append(c.rep.Samples, s)
	}
	return c.rep, nil
}

// prepare starts one member, loads it and adds the others.
func (c *cell) prepare(ctx context.Context) error {
	first, err := c.cluster.Start(ctx, "m1")
	if err != nil {
		return err
	}
	began := time.Now()
	if err := fill(ctx, first.Client(), c.cfg.Seed, c.rep.Values, c.cfg.ValueSize); err != nil {
		return err
	}
	c.rep.LoadSeconds = time.Since(began).Seconds()
	c.leader = first
	for i := 2; i <= c.rep.Members; i++ {
		p, err := c.cluster.Start(ctx, fmt.Sprintf("m%d", i), "--await-seed")
		if err != nil {
			return err
		}
		if _, err := c.add(ctx, p); err != nil {
			return err
		}
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	return c.settle(ctx)
}

// run is one run, see the package comment.
func (c *cell) run(ctx context.Context, number int) (Sample, error) {
	s := Sample{Run: number, CopyFirst: number%2 == 1, LoadAverage: loadAverage()}
	err := c.underLoad(ctx, func() (err error) {
		if s.PutQuiet, err = c.during(ctx, func() error { return pause(ctx, c.cfg.Quiet) }); err != nil {
			return err
		}
		first, second := c.seed, c.copy
		if s.CopyFirst {
			first, second = second, first
		}
		if err := first(ctx, &s); err != nil {
			return err
		}
		if err := c.settle(ctx); err != nil {
			return err
		}
		return second(ctx, &s)
	})
	if err != nil {
		return s, err
	}
	return s, c.underLoad(ctx, func() error {
		if err := pause(ctx, c.cfg.Quiet); err != nil {
			return err
		}
		return c.control(ctx, &s)
	})
}

// underLoad starts all members anew, offers the load to the leader and runs fn.
func (c *cell) underLoad(ctx context.Context, fn func() error) (err error) {
	if err := c.cluster.StopAll(ctx); err != nil {
		return err
	}
	if err := c.cluster.Restart(ctx, c.cluster.Nodes()...); err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if c.leader, err = c.cluster.Leader(ctx); err != nil {
		return err
	}
	l, stop, err := offer(ctx, c.leader.Client(), c.cfg.Rate, c.cfg.ValueSize, c.cfg.Seed+1)
	if err != nil {
		return err
	}
	c.load = l
	return errors.Join(fn(), stop())
}

// during gives the latency of the puts that were due while fn ran.
func (c *cell) during(ctx context.Context, fn func() error) (Latency, error) {
	began := time.Now()
	before, err := c.others()
	if err != nil {
		return Latency{}, err
	}
	if err := fn(); err != nil {
		return Latency{}, err
	}
	ended := time.Now()
	after, err := c.others()
	if err != nil {
		return Latency{}, err
	}
	l, err := c.load.window(ctx, began, ended)
	l.OtherCores = max(0, after-before) / ended.Sub(began).Seconds()
	return l, err
}

// others is the CPU time that neither the members nor this process used, since
// some moment in the past.
func (c *cell) others() (float64, error) {
	all, err := busySeconds()
	if err != nil {
		return 0, err
	}
	members, err := c.cpu()
	if err != nil {
		return 0, err
	}
	own, err := cpuSeconds(os.Getpid())
	return all - members - own, err
}

// seed adds a member at the leader, which is the source, and removes it again.
func (c *cell) seed(ctx context.Context, s *Sample) error {
	name := fmt.Sprintf("t%d", s.Run)
	target, err := c.cluster.Start(ctx, name, "--await-seed")
	if err != nil {
		return err
	}
	source, err := watch(c.leader.PID())
	if err != nil {
		return err
	}
	joining, err := watch(target.PID())
	if err != nil {
		return err
	}
	var added output.MemberAdd
	s.PutSeed, err = c.during(ctx, func() (err error) {
		began := time.Now()
		added, err = c.add(ctx, target)
		s.Seconds = time.Since(began).Seconds()
		if err != nil {
			return err
		}
		if s.Source, err = source.usage(); err != nil {
			return err
		}
		s.Target, err = joining.usage()
		return err
	})
	if err != nil {
		return err
	}
	if added.Role != "voter" {
		return fault.Newf(fault.Internal, "bench", "%s is a %s, want a voter", name, added.Role)
	}
	s.Phases = added.Phases
	for _, told := range []struct{ to, from *uint64 }{{&s.BytesTotal, added.BytesTotal}, {&s.BytesWire, added.BytesWire},
		{&s.EntriesAfterAdd, added.EntriesAfterAdd}, {&s.RaftSnapshotsSent, added.RaftSnapshotsSent}} {
		if told.from == nil {
			return fault.Newf(fault.Internal, "bench", "%s: what the join cost is not all known; did the leader change?", name)
		}
		*told.to = *told.from
	}
	var removed struct{}
	if err := c.cluster.Command(ctx, &removed, "member", "remove", ident.FormatID(uint64(added.MemberID)),
		"--endpoints", c.leader.Client()); err != nil {
		return err
	}
	return c.cluster.Remove(target)
}

// add adds a waiting node at the leader.
func (c *cell) add(ctx context.Context, p *cluster.Process) (added output.MemberAdd, err error) {
	err = c.cluster.Command(ctx, &added, "member", "add", p.Name, "--peer-urls", p.Peer(), "--endpoints", c.leader.Client())
	return added, err
}

// copy copies the source's data directory.
func (c *cell) copy(ctx context.Context, s *Sample) error {
	to := filepath.Join(c.dir, "copy")
	var err error
	s.PutCopy, err = c.during(ctx, func() (err error) {
		s.Copy, err = copyTree(c.leader.DataDir, to)
		return err
	})
	return errors.Join(err, os.RemoveAll(to))
}

// control is the load alone for as long as the seed took.
func (c *cell) control(ctx context.Context, s *Sample) error {
	source, err := watch(c.leader.PID())
	if err != nil {
		return err
	}
	s.PutControl, err = c.during(ctx, func() (err error) {
		if err := pause(ctx, time.Duration(s.Seconds*float64(time.Second))); err != nil {
			return err
		}
		s.Control, err = source.usage()
		return err
	})
	return err
}

// settle waits until the members have little to do, but not for ever: what is
// busy then is part of what is measured.
func (c *cell) settle(ctx context.Context) error {
	const (
		look = 500 * time.Millisecond
		most = 2 * time.Minute
		each = 0.12 // CPU seconds of a member in a look: the load costs some
	)
	quiet := each * float64(len(c.cluster.Nodes()))
	for began, calm := time.Now(), 0; calm < 3 && time.Since(began) < most; {
		before, err := c.cpu()
		if err != nil {
			return err
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
		after, err := c.cpu()
		if err != nil {
			return err
		}
		calm++
		if after-before > quiet {
			calm = 0
		}
	}
	return nil
}

func (c *cell) cpu() (float64, error) {
	var sum float64
	for _, p := range c.cluster.Nodes() {
		used, err := cpuSeconds(p.PID())
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
