//go:build e2e

package bench

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

// TestJoin measures a small cell with real processes: what it says must fit
// together; how long it takes is not judged.
func TestJoin(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "cfseed")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/chainfire/cfseed/cmd/cfseed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	rep, err := Run(t.Context(), Config{Binary: binary, Dir: t.TempDir(), Sizes: []uint64{8 << 20}, Members: []int{1}, ValueSize: 256,
		Runs: 1, Rate: 200, Quiet: time.Second, Seed: 1, Progress: silent{}, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	s := rep.Cells[0].Samples[0]
	switch {
	case s.Seconds <= 0 || s.Copy.Seconds <= 0 || len(s.Phases) == 0:
		t.Errorf("no time: %+v", s)
	case s.BytesTotal < 1<<20 || s.BytesWire == 0 || uint64(s.Copy.Bytes) < s.BytesTotal:
		t.Errorf("bytes: %+v", s)
	case s.PutQuiet.Puts < 100 || s.PutSeed.Puts == 0 || s.PutControl.Puts == 0 || s.PutSeed.Failed > 0:
		t.Errorf("puts: %+v", s)
	case s.EntriesAfterAdd == 0:
		t.Error("no put came in between the seed and the admission: there was no load")
	case s.RaftSnapshotsSent != 0:
		t.Errorf("%d raft snapshots", s.RaftSnapshotsSent)
	case s.Source.PeakRSS < 1<<20 || s.Target.PeakRSS < 1<<20 || s.Control.PeakRSS < 1<<20 || s.Source.CPUSeconds <= 0:
		t.Errorf("usage: %+v %+v %+v", s.Source, s.Target, s.Control)
	}
}
