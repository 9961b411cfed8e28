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
		case []Admit:
			checkAdmit(t, samples)
		case []Joins:
			checkJoins(t, samples)
		case []Delta:
			checkDelta(t, samples)
		case []Many:
			checkMany(t, samples)
		case []Etcd:
			checkEtcd(t, samples)
		case []Figures:
			if f := samples[0]; f.Wire <= 0 || f.SourceCPU <= 0 || f.TargetCPU <= 0 || f.Disk <= 0 || len(table.Grid) != 3 {
				t.Errorf("figures: %+v, %v", f, table.Grid)
			}
		case nil:
			checkLeftOut(t, table)
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

// checkLeftOut: only entries, whose samples are those of leader, and etcd, where
// it is not installed, have none.
func checkLeftOut(t *testing.T, table Table) {
	_, err := exec.LookPath("etcd")
	if table.Name == "entries" && len(table.Rows) > 0 || table.Name == "etcd" && err != nil && table.Rows[0].Note != "" {
		return
	}
	t.Errorf("%s has no samples: %+v", table.Name, table)
}

func checkAdmit(t *testing.T, samples []Admit) {
	s := samples[0]
	if len(samples) != 1 || s.Ready <= 0 || s.Voter < s.Ready || s.Add <= 0 || s.Push <= 0 || len(s.Phases) == 0 || s.Again != 0 || s.Pull.BytesWire == 0 {
		t.Errorf("%+v", samples)
	}
}

func checkJoins(t *testing.T, samples []Joins) {
	if len(samples) != 6 {
		t.Errorf("%d combinations of members and rates, want 6", len(samples))
	}
	for _, j := range samples {
		s := j.Samples[0]
		copied := j.Rate != fastRate || j.Half
		if j.Most <= 0 || s.PutQuiet.Puts == 0 || s.PutSeed.Puts == 0 || copied && s.Copy.Bytes == 0 || s.RaftSnapshotsSent != 0 || s.EntriesAfterAdd == 0 {
			t.Errorf("%s: %+v", j.name(), s)
		}
	}
}

func checkDelta(t *testing.T, samples []Delta) {
	if len(samples) != len(changes) {
		t.Errorf("%d samples", len(samples))
	}
	for _, s := range samples {
		if s.Changed == 0 || s.Whole.BytesReused != 0 || s.Files.BytesWire == 0 || s.Files.BytesReused >= s.Files.BytesTotal ||
			s.Auto.BytesReused == 0 || s.Auto.BytesWire == 0 || s.Ranges.BytesReused == 0 || s.Ranges.BytesWire == 0 {
			t.Errorf("%+v", s)
		}
	}
}

func checkMany(t *testing.T, samples []Many) {
	if len(samples) != len(targetCounts) {
		t.Errorf("%d samples", len(samples))
	}
	for _, s := range samples {
		if len(s.Pulls) != s.Targets || s.Checkpoints < 1 || s.Wall <= 0 || s.Source.PeakRSS < 1<<20 || s.PutSeed.Puts == 0 {
			t.Errorf("%+v", s)
		}
		for _, p := range s.Pulls {
			if p.BytesTotal < 1<<20 || p.Seconds > s.Wall {
				t.Errorf("%d targets: %+v", s.Targets, p)
			}
		}
	}
}

func checkEtcd(t *testing.T, samples []Etcd) {
	s := samples[0]
	if s.Etcd.Seconds <= 0 || s.Etcd.Newcomer.PeakRSS < 1<<20 || s.Etcd.PutSeed.Puts == 0 || s.Etcd.PutSeed.Failed > 0 || s.Cfseed.Seconds <= 0 {
		t.Errorf("%+v", s)
	}
}
