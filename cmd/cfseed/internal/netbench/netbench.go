// Package netbench measures how much of a line a pull uses. A member and a pull
// are processes of this machine with a line between them that is as long and as
// narrow as wanted (internal/shape); the bytes are counted on that line.
//
// One cell is a round trip time and a rate. A run of it pulls all of a member's
// data, which does not compress, into an empty directory, with the flags a pull
// has by default:
//
//	command   from the start of the process to its end
//	moving    from the first bytes of the seed on the line to the last ones
//	plain     as many bytes over the same line by TCP alone, stored by nobody
//
// What a real line has and this one not: packets that are lost unless stalls are
// asked for, and other users. What both have: the handshake of each connection,
// and the window of TCP, which opens from ten segments and is bounded by what
// Linux gives a connection unless told otherwise.
package netbench

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
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/shape"
)

// Config is what a benchmark is told.
type Config struct {
	Binary   string          // of cfseed itself
	Dir      string          // where data directories are made; empty: the system's
	RTTs     []time.Duration // round trip times
	Mbits    []int           // rates of the line, in Mbit/s
	Busy     time.Duration   // for which a seed keeps the line busy at its full rate
	Runs     int
	Window   int64    // of one TCP connection, in bytes; 0: any
	Flags    []string // more flags of cfseed pull
	Progress output.Progress
	Say      func(format string, args ...any) // a line of narration
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	const op = "bench net"
	switch {
	case len(c.RTTs) == 0 || len(c.Mbits) == 0:
		return fault.Newf(fault.Usage, op, "nothing to measure: give --rtts and --mbits")
	case c.Runs < 1:
		return fault.Newf(fault.Usage, op, "want at least one run")
	case c.Busy < time.Second || c.Busy > 10*time.Minute:
		return fault.Newf(fault.Usage, op, "--busy %s: want 1s to 10m", c.Busy)
	}
	for _, rtt := range c.RTTs {
		if rtt < 0 || rtt > 2*time.Second {
			return fault.Newf(fault.Usage, op, "--rtts: want at most 2s each")
		}
	}
	for _, m := range c.Mbits {
		if m < 1 || m > 100_000 {
			return fault.Newf(fault.Usage, op, "--mbits: want 1 to 100000 each")
		}
	}
	return nil
}

// bench is a benchmark under way.
type bench struct {
	cfg     Config
	dir     string
	cluster *cluster.Cluster
	source  *cluster.Process
	direct  string // client address of the source, past the line
	line    *shape.Proxy
	loaded  int64 // bytes of values
}

// Run measures every cell. Slowness is a row of the report, never an error.
func Run(ctx context.Context, cfg Config) (rep Report, err error) {
	began := time.Now()
	rep = Report{Started: began.UTC(), Runs: cfg.Runs, Window: cfg.Window, Flags: cfg.Flags}
	dir, err := os.MkdirTemp(cfg.Dir, "cfseed-bench-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench net", err)
	}
	b := &bench{cfg: cfg, dir: dir, cluster: cluster.New(cfg.Binary, dir)}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep.Machine = measure.MachineAt(dir)
	if err := b.start(ctx); err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, b.cluster.StopAll(context.Background()), b.line.Close()) }()
	for _, mbit := range cfg.Mbits { // in rising order: the data grows
		rate := int64(mbit) * 1e6 / 8
		if err := b.fill(ctx, int64(float64(rate)*cfg.Busy.Seconds())); err != nil {
			return rep, err
		}
		for _, rtt := range cfg.RTTs {
			c := Cell{RTT: rtt.Seconds(), Mbit: mbit}
			for run := range cfg.Runs {
				cfg.Progress.Phase(fmt.Sprintf("%s, %d Mbit/s, run %d of %d", rtt, mbit, run+1, cfg.Runs))
				s, err := b.run(ctx, rtt, rate)
				if err != nil {
					return rep, fmt.Errorf("%s, %d Mbit/s, run %d: %w", rtt, mbit, run+1, err)
				}
				cfg.Say("%s, %d Mbit/s: %.1f %% of the line, TCP alone %.1f %%", rtt, mbit, 100*s.LineUse, 100*s.PlainUse)
				c.Samples = append(c.Samples, s)
			}
			c.Rows = rows(c)
			rep.Cells = append(rep.Cells, c)
		}
	}
	rep.Seconds = time.Since(began).Seconds()
	return rep, nil
}

// start starts the source behind the line: what it tells of itself is the line.
func (b *bench) start(ctx context.Context) (err error) {
	if b.direct, err = freeAddress(); err != nil {
		return err
	}
	if b.line, err = shape.New(b.direct, 1); err != nil {
		return fault.New(fault.Internal, "bench net", err)
	}
	b.source, err = b.cluster.Start(ctx, "source", "--listen-client-urls", "http://"+b.direct, "--advertise-client-urls", b.line.URL())
	if err == nil {
		err = b.source.Ready(ctx)
	}
	if err != nil {
		return errors.Join(err, b.cluster.KillAll(), b.line.Close())
	}
	return nil
}

// fill brings the source to so many bytes of values.
func (b *bench) fill(ctx context.Context, size int64) error {
	b.cfg.Progress.Phase(fmt.Sprintf("load %s", output.Size(uint64(size))))
	from, to := int(b.loaded/valueBytes), int(size/valueBytes)
	if err := load(ctx, b.direct, from, max(from, to)); err != nil {
		return err
	}
	b.loaded = max(b.loaded, size)
	return nil
}

// run pulls once through the line.
func (b *bench) run(ctx context.Context, rtt time.Duration, rate int64) (s Sample, err error) {
	for _, w := range []shape.Way{shape.Up, shape.Down} {
		b.line.Shape(w, shape.Shape{Delay: rtt / 2, Rate: rate, Window: b.cfg.Window})
	}
	b.line.Recount()
	target := filepath.Join(b.dir, "target")
	defer func() { err = errors.Join(err, os.RemoveAll(target)) }()
	source, err := measure.Watch(b.source.PID())
	if err != nil {
		return s, err
	}
	idle, err := measure.PeakRSS(b.source.PID()) // which has begun anew
	if err != nil {
		return s, err
	}
	var pulled output.Pull
	p, err := b.pull(ctx, target, &pulled)
	if err != nil {
		return s, err
	}
	s = p.sample(rate)
	s.SourceIdle = idle
	s.BytesTotal, s.BytesWire, s.LoadAverage = pulled.BytesTotal, pulled.BytesWire, measure.LoadAverageNow()
	if s.Source, err = source.Usage(); err != nil {
		return s, err
	}
	if s.PlainUse, err = b.plain(ctx, rate, s.BytesLine); err != nil {
		return s, err
	}
	again, err := b.pull(ctx, target, &struct{}{}) // finds it all there
	if err != nil {
		return s, err
	}
	s.TargetIdle = again.usage
	if pulled.MemberID == nil {
		return s, fault.Newf(fault.Internal, "bench net", "the pull has reserved no member")
	}
	return s, b.cluster.Command(ctx, &struct{}{}, "member", "remove", pulled.MemberID.String(), "--endpoints", b.direct)
}
