package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
)

func benchMachine(b *testing.B, dir string) (*store.Store, *state.Machine) {
	b.Helper()
	s, err := store.Open(dir, store.Options{FS: vfs.Default})
	if err != nil {
		b.Fatal(err)
	}
	m, err := state.Open(s)
	if err != nil {
		b.Fatal(err)
	}
	return s, m
}

func benchKey(i int) string { return fmt.Sprintf("/registry/things/%08d", i) }

// benchValue is half compressible, as JSON is.
func benchValue(rng *rand.Rand, n int) []byte {
	v := make([]byte, n)
	for i := range v {
		v[i] = "0123456789abcdef"[rng.IntN(16)]
	}
	return v
}

// load writes n keys, many to an entry.
func load(b *testing.B, m *state.Machine, n, valueSize int) {
	b.Helper()
	const perEntry = 128
	rng := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < n; {
		txn := &etcdserverpb.TxnRequest{}
		for ; i < n && len(txn.Success) < perEntry; i++ {
			txn.Success = append(txn.Success, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
				RequestPut: &etcdserverpb.PutRequest{Key: []byte(benchKey(i)), Value: benchValue(rng, valueSize)},
			}})
		}
		res, err := m.Apply(entry(m.Applied().Index+1, envelope.Txn, txn))
		if err != nil || res.Err != nil {
			b.Fatal(err, res.Err)
		}
	}
}

// BenchmarkPut is one put, one entry, one batch, on real files without fsync.
func BenchmarkPut(b *testing.B) {
	for _, bc := range []struct {
		name      string
		keys, len int
	}{
		{"overwrite/128B", 10_000, 128}, {"new/128B", 1 << 40, 128}, {"overwrite/4KiB", 10_000, 4096},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s, m := benchMachine(b, filepath.Join(b.TempDir(), "state-1"))
			rng := rand.New(rand.NewPCG(1, 1))
			value := benchValue(rng, bc.len)
			entries := make([]state.Entry, b.N)
			for i := range entries {
				key := i
				if bc.keys < 1<<40 {
					key = rng.IntN(bc.keys)
				}
				entries[i] = entry(uint64(i+1), envelope.Put, &etcdserverpb.PutRequest{Key: []byte(benchKey(key)), Value: value})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, e := range entries {
				if res, err := m.Apply(e); err != nil || res.Err != nil {
					b.Fatal(err, res.Err)
				}
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRange reads a store of 200,000 keys.
func BenchmarkRange(b *testing.B) {
	const keys = 200_000
	s, m := benchMachine(b, filepath.Join(b.TempDir(), "state-1"))
	load(b, m, keys, 128)
	if err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, req := range map[string]func(i int) *etcdserverpb.RangeRequest{
		"one": func(i int) *etcdserverpb.RangeRequest {
			return &etcdserverpb.RangeRequest{Key: []byte(benchKey(i % keys))}
		},
		"hundred": func(i int) *etcdserverpb.RangeRequest {
			return &etcdserverpb.RangeRequest{Key: []byte(benchKey(i % keys)), RangeEnd: []byte(benchKey(i%keys + 100))}
		},
		"count-all": func(int) *etcdserverpb.RangeRequest {
			return &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := m.Range(context.Background(), req(i*7919)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// openFigures is what a process that opened a store measured.
type openFigures struct {
	Keys        int64
	OpenSeconds float64
	RSSBytes    int64
}

const openDirEnv = "CFSEED_BENCH_OPEN_DIR"

// BenchmarkOpen4M builds stores of 400,000 and of 4,000,000 keys and opens each
// in a process of its own, which then reads at random. Opening and memory must
// not grow with the keys.
func BenchmarkOpen4M(b *testing.B) {
	dirs := map[int]string{}
	for _, keys := range []int{400_000, 4_000_000} {
		dirs[keys] = filepath.Join(b.TempDir(), "state-1")
		s, m := benchMachine(b, dirs[keys])
		load(b, m, keys, 64)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	var small, large openFigures
	rounds := 0.0
	for b.Loop() {
		rounds++
		add(&small, openElsewhere(b, dirs[400_000]))
		add(&large, openElsewhere(b, dirs[4_000_000]))
	}
	b.ReportMetric(1000*small.OpenSeconds/rounds, "open-400k-ms")
	b.ReportMetric(1000*large.OpenSeconds/rounds, "open-4M-ms")
	b.ReportMetric(float64(small.RSSBytes)/rounds/(1<<20), "rss-400k-MiB")
	b.ReportMetric(float64(large.RSSBytes)/rounds/(1<<20), "rss-4M-MiB")
}

func add(sum *openFigures, f openFigures) {
	sum.Keys += f.Keys
	sum.OpenSeconds += f.OpenSeconds
	sum.RSSBytes += f.RSSBytes
}

func openElsewhere(b *testing.B, dir string) openFigures {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOpenForBenchmark$", "-test.v")
	cmd.Env = append(os.Environ(), openDirEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var f openFigures
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "figures "); ok {
			if err := json.Unmarshal([]byte(text), &f); err != nil {
				b.Fatal(err)
			}
			return f
		}
	}
	b.Fatalf("no figures in\n%s", out)
	return f
}

// TestOpenForBenchmark is the process that BenchmarkOpen4M starts.
func TestOpenForBenchmark(t *testing.T) {
	dir := os.Getenv(openDirEnv)
	if dir == "" {
		t.Skip("only within BenchmarkOpen4M")
	}
	began := time.Now()
	s, err := store.Open(dir, store.Options{FS: vfs.Default})
	if err != nil {
		t.Fatal(err)
	}
	m, err := state.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	first, err := m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte(benchKey(0))})
	f := openFigures{OpenSeconds: time.Since(began).Seconds()}
	if err != nil || first.GetCount() != 1 {
		t.Fatal(err, first)
	}
	count, err := m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	f.Keys = count.GetCount()
	rng := rand.New(rand.NewPCG(2, 2))
	for range 50_000 {
		if _, err := m.Range(context.Background(), &etcdserverpb.RangeRequest{Key: []byte(benchKey(rng.IntN(int(f.Keys))))}); err != nil {
			t.Fatal(err)
		}
	}
	f.RSSBytes = rss(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("figures %s\n", text)
}

func rss(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
