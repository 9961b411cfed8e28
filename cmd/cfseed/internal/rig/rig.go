// Package rig is a loaded cluster of processes on which a benchmark measures:
// started anew before each part, left alone until it is idle, put under a
// constant load, and watched through windows of time.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Rig is one cluster. It belongs to one goroutine.
type Rig struct {
	Dir     string // of its data directories
	Cluster *cluster.Cluster
	Leader  *cluster.Process
	Load    *workload.Load // nil outside of UnderLoad

	usual float64 // processors that the members keep busy with the load alone
}

// New returns a rig without processes in dir, which exists. binary is cfseed's
// own.
func New(binary, dir string) *Rig { return &Rig{Dir: dir, Cluster: cluster.New(binary, dir)} }

// Close ends all processes and removes the directory.
func (r *Rig) Close() error {
	return errors.Join(r.Cluster.StopAll(context.Background()), os.RemoveAll(r.Dir))
}

// FirstName is the name of the first member; its data directory has it too.
const FirstName = "m1"

// First starts the first member. more are further arguments of `cfseed node`.
func (r *Rig) First(ctx context.Context, more ...string) (err error) {
	r.Leader, err = r.Cluster.Start(ctx, FirstName, more...)
	return err
}

// Grow adds members until there are so many.
func (r *Rig) Grow(ctx context.Context, members int) error {
	for i := len(r.Cluster.Nodes()) + 1; i <= members; i++ {
		p, err := r.Cluster.Start(ctx, fmt.Sprintf("m%d", i), "--await-seed")
		if err != nil {
			return err
		}
		if _, err := r.Add(ctx, p); err != nil {
			return err
		}
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	return r.Settle(ctx)
}

// Add adds a waiting node at the leader.
func (r *Rig) Add(ctx context.Context, p *cluster.Process) (added output.MemberAdd, err error) {
	err = r.Cluster.Command(ctx, &added, "member", "add", p.Name, "--peer-urls", p.Peer(), "--endpoints", r.Leader.Client())
	return added, err
}

// Remove removes a member or a reservation from the cluster.
func (r *Rig) Remove(ctx context.Context, id uint64) error {
	var removed struct{}
	return r.Cluster.Command(ctx, &removed, "member", "remove", ident.FormatID(id), "--endpoints", r.Leader.Client())
}

// Anew starts all members anew and waits until they are idle: what one part
// leaves in memory stays out of the next one.
func (r *Rig) Anew(ctx context.Context) (err error) {
	if err := r.Cluster.StopAll(ctx); err != nil {
		return err
	}
	if err := r.Cluster.Restart(ctx, r.Cluster.Nodes()...); err != nil {
		return err
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	r.Leader, err = r.Cluster.Leader(ctx)
	return err
}

// Rest waits until the members, which have no load, read nothing by themselves
// any more: some time after its start a member sums the tables it has, slowly,
// for seeds to come. One that has run for a while has done that.
func (r *Rig) Rest(ctx context.Context) error {
	const (
		look = time.Second
		most = 3 * time.Minute
		calm = 7       // looks; a member begins after less
		some = 1 << 20 // bytes in a look: members talk to each other
	)
	for began, n := time.Now(), 0; n < calm && time.Since(began) < most; n++ {
		before, err := r.read()
		if err != nil {
			return err
		}
		if err := workload.Pause(ctx, look); err != nil {
			return err
		}
		after, err := r.read()
		if err != nil {
			return err
		}
		if after-before > some {
			n = -1
		}
	}
	return nil
}

func (r *Rig) read() (sum uint64, err error) {
	for _, p := range r.Cluster.Nodes() {
		n, err := measure.ReadBytes(p.PID())
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// UnderLoad starts all members anew, offers puts to the leader and runs fn.
func (r *Rig) UnderLoad(ctx context.Context, puts workload.Puts, fn func() error) error {
	if err := r.Anew(ctx); err != nil {
		return err
	}
	return r.WithLoad(ctx, puts, fn)
}

// WithLoad offers puts to the leader and runs fn.
func (r *Rig) WithLoad(ctx context.Context, puts workload.Puts, fn func() error) error {
	l, stop, err := workload.Offer(ctx, r.Leader.Client(), puts)
	if err != nil {
		return err
	}
	r.Load = l
	defer func() { r.Load, r.usual = nil, 0 }()
	return errors.Join(fn(), stop())
}

// During gives the latency of the puts that were due while fn ran.
func (r *Rig) During(ctx context.Context, fn func() error) (measure.Latency, error) {
	began := time.Now()
	others, err := r.Others(func() (float64, error) { return 0, fn() })
	if err != nil {
		return measure.Latency{}, err
	}
	l, err := r.Load.Window(ctx, began, time.Now())
	l.OtherCores = others
	return l, err
}

// Quiet leaves the members alone with the load and gives the latency of its
// puts. What the members use meanwhile is what Settle waits for from then on.
func (r *Rig) Quiet(ctx context.Context, span time.Duration) (measure.Latency, error) {
	before, err := r.cpu()
	if err != nil {
		return measure.Latency{}, err
	}
	l, err := r.During(ctx, func() error { return workload.Pause(ctx, span) })
	if err != nil {
		return l, err
	}
	after, err := r.cpu()
	r.usual = (after - before) / span.Seconds()
	return l, err
}

// Others is how many processors the rest of the machine kept busy while fn ran:
// neither the members nor this process, nor what fn says that its own processes
// have used, in seconds.
func (r *Rig) Others(fn func() (used float64, err error)) (float64, error) {
	began := time.Now()
	before, err := r.others()
	if err != nil {
		return 0, err
	}
	used, err := fn()
	if err != nil {
		return 0, err
	}
	after, err := r.others()
	return max(0, after-before-used) / time.Since(began).Seconds(), err
}

// others is the CPU time that neither the members nor this process used, since
// some moment in the past.
func (r *Rig) others() (float64, error) {
	all, err := measure.BusySeconds()
	if err != nil {
		return 0, err
	}
	members, err := r.cpu()
	if err != nil {
		return 0, err
	}
	own, err := measure.CPUSeconds(os.Getpid())
	return all - members - own, err
}

// Settle waits until the members have little to do, but not for ever: what is
// busy then is part of what is measured.
func (r *Rig) Settle(ctx context.Context) error {
	const (
		look = 500 * time.Millisecond
		most = 2 * time.Minute
		each = 0.12 // CPU seconds of a member in a look: a slow load costs some
		more = 1.25 // times what the load alone took before
	)
	quiet := max(each*float64(len(r.Cluster.Nodes())), more*r.usual*look.Seconds())
	for began, calm := time.Now(), 0; calm < 3 && time.Since(began) < most; {
		before, err := r.cpu()
		if err != nil {
			return err
		}
		if err := workload.Pause(ctx, look); err != nil {
			return err
		}
		after, err := r.cpu()
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

func (r *Rig) cpu() (float64, error) {
	var sum float64
	for _, p := range r.Cluster.Nodes() {
		used, err := measure.CPUSeconds(p.PID())
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// Voter refuses what is not a voter.
func Voter(added output.MemberAdd) error {
	if added.Role != "voter" {
		return fault.Newf(fault.Internal, "bench", "%s is a %s, want a voter", added.Name, added.Role)
	}
	return nil
}
