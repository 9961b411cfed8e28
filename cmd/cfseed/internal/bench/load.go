package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

const (
	// loaders are transactions under way at a time while a cell is loaded.
	loaders = 8
	// putPatience bounds one put of the load, and so the wait for a window.
	putPatience = 10 * time.Second
	// loadKeys are the keys that the load writes over and over.
	loadKeys = 10000
)

// fill puts count values of the generator into the member at client.
func fill(ctx context.Context, client string, seed uint64, count, valueSize int) error {
	conn, err := netsec.Dial(client, netsec.Files{})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every transaction was answered
	kv := pb.NewKVClient(conn)
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range loaders {
		g.Go(func() error {
			for {
				number := int(next.Add(1)) - 1
				n := min(batchPuts, count-number*batchPuts)
				if n <= 0 {
					return nil
				}
				if _, err := kv.Txn(gctx, putAll(batch(seed, uint64(number), n, valueSize))); err != nil {
					return fault.New(fault.Internal, "load", err)
				}
			}
		})
	}
	return g.Wait()
}

func putAll(pairs []pair) *pb.TxnRequest {
	req := &pb.TxnRequest{Success: make([]*pb.RequestOp, len(pairs))}
	for i, p := range pairs {
		req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(p.key), Value: p.value}}}
	}
	return req
}

// load offers puts at a constant rate, whether earlier ones were answered or
// not: a put that waits does not keep those after it from being due.
type load struct {
	kv    pb.KVClient
	every time.Duration
	size  int
	seed  uint64

	mu   sync.Mutex
	puts []*offered
}

// offered is one put. took is 0 until it is answered.
type offered struct {
	due    time.Time
	took   time.Duration
	failed bool
}

// offer starts the load; stop ends it and waits for its puts.
func offer(ctx context.Context, client string, rate, size int, seed uint64) (l *load, stop func() error, err error) {
	conn, err := netsec.Dial(client, netsec.Files{})
	if err != nil {
		return nil, nil, err
	}
	l = &load{kv: pb.NewKVClient(conn), every: time.Second / time.Duration(rate), size: size, seed: seed}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.pace(ctx, &wg) })
	return l, func() error {
		cancel()
		wg.Wait()
		return conn.Close()
	}, nil
}

// pace offers each put when it is due; its own goroutine.
func (l *load) pace(ctx context.Context, wg *sync.WaitGroup) {
	start := time.Now()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * l.every)
		if pause(ctx, time.Until(due)) != nil {
			return
		}
		p := &offered{due: due}
		l.mu.Lock()
		l.puts = append(l.puts, p)
		l.mu.Unlock()
		wg.Go(func() { l.put(ctx, p, n) })
	}
}

func (l *load) put(ctx context.Context, p *offered, n int) {
	ctx, cancel := context.WithTimeout(ctx, putPatience)
	defer cancel()
	one := batch(l.seed, uint64(n), 1, l.size)[0]
	_, err := l.kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "load/%06d", n%loadKeys), Value: one.value})
	l.mu.Lock()
	defer l.mu.Unlock()
	p.took, p.failed = max(time.Since(p.due), 1), err != nil
}

// window gives the latency of the puts that were due in a span of time, once
// all of them were answered.
func (l *load) window(ctx context.Context, from, to time.Time) (Latency, error) {
	for {
		puts, failed, pending := l.between(from, to)
		if pending == 0 {
			return latencyOf(puts, failed), nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return Latency{}, err
		}
	}
}

func (l *load) between(from, to time.Time) (puts []put, failed, pending int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.puts {
		if p.due.Before(from) || !p.due.Before(to) {
			continue
		}
		switch {
		case p.took == 0:
			pending++
		case p.failed:
			failed++
			fallthrough
		default:
			puts = append(puts, put{p.due.Sub(from), p.took})
		}
	}
	return puts, failed, pending
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
