//go:build e2e

package seedbench

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

type silent struct{}

func (silent) Phase(string)                       {}
func (silent) Transfer(_, _, _ uint64, _ float64) {}
func (silent) Forecast(*chainfirev1.Forecast)     {}
func (silent) Queued(*chainfirev1.SeedQueue)      {}
func (silent) Close(bool)                         {}

var _ output.Progress = silent{}

// TestSeed measures every table at a small size with real processes: what they
// say must fit together; how long anything takes is not judged.
func TestSeed(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "cfseed")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/chainfire/cfseed/cmd/cfseed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rep, err := Run(t.Context(), Config{Binary: binary, Dir: t.TempDir(), Sizes: []uint64{8 << 20}, Runs: 1, Quiet: time.Second, Seed: 1,
		Progress: silent{}, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, table := range rep.Tables {
		seen[table.Name] = true
		switch samples := table.Samples.(type) {
		case []Throughput:
			checkThroughput(t, samples)
		default:
			t.Errorf("nobody looks at the samples of %s, %T", table.Name, samples)
		}
	}
	for _, name := range Names() {
		if !seen[name] {
			t.Errorf("no table %s", name)
		}
	}
	if err := rep.Plot(filepath.Join(t.TempDir(), "plots")); err != nil {
		t.Error(err)
	}
}

func checkThroughput(t *testing.T, samples []Throughput) {
	if len(samples) != 1 {
		t.Fatalf("%d samples; the warm-up is not one", len(samples))
	}
	s := samples[0]
	switch {
	case s.Pull.Seconds <= 0 || s.Sides["copy + fsync"] <= 0:
		t.Errorf("no time: %+v", s)
	case s.Pull.BytesTotal < 1<<20 || s.Pull.BytesWire == 0 || s.Logical < 8<<20:
		t.Errorf("bytes: %+v", s)
	case s.Source.PeakRSS < 1<<20 || s.Control.PeakRSS < 1<<20 || s.Pull.Target.PeakRSS < 1<<20 || s.Pull.Target.CPUSeconds <= 0:
		t.Errorf("usage: %+v", s)
	}
}
