package seedbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// ground is what all tables stand on: loaded data directories.
type ground struct {
	cfg       Config
	dir       string
	templates map[uint64]template     // by size
	pulls     map[uint64][]Throughput // by size, for the projection
}

// template is the data directory of a stopped member that holds one size.
type template struct {
	dir         string
	size        uint64 // bytes of values
	values      int
	valueSize   int
	loadSeconds float64
}

// logical is the bytes of all keys and values.
func (t template) logical() uint64 { return uint64(t.values) * uint64(t.valueSize+workload.KeySize) }

// String tells what is in it.
func (t template) String() string {
	return fmt.Sprintf("%s in %d values of %d bytes", output.Size(t.size), t.values, t.valueSize)
}

// template loads a size, once.
func (g *ground) template(ctx context.Context, size uint64) (t template, err error) {
	if t, ok := g.templates[size]; ok {
		return t, nil
	}
	dir, err := os.MkdirTemp(g.dir, "template-")
	if err != nil {
		return t, fault.New(fault.Internal, "bench", err)
	}
	valueSize := g.cfg.valueSize(size)
	t = template{size: size, valueSize: valueSize, values: int(size / uint64(valueSize))}
	g.cfg.Progress.Phase("load " + output.Size(size))
	r := rig.New(g.cfg.Binary, dir)
	began := time.Now()
	err = r.First(ctx)
	if err == nil {
		err = workload.Fill(ctx, r.Leader.Client(), g.cfg.Seed, t.values, t.valueSize)
		t.loadSeconds = time.Since(began).Seconds()
	}
	if err == nil {
		err = r.Settle(ctx) // so that a copy does not begin with the compactions of loading
		t.dir = r.Leader.DataDir
	}
	if err = errors.Join(err, r.Cluster.StopAll(ctx)); err != nil {
		return t, err
	}
	g.cfg.Say("%s, loaded in %.1f s", t, t.loadSeconds)
	g.templates[size] = t
	return t, nil
}

// rig starts a member on a copy of a template; the caller closes it.
func (g *ground) rig(ctx context.Context, size uint64) (r *rig.Rig, t template, err error) {
	if t, err = g.template(ctx, size); err != nil {
		return nil, t, err
	}
	dir, err := os.MkdirTemp(g.dir, "rig-")
	if err != nil {
		return nil, t, fault.New(fault.Internal, "bench", err)
	}
	r = rig.New(g.cfg.Binary, dir)
	if _, err = measure.CopyTree(t.dir, filepath.Join(dir, rig.FirstName)); err == nil {
		err = r.First(ctx, "--accept-moved-data-dir") // the template is never started again
	}
	if err == nil {
		err = r.Settle(ctx)
	}
	if err != nil {
		return nil, t, errors.Join(err, r.Close())
	}
	return r, t, nil
}
