package kvbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
)

// Sample is one run of a workload at one side.
type Sample struct {
	Workload  string        `json:"workload"`
	Side      string        `json:"side"`
	Run       int           `json:"run"`
	First     bool          `json:"first"` // of the two sides in this run
	Count     int           `json:"count"`
	Seconds   float64       `json:"seconds"`
	PerSecond float64       `json:"per_second"`
	P50       float64       `json:"p50_ms"`
	P99       float64       `json:"p99_ms"`
	Usage     measure.Usage `json:"usage"` // of all members together, without the clients
}

// outcome is what one operation brought: how many things, and how long each took
// where that is not the time of the operation.
type outcome struct {
	count int
	took  []time.Duration
}

// patience bounds one operation.
const patience = time.Minute

// warmUp is the part of a span that is run before and not measured.
const warmUp = 5

// measured runs a load at a side.
func measured(ctx context.Context, s *side, l load, cfg Config, at place) (sample Sample, err error) {
	sample = Sample{Workload: l.name, Side: s.name}
	conns, hangUp, err := s.dial(min(max(l.clients, streams), maxConns))
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, hangUp()) }()
	at.conns = conns
	op, stop, err := l.prepare(ctx, at)
	if err != nil {
		return sample, fault.New(fault.Internal, l.name+" at "+s.name, err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, _, err := repeat(ctx, l.clients, cfg.Span/warmUp, op); err != nil {
		return sample, fault.New(fault.Internal, l.name+" at "+s.name, err)
	}
	watching, err := s.watch()
	if err != nil {
		return sample, err
	}
	count, took, err := repeat(ctx, l.clients, cfg.Span, op)
	if err != nil {
		return sample, fault.New(fault.Internal, l.name+" at "+s.name, err)
	}
	if sample.Usage, err = watching.usage(); err != nil {
		return sample, err
	}
	sample.Count, sample.Seconds = count, took.span.Seconds()
	sample.PerSecond = float64(count) / sample.Seconds
	sample.P50, sample.P99 = took.percentile(50), took.percentile(99)
	return sample, nil
}

// latencies of a span of time, sorted.
type latencies struct {
	span time.Duration
	each []time.Duration
}

func (l latencies) percentile(percent int) float64 {
	return float64(measure.Percentile(l.each, percent).Microseconds()) / 1000
}

// repeat lets clients repeat an operation, each after the answer to the last.
func repeat(ctx context.Context, clients int, span time.Duration, op operation) (count int, all latencies, err error) {
	counts, took := make([]int, clients), make([][]time.Duration, clients)
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for client := range clients {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(uint64(client), uint64(began.UnixNano()))) //nolint:gosec // which keys are asked for
			for time.Since(began) < span {
				before := time.Now()
				once, cancel := context.WithTimeout(gctx, patience)
				done, err := op(once, client, r)
				cancel()
				if err != nil {
					return err
				}
				if done.took == nil {
					done.took = []time.Duration{time.Since(before)}
				}
				counts[client] += done.count
				took[client] = append(took[client], done.took...)
			}
			return nil
		})
	}
	err = g.Wait()
	all.span = time.Since(began)
	for client := range clients {
		count += counts[client]
		all.each = append(all.each, took[client]...)
	}
	slices.Sort(all.each)
	return count, all, err
}

// alternate runs loads at both sides in turns.
func alternate(ctx context.Context, cfg Config, sides []*side, chosen []load, at place) (samples []Sample, err error) {
	for _, l := range chosen {
		for run := range cfg.Runs {
			cfg.Progress.Phase(fmt.Sprintf("%s, run %d of %d", l.title, run+1, cfg.Runs))
			var line [2]float64
			for i := range sides {
				which := (i + run) % len(sides)
				s, err := measured(ctx, sides[which], l, cfg, at)
				if err != nil {
					return samples, err
				}
				s.Run, s.First = run, i == 0
				line[which] = s.PerSecond
				samples = append(samples, s)
			}
			cfg.Say("%s: %s %.0f/s, %s %.0f/s", l.title, sides[0].name, line[0], sides[1].name, line[1])
		}
	}
	return samples, nil
}
