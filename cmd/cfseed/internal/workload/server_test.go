package workload

import (
	"context"
	"errors"
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

// TestMost: the search ends within a tenth of what is kept up with, and tries
// little more; errors end it.
func TestMost(t *testing.T) {
	for _, limit := range []int{0, 1, 499, 500, 777, 1234, 10270, 64000, 1 << 30} {
		tries := 0
		got, err := most(func(rate int) (bool, error) {
			tries++
			return rate <= limit, nil
		})
		want := min(limit, 64000) // no more is looked for
		if err != nil || got > want || float64(got) < 0.9*float64(want)-1 || tries > 15 {
			t.Errorf("%d for a limit of %d after %d tries, %v", got, limit, tries, err)
		}
	}
	broken := errors.New("broken")
	for _, failing := range []int{500, 1000, 750} {
		if _, err := most(func(rate int) (bool, error) {
			if rate == failing {
				return false, broken
			}
			return rate < 600, nil
		}); err != broken {
			t.Errorf("failing at %d: %v", failing, err)
		}
	}
}

// TestKeepsUp tries a server that answers and one that takes its time for each.
func TestKeepsUp(t *testing.T) {
	r, client := serve(t)
	puts := Puts{Rate: 100, ValueSize: 256, Seed: 1}
	if ok, err := keepsUp(t.Context(), client, puts, 300*time.Millisecond); !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	r.mu.Lock() // holds up all puts
	ok, err := keepsUp(t.Context(), client, puts, 300*time.Millisecond)
	r.mu.Unlock()
	if ok || err != nil {
		t.Errorf("with a server that stands still: %t, %v", ok, err)
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
	if _, err := Most(t.Context(), client, Puts{ValueSize: 256}, time.Second); err == nil {
		t.Error("puts were answered by nobody")
	}
}
