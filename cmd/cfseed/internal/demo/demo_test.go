package demo

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// silence is an output.Progress.
type silence struct{}

func (silence) Phase(string)                       {}
func (silence) Transfer(_, _, _ uint64, _ float64) {}
func (silence) Forecast(*chainfirev1.Forecast)     {}
func (silence) Queued(*chainfirev1.SeedQueue)      {}
func (silence) Close(bool)                         {}
func quiet(load string) Config {
	return Config{Load: load, Writers: 1, Progress: silence{}, Say: func(string, ...any) {}}
}

// store is a node's KV service in memory.
type store struct {
	pb.UnimplementedKVServer
	hangs bool // answers nothing
	mu    sync.Mutex
	pairs map[string][]byte
}

func (s *store) hang(ctx context.Context) error {
	if s.hangs {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (s *store) Put(ctx context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	if err := s.hang(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pairs[string(req.GetKey())] = req.GetValue()
	return &pb.PutResponse{}, nil
}

func (s *store) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := s.hang(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res := &pb.RangeResponse{}
	if v, ok := s.pairs[string(req.GetKey())]; ok {
		res.Kvs = []*mvccpb.KeyValue{{Key: req.GetKey(), Value: v}}
	}
	return res, nil
}

// serve gives the address of s.
func (s *store) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.pairs = map[string][]byte{}
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	pb.RegisterKVServer(srv, s)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// files makes a directory with an empty file, a small one and one that no put
// can carry.
func files(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int64{"empty": 0, "small": 100, "large": maxValue + 1} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// An empty value is a legal put, and is found again; only what is too large is
// skipped.
func TestLoad(t *testing.T) {
	s := &store{}
	addr := s.serve(t)
	r := newRun(quiet(files(t)), nil)
	if err := r.load(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	if r.rep.Files != 2 || r.rep.Skipped != 1 || r.rep.BytesLoaded != 100 {
		t.Errorf("%+v", r.rep)
	}
	if v, there := s.pairs["empty"]; !there || len(v) > 0 || len(s.pairs) != 2 || len(s.pairs["small"]) != 100 {
		t.Errorf("pairs %v", s.pairs)
	}
	if lost, err := r.lostAt(t.Context(), "n1", addr); err != nil || len(lost) > 0 {
		t.Errorf("lost %v, %v", lost, err)
	}
	delete(s.pairs, "empty")
	if lost, err := r.lostAt(t.Context(), "n1", addr); err != nil || len(lost) != 1 || lost[0] != "empty" {
		t.Errorf("lost %v, %v", lost, err)
	}
}

// A node that hangs ends a call, not the demo's patience.
func TestCallsEnd(t *testing.T) {
	addr := (&store{hangs: true}).serve(t)
	cfg := quiet(files(t))
	cfg.Patience = 20 * time.Millisecond
	r := newRun(cfg, nil)
	if err := r.load(t.Context(), addr); !fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "load ") {
		t.Errorf("load: %v", err)
	}
	if _, err := r.lostAt(t.Context(), "n1", addr); !fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "n1") {
		t.Errorf("read back: %v", err)
	}
}

// A writer outlives a moment without any member.
func TestWriteWithoutMembers(t *testing.T) {
	s := &store{}
	addr := s.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	w := newWriters(newLedger(), func() []string {
		switch asked++; asked {
		case 1:
			return nil
		case 3:
			cancel()
		}
		return []string{addr}
	})
	if err := w.write(ctx, 0); err != nil || w.count() != 1 {
		t.Errorf("%d writes, %v", w.count(), err)
	}
}

// A demo ends with its context, whatever a node does, with the reason as its
// error and without a process or a file left behind.
func TestRunEndsWithItsContext(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "hangs")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	passed := fault.Newf(fault.Timeout, "", "too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, passed)
	defer cancel()
	cfg := quiet(files(t))
	cfg.Binary = binary
	rep, err := Run(ctx, cfg)
	if !fault.Is(err, fault.Timeout) || err.Error() != "too late" {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	text, err := json.Marshal(rep)
	for _, field := range []string{"joins", "keys_lost", "verified"} {
		if err != nil || !strings.Contains(string(text), `"`+field+`":[]`) {
			t.Errorf("%s is not [] in %s, %v", field, text, err)
		}
	}
}

// A process that does not stop is killed when the context ends.
func TestStopEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "deaf")
	script := "#!/bin/sh\ntrap '' TERM\necho ready client=c peer=p id=1\nexec sleep 600\n"
	if err := os.WriteFile(binary, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	c := cluster.New(binary, dir)
	if _, err := c.Start(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.StopAll(ctx); !fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "n1 did not stop") {
		t.Errorf("%v", err)
	}
	if c.Nodes()[0].Running() {
		t.Error("it runs")
	}
	if err := errors.Join(c.StopAll(t.Context()), c.KillAll()); err != nil {
		t.Errorf("what has ended already: %v", err)
	}
}
