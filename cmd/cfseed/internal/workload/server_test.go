package workload

import (
	"context"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a store that keeps the last value of each key, and how often it
// was put.
type recorder struct {
	pb.UnimplementedKVServer
	mu     sync.Mutex
	values map[string]string
	puts   map[string]int
	widest int // puts in one transaction
}

func (r *recorder) put(req *pb.PutRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values[string(req.GetKey())] = string(req.GetValue())
	r.puts[string(req.GetKey())]++
}

func (r *recorder) Put(_ context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	r.put(req)
	return &pb.PutResponse{}, nil
}

func (r *recorder) Txn(_ context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	for _, op := range req.GetSuccess() {
		r.put(op.GetRequestPut())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.widest = max(r.widest, len(req.GetSuccess()))
	return &pb.TxnResponse{}, nil
}

// serve starts a recorder; it ends with the test.
func serve(t *testing.T) (*recorder, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{values: map[string]string{}, puts: map[string]int{}}
	s := grpc.NewServer()
	pb.RegisterKVServer(s, r)
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	return r, "http://" + l.Addr().String()
}

// What is loaded is every key once; what changes is the keys asked for, and no
// other.
func TestFillAndChange(t *testing.T) {
	const count = 2*batchPuts + 7
	r, client := serve(t)
	if err := Fill(t.Context(), client, 1, count, 256); err != nil {
		t.Fatal(err)
	}
	if len(r.puts) != count || r.widest > 128 {
		t.Fatalf("%d keys, %d puts in one transaction", len(r.puts), r.widest)
	}
	for n := range uint64(count) {
		if r.puts[keyOf(n)] != 1 || len(r.values[keyOf(n)]) != 256 {
			t.Fatalf("key %d was put %d times", n, r.puts[keyOf(n)])
		}
	}
	before := maps.Clone(r.values)
	wanted := map[string]bool{}
	var numbers []int
	for n := 3; n < count; n += 2 {
		numbers = append(numbers, n)
		wanted[keyOf(uint64(n))] = true
	}
	if err := Change(t.Context(), client, 2, numbers, 256); err != nil {
		t.Fatal(err)
	}
	for key, value := range r.values {
		if changed := before[key] != value; changed != wanted[key] {
			t.Errorf("key %s: changed %t, wanted %t", key, changed, wanted[key])
		}
	}
}

func TestMost(t *testing.T) {
	r, client := serve(t)
	most, err := Most(t.Context(), client, 4, Puts{ValueSize: 256, Seed: 1}, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var puts int
	for _, n := range r.puts {
		puts += n
	}
	if most <= 0 || most > float64(puts)/0.05 {
		t.Errorf("%.0f puts a second, of %d in all", most, puts)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Fill(t.Context(), client, 1, 10, 256); !fault.Is(err, fault.Internal) {
		t.Errorf("%v", err)
	}
	if _, err := Most(t.Context(), client, 1, Puts{ValueSize: 256}, time.Second); err == nil {
		t.Error("puts were answered by nobody")
	}
}
