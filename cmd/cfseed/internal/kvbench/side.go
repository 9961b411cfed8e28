package kvbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/etcd"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// The names of the sides.
const (
	oursName = "cfseed"
	etcdName = "etcd"
)

// side is one of the two clusters. Its clients ask the leader.
type side struct {
	name   string
	client string
	pids   func() []int
	halt   func(context.Context) error // stops the first member
	again  func(context.Context) error // starts it again; it may not serve yet
	close  func() error
}

// restart stops the first member and gives the seconds from its start until it
// answers a linearizable read.
func (s *side) restart(ctx context.Context) (seconds float64, err error) {
	if err := s.halt(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.again(ctx); err != nil {
		return 0, err
	}
	err = s.serves(ctx)
	return time.Since(began).Seconds(), err
}

// startSides starts both clusters.
func startSides(ctx context.Context, cfg Config, dir string, members int) (sides []*side, stop func() error, err error) {
	stop = func() error {
		var errs []error
		for _, s := range sides {
			errs = append(errs, s.close())
		}
		return errors.Join(errs...)
	}
	for _, start := range []func(context.Context, Config, string, int) (*side, error){startOurs, startEtcd} {
		s, err := start(ctx, cfg, dir, members)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		sides = append(sides, s)
	}
	return sides, stop, nil
}

func startOurs(ctx context.Context, cfg Config, dir string, members int) (*side, error) {
	dir, err := os.MkdirTemp(dir, "cfseed-")
	if err != nil {
		return nil, fault.New(fault.Internal, "bench", err)
	}
	r := rig.New(cfg.Binary, dir)
	if err := r.First(ctx, "--quota-backend-bytes", etcd.Quota); err != nil { // both have the same, and it is not what is measured
		return nil, errors.Join(err, r.Close())
	}
	if err := r.Grow(ctx, members); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	s := &side{name: oursName, client: r.Leader.Client(), close: r.Close}
	s.pids = func() (out []int) {
		for _, p := range r.Cluster.Nodes() {
			out = append(out, p.PID())
		}
		return out
	}
	s.halt = r.Cluster.StopAll
	s.again = func(ctx context.Context) error { return r.Cluster.Restart(ctx, r.Leader) }
	return s, nil
}

func startEtcd(ctx context.Context, cfg Config, dir string, members int) (*side, error) {
	dir, err := os.MkdirTemp(dir, "etcd-")
	if err != nil {
		return nil, fault.New(fault.Internal, "bench", err)
	}
	var names []string
	for i := range members {
		names = append(names, fmt.Sprintf("e%d", i+1))
	}
	all, err := etcd.Start(ctx, cfg.Etcd, filepath.Join(dir, "data"), names...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &side{name: etcdName, close: func() error { return errors.Join(etcd.StopAll(all), os.RemoveAll(dir)) }}
	s.pids = func() (out []int) {
		for _, p := range all {
			out = append(out, p.PID())
		}
		return out
	}
	s.halt = func(context.Context) error { return all[0].Stop() }
	s.again = func(context.Context) error { return all[0].Again() }
	for s.client == "" {
		for _, p := range all {
			if leads, err := p.Leads(ctx); err == nil && leads {
				s.client = p.Client()
			}
		}
		if err := workload.Pause(ctx, 20*time.Millisecond); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// dial makes so many connections to a side.
func (s *side) dial(n int) (conns []*grpc.ClientConn, stop func() error, err error) {
	stop = func() error {
		var errs []error
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	for range n {
		c, err := netsec.Dial(s.client, netsec.Files{})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		conns = append(conns, c)
	}
	return conns, stop, nil
}

// serves waits until a linearizable read is answered.
func (s *side) serves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	conns, stop, err := s.dial(1)
	if err != nil {
		return err
	}
	defer stop() //nolint:errcheck // nothing is under way
	for {
		once, done := context.WithTimeout(ctx, time.Second)
		_, err := pb.NewKVClient(conns[0]).Range(once, &pb.RangeRequest{Key: []byte("serves")})
		done()
		if err == nil {
			return nil
		}
		conns[0].ResetConnectBackoff()
		if workload.Pause(ctx, 5*time.Millisecond) != nil {
			return fault.New(fault.Timeout, "bench: "+s.name, err)
		}
	}
}

// meters measure all processes of a side.
type meters []measure.Meter

func (s *side) watch() (all meters, err error) {
	for _, pid := range s.pids() {
		m, err := measure.Watch(pid)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// usage is the sum over the processes.
func (all meters) usage() (sum measure.Usage, err error) {
	for _, m := range all {
		u, err := m.Usage()
		if err != nil {
			return sum, err
		}
		sum.CPUSeconds += u.CPUSeconds
		sum.PeakRSS += u.PeakRSS
	}
	return sum, nil
}
