//go:build e2e

package kvbench

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

type silent struct{ output.Progress }

func (silent) Phase(string) {}

// TestKV measures everything at a small size with real processes: what it says
// must fit together; how long it takes is not judged.
func TestKV(t *testing.T) {
	dir := t.TempDir()
	binary, etcd := filepath.Join(dir, "cfseed"), filepath.Join(dir, "etcd")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/chainfire/cfseed/cmd/cfseed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	build := exec.Command("go", "build", "-C", filepath.Join("..", "..", "..", "..", "testdata", "etcd"), "-mod=readonly", "-o", etcd, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("etcd can not be built (its modules come from the network): %v\n%s", err, out)
	}
	rep, err := Run(t.Context(), Config{Binary: binary, Etcd: etcd, Dir: t.TempDir(), Members: []int{1, 3}, Keys: 5000, ValueSize: 256,
		Span: 200 * time.Millisecond, Runs: 1, Seed: 1, Progress: silent{}, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Tables) != 3 {
		t.Fatalf("%d tables, want 3", len(rep.Tables))
	}
	for _, table := range rep.Tables[:2] {
		samples := table.Samples.([]Sample)
		if len(samples) != 2*len(loads()) || len(table.Rows) != len(loads()) || len(table.Grid) != 1+2*len(loads()) {
			t.Errorf("%s: %d samples, %d rows, %d lines", table.Name, len(samples), len(table.Rows), len(table.Grid))
		}
		checkSamples(t, samples)
	}
	keys := rep.Tables[2].Samples.([]Keys)[0]
	checkSamples(t, keys.Samples)
	if len(keys.Samples) != 2*len(manyLoads) || len(keys.Restarts) != 1 || keys.Restarts[0].Cfseed <= 0 || keys.Restarts[0].Etcd <= 0 || len(keys.Loaded) != 2 {
		t.Errorf("%+v", keys)
	}
}

func checkSamples(t *testing.T, samples []Sample) {
	t.Helper()
	for _, s := range samples {
		if s.Count == 0 || s.Seconds < 0.2 || s.PerSecond <= 0 || s.P50 <= 0 || s.P99 < s.P50 || s.Usage.PeakRSS < 1<<20 {
			t.Errorf("%+v", s)
		}
	}
}
