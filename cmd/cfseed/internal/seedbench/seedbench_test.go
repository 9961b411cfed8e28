package seedbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheck(t *testing.T) {
	good := Config{Sizes: []uint64{1 << 20, 2 << 20}, Runs: 1, Quiet: time.Second, Only: Names()}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no size":       func(c *Config) { c.Sizes = nil },
		"falling":       func(c *Config) { c.Sizes = []uint64{2 << 20, 1 << 20} },
		"small":         func(c *Config) { c.Sizes = []uint64{1} },
		"no runs":       func(c *Config) { c.Runs = 0 },
		"tiny values":   func(c *Config) { c.ValueSize = 1 },
		"no time":       func(c *Config) { c.Quiet = 0 },
		"unknown table": func(c *Config) { c.Only = []string{"throughput", "dleta"} },
	} {
		c := good
		spoil(&c)
		if err := c.Check(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValueSize(t *testing.T) {
	for size, want := range map[uint64]int{1 << 20: 256, 1 << 30: 256, 4 << 30: 1024} {
		if got := (Config{}).valueSize(size); got != want {
			t.Errorf("%d bytes: values of %d, want %d", size, got, want)
		}
		if got := (Config{ValueSize: 300}).valueSize(size); got != 300 {
			t.Errorf("%d bytes: values of %d, want those asked for", size, got)
		}
	}
}

// TestTables is each table as text, from invented samples: within all bounds,
// and with shortfalls, which are rows as well.
func TestTables(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // so that it is the same wherever programs are installed
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			make, known := tables[d.Cmd]
			if !known {
				d.Fatalf(t, "no table %s", d.Cmd)
			}
			var runs []int
			d.ScanArgs(t, "runs", &runs)
			rep := Report{Machine: measure.Machine{Cores: 2, CPU: "a CPU", PageCache: "warm"}, Runs: len(runs), Tables: make(runs)}
			var out bytes.Buffer
			rep.Write(&out)
			return out.String()
		})
	})
}

// TestReport: the samples are in the JSON, the pictures in their files.
func TestReport(t *testing.T) {
	rep := Report{Tables: tables["throughput"]([]int{1, 2, 3})}
	text, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Tables []struct {
			Name    string
			Rows    []measure.Row
			Samples []Throughput
		}
	}
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Tables[0]; got.Name != "throughput" || len(got.Samples) != 3 || got.Samples[2].Pull.Seconds != 6 || len(got.Rows) < 10 {
		t.Errorf("%s", text)
	}
	dir := filepath.Join(t.TempDir(), "plots")
	if err := rep.Plot(dir); err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile(filepath.Join(dir, "throughput-2.0GiB.svg"))
	if err != nil || !strings.Contains(string(picture), "cfseed pull") {
		t.Errorf("%v: %s", err, picture)
	}
}

// TestSides: every way to move files moves them all, and fails when it can not.
func TestSides(t *testing.T) {
	from := t.TempDir()
	files := map[string]string{"a.sst": strings.Repeat("one", 1<<16), "b": ""}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sides() {
		t.Run(s.name, func(t *testing.T) {
			if !s.installed() {
				t.Logf("%v: not installed", s.needs)
				return
			}
			to := filepath.Join(t.TempDir(), "to")
			if err := s.move(t.Context(), from, to); err != nil {
				t.Fatal(err)
			}
			for name, text := range files {
				if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != text {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
			if _, err := s.seconds(t.Context(), from, filepath.Join(t.TempDir(), "more")); err != nil {
				t.Error(err)
			}
			if err := s.move(t.Context(), filepath.Join(from, "absent"), filepath.Join(t.TempDir(), "none")); err == nil {
				t.Error("what is not there was moved")
			}
		})
	}
	if (side{needs: []string{"no-such-program-anywhere"}}).installed() {
		t.Error("a program that is not there is installed")
	}
}

func TestCheckpoints(t *testing.T) {
	dir := t.TempDir()
	if got, err := checkpoints(dir); err != nil || len(got) != 0 {
		t.Errorf("without seeds/: %v, %v", got, err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "seeds", "seed-1"), 0o750), os.WriteFile(filepath.Join(dir, "seeds", "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := checkpoints(dir); err != nil || len(got) != 1 || filepath.Base(got[0]) != "seed-1" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := checkpoints(filepath.Join(dir, "seeds", "file")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file is no data directory: %v", err)
	}
}
