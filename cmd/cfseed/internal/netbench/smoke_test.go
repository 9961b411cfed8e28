//go:build e2e

package netbench

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

type silent struct{ output.Progress }

func (silent) Phase(string) {}

// TestNet measures a small cell with real processes: what it says must fit
// together; how long it takes is not judged.
func TestNet(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "cfseed")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/chainfire/cfseed/cmd/cfseed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rep, err := Run(t.Context(), Config{Binary: binary, Dir: t.TempDir(), RTTs: []time.Duration{20 * time.Millisecond}, Mbits: []int{100},
		Busy: time.Second, Runs: 1, Window: 3 << 20, Progress: silent{}, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	s := rep.Cells[0].Samples[0]
	switch {
	case s.Seconds <= 0 || s.Moving <= 0 || s.Before <= 0 || s.LineUse <= 0 || s.LineUse > 1.05 || s.CommandUse >= s.LineUse || s.PlainUse <= 0:
		t.Errorf("shares: %+v", s)
	case s.BytesTotal < 12_000_000 || s.BytesLine < int64(s.BytesTotal) || s.BytesWire < s.BytesTotal:
		t.Errorf("bytes: %+v", s)
	case s.Target.PeakRSS < 1<<20 || s.TargetIdle.PeakRSS < 1<<20 || s.Source.PeakRSS < 1<<20 || s.Target.CPUSeconds <= 0:
		t.Errorf("usage: %+v", s)
	}
}
