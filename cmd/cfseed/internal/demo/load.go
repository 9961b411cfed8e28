package demo

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/netsec"
)

const (
	// maxValue is the largest file loaded: a request of etcd's API is at most
	// 1.5 MiB; larger files are counted as skipped.
	maxValue = 1<<20 + 1<<19 - 4096
	// loaders are enough to fill the group commits of one node.
	loaders = 32
	// writeInterval paces each writer during the joins.
	writeInterval = 5 * time.Millisecond
	// retryPause is how long a writer waits before it tries the next member.
	retryPause = 20 * time.Millisecond
)

// ledger is what was acknowledged: the hash of the value of each key.
type ledger struct {
	mu   sync.Mutex
	keys map[string]uint64
}

func newLedger() *ledger { return &ledger{keys: map[string]uint64{}} }

func (l *ledger) acknowledge(key string, value []byte) {
	sum := xxh3.Hash(value)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[key] = sum
}

// load puts every file of the directory into the node at addr: the path is the
// key, the content the value.
func (r *run) load(ctx context.Context, addr string) error {
	r.cfg.Progress.Phase("load")
	began := time.Now()
	conn, err := netsec.Dial(addr, netsec.Files{})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every put was answered
	kv := pb.NewKVClient(conn)
	paths := make(chan string, loaders)
	var bytes atomic.Int64
	var skipped, files atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { defer close(paths); return walk(gctx, r.cfg.Load, paths, &skipped) })
	for range loaders {
		g.Go(func() error {
			for path := range paths {
				value, err := os.ReadFile(path)
				if err != nil {
					return fault.New(fault.Internal, "load", err)
				}
				key, err := filepath.Rel(r.cfg.Load, path)
				if err != nil {
					return fault.New(fault.Internal, "load", err)
				}
				key = filepath.ToSlash(key)
				pctx, cancel := context.WithTimeout(gctx, r.cfg.Patience)
				_, err = kv.Put(pctx, &pb.PutRequest{Key: []byte(key), Value: value})
				cancel()
				if err != nil {
					return rpcfault.FromStatus("load "+key, err)
				}
				r.acked.acknowledge(key, value)
				files.Add(1)
				bytes.Add(int64(len(value)))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.rep.Files, r.rep.Skipped, r.rep.BytesLoaded = int(files.Load()), int(skipped.Load()), bytes.Load()
	r.rep.LoadSeconds = time.Since(began).Seconds()
	if r.rep.Files == 0 {
		return fault.Newf(fault.Usage, "demo", "no file to load").At(r.cfg.Load)
	}
	r.cfg.Say("%d files of %s loaded, %.0f MB in %.1f s (%d skipped: above %d bytes)", r.rep.Files, r.cfg.Load,
		float64(r.rep.BytesLoaded)/1e6, r.rep.LoadSeconds, r.rep.Skipped, maxValue)
	return nil
}

func walk(ctx context.Context, root string, paths chan<- string, skipped *atomic.Int64) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fault.New(fault.Usage, "load", err)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return fault.New(fault.Usage, "load", err)
		}
		if info.Size() > maxValue {
			skipped.Add(1)
			return nil
		}
		select {
		case paths <- path:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// Latency is of acknowledged puts, in milliseconds.
type Latency struct {
	Puts int     `json:"puts"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
}

// writers write small keys, each to the next member when one does not answer.
type writers struct {
	acked   *ledger
	clients func() []string

	mu    sync.Mutex
	acks  []time.Time // when a put was acknowledged
	took  []time.Duration
	total int
	gap   time.Duration
	last  time.Time
}

func newWriters(l *ledger, clients func() []string) *writers {
	return &writers{acked: l, clients: clients, last: time.Now()}
}

// write puts rising keys until ctx ends. A put that failed is not in the
// ledger: it may or may not be there.
func (w *writers) write(ctx context.Context, id int) error {
	conns := map[string]*grpc.ClientConn{}
	defer func() {
		for _, c := range conns {
			c.Close() //nolint:errcheck // every put was answered
		}
	}()
	target := id
	for n := 0; ctx.Err() == nil; n++ {
		clients := w.clients()
		if len(clients) == 0 { // between a death and a start
			_ = pause(ctx, retryPause)
			continue
		}
		addr := clients[target%len(clients)]
		if conns[addr] == nil {
			c, err := netsec.Dial(addr, netsec.Files{})
			if err != nil {
				return err
			}
			conns[addr] = c
		}
		key, value := fmt.Sprintf("demo/%02d/%08d", id, n), []byte(time.Now().Format(time.RFC3339Nano))
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		began := time.Now()
		_, err := pb.NewKVClient(conns[addr]).Put(pctx, &pb.PutRequest{Key: []byte(key), Value: value})
		cancel()
		if err != nil {
			target++
			_ = pause(ctx, retryPause)
			continue
		}
		w.acked.acknowledge(key, value)
		w.note(began)
		_ = pause(ctx, writeInterval)
	}
	return nil
}

func (w *writers) note(began time.Time) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total++
	w.gap = max(w.gap, now.Sub(w.last))
	w.last = now
	w.acks = append(w.acks, now)
	w.took = append(w.took, now.Sub(began))
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

func (w *writers) longestGap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap
}

// latency gives that of the puts since the last call.
func (w *writers) latency() Latency {
	w.mu.Lock()
	took := w.took
	w.took = nil
	w.mu.Unlock()
	if len(took) == 0 {
		return Latency{}
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Latency{Puts: len(took), P50: ms(took[len(took)/2]), P99: ms(took[len(took)*99/100])}
}

// nextAfter waits for a write that began to be acknowledged after a moment.
func (w *writers) nextAfter(ctx context.Context, t time.Time) (time.Duration, error) {
	// Answers that were on their way when the leader died do not count.
	const inFlight = 50 * time.Millisecond
	const patience = 30 * time.Second
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		if took := last.Sub(t); took > inFlight {
			return took, nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fault.Newf(fault.Timeout, "demo", "no write was acknowledged within %s of the leader's death", patience)
}

// goRoot asks the go command where its sources are.
func goRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("where are Go's sources? %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
