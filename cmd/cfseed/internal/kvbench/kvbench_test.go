package kvbench

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
)

func valid() Config {
	return Config{Members: []int{1, 3}, Keys: judgedFrom, ValueSize: 256, Span: time.Second, Runs: 2}
}

func TestCheck(t *testing.T) {
	if err := valid().Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no members":   func(c *Config) { c.Members = nil },
		"none of them": func(c *Config) { c.Members = []int{1, 0} },
		"too many":     func(c *Config) { c.Members = []int{8} },
		"runs":         func(c *Config) { c.Runs = 0 },
		"span":         func(c *Config) { c.Span = time.Millisecond },
		"small values": func(c *Config) { c.ValueSize = 10 },
		"large values": func(c *Config) { c.ValueSize = 1 << 20 },
		"keys":         func(c *Config) { c.Keys = -1 },
		"workload":     func(c *Config) { c.Only = []string{"put-1", "put-2"} },
	} {
		c := valid()
		spoil(&c)
		if c.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// invented are samples of all loads in which ours does factor times as much.
func invented(factor float64) (out []Sample) {
	for _, l := range loads() {
		for run := range 3 {
			base := float64(run + 1)
			out = append(out,
				Sample{Workload: l.name, Side: oursName, Run: run, Count: 10, PerSecond: base * factor, Usage: measure.Usage{PeakRSS: 1 << 20, CPUSeconds: 1}},
				Sample{Workload: l.name, Side: etcdName, Run: run, Count: 10, PerSecond: base, Usage: measure.Usage{PeakRSS: 8 << 20, CPUSeconds: 1}})
		}
	}
	return out
}

// The figures of a run are held against those of the same run.
func TestFewTable(t *testing.T) {
	for _, c := range []struct {
		factor float64
		missed int
	}{{2, 0}, {1.5, 1}, {0.9, len(loads())}} {
		table := fewTable(valid(), 1, invented(c.factor))
		missed := 0
		for _, r := range table.Rows {
			if r.Low != c.factor || r.High != c.factor {
				t.Errorf("%s: from %g to %g, want %g", r.Name, r.Low, r.High, c.factor)
			}
			if r.Verdict == measure.Missed {
				missed++
			}
		}
		if missed != c.missed || len(table.Grid) != 1+2*len(loads()) {
			t.Errorf("%g times as fast: %d missed, want %d; %d lines", c.factor, missed, c.missed, len(table.Grid))
		}
	}
}

func TestKeysTable(t *testing.T) {
	samples := slices.DeleteFunc(invented(2), func(s Sample) bool { return !slices.Contains(manyLoads, s.Workload) })
	restarts := []Restart{{0, 1, 11}, {1, 2, 20}}
	verdicts := func(keys int, restarts []Restart) string {
		cfg := valid()
		cfg.Keys = keys
		table := keysTable(cfg, Keys{Loaded: map[string]float64{}, Samples: samples, Restarts: restarts})
		var out []string
		for _, r := range table.Rows {
			out = append(out, r.Verdict)
		}
		var text bytes.Buffer
		Report{Tables: []Table{table}}.Write(&text)
		if !strings.Contains(text.String(), "range of one key, 16 clients") {
			t.Errorf("printed: %s", text.String())
		}
		return strings.Join(out, " ")
	}
	if got := verdicts(judgedFrom, restarts); got != "ok ok ok   ok" {
		t.Errorf("verdicts: %q", got)
	}
	if got := verdicts(judgedFrom, []Restart{{0, 1, 9}}); got != "ok ok ok   MISSED" {
		t.Errorf("a slow restart: %q", got)
	}
	if got := verdicts(judgedFrom-1, restarts); got != "ok ok    " {
		t.Errorf("few keys are judged: %q", got)
	}
}

func TestRepeat(t *testing.T) {
	var calls atomic.Int64
	took := time.Hour
	count, all, err := repeat(t.Context(), 3, 10*time.Millisecond, func(_ context.Context, client int, _ *rand.Rand) (outcome, error) {
		calls.Add(1)
		if client == 2 {
			return outcome{count: 2, took: []time.Duration{took, took}}, nil
		}
		return outcome{count: 1}, nil
	})
	if err != nil || count < int(calls.Load()) || len(all.each) != count || all.each[count-1] != took || all.span < 10*time.Millisecond {
		t.Errorf("%d of %d, %d latencies, %v", count, calls.Load(), len(all.each), err)
	}
	broken := errors.New("broken")
	if _, _, err := repeat(t.Context(), 2, time.Minute, func(_ context.Context, client int, _ *rand.Rand) (outcome, error) {
		return outcome{}, broken
	}); !errors.Is(err, broken) {
		t.Errorf("a load that fails: %v", err)
	}
}
