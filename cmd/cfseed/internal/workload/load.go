// Package workload is what the benchmarks put into a cluster: records that are
// the same for the same seed, loaded as fast as they are taken, and puts offered
// at a constant rate, whose latency is kept. It speaks etcd's API.
package workload

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

const (
	// loaders are transactions under way at a time while a member is loaded.
	loaders = 8
	// putPatience bounds one put of the load, and so the wait for a window.
	putPatience = 10 * time.Second
	// loadKeys are the keys that the load writes over and over.
	loadKeys = 10000
)

// Fill puts count values of the generator into the member at client.
func Fill(ctx context.Context, client string, seed uint64, count, valueSize int) error {
	return write(ctx, client, (count+batchPuts-1)/batchPuts, func(number int) []pair {
		return batch(seed, uint64(number), min(batchPuts, count-number*batchPuts), valueSize)
	})
}

// Change gives the values of some of the keys that Fill has put, by their
// numbers, other content. No number stands twice.
func Change(ctx context.Context, client string, seed uint64, numbers []int, valueSize int) error {
	return write(ctx, client, (len(numbers)+batchPuts-1)/batchPuts, func(number int) []pair {
		from := number * batchPuts
		part := numbers[from:min(from+batchPuts, len(numbers))]
		out := batch(seed, uint64(number), len(part), valueSize)
		for i, n := range part {
			out[i].key = keyOf(uint64(n))
		}
		return out
	})
}

// write puts batches, each in one transaction, several at a time.
func write(ctx context.Context, client string, batches int, of func(number int) []pair) error {
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
				if number >= batches {
					return nil
				}
				if _, err := kv.Txn(gctx, putAll(of(number))); err != nil {
					return fault.New(fault.Internal, "load", err)
				}
			}
		})
	}
	return g.Wait()
}

// Most is how many puts a second a member takes from so many clients, each of
// which waits for an answer before it puts again, over a span of time.
func Most(ctx context.Context, client string, clients int, puts Puts, span time.Duration) (perSecond float64, err error) {
	conn, err := netsec.Dial(client, netsec.Files{})
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // every put was answered
	kv := pb.NewKVClient(conn)
	var next, done atomic.Int64
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			for time.Since(began) < span {
				if _, err := kv.Put(gctx, puts.request(int(next.Add(1)))); err != nil {
					return fault.New(fault.Internal, "load", err)
				}
				done.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), err
}

func putAll(pairs []pair) *pb.TxnRequest {
	req := &pb.TxnRequest{Success: make([]*pb.RequestOp, len(pairs))}
	for i, p := range pairs {
		req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(p.key), Value: p.value}}}
	}
	return req
}

// Puts says what is offered.
type Puts struct {
	Rate      int // a second
	ValueSize int // bytes
	Seed      uint64
}

// request is the n-th put: a few keys are written over and over.
func (p Puts) request(n int) *pb.PutRequest {
	one := batch(p.Seed, uint64(n), 1, p.ValueSize)[0]
	return &pb.PutRequest{Key: fmt.Appendf(nil, "load/%06d", n%loadKeys), Value: one.value}
}

// Load offers puts at a constant rate, whether earlier ones were answered or
// not: a put that waits does not keep those after it from being due.
type Load struct {
	kv    pb.KVClient
	every time.Duration
	what  Puts

	mu   sync.Mutex
	puts []*offered
}

// offered is one put. took is 0 until it is answered.
type offered struct {
	due    time.Time
	took   time.Duration
	failed bool
}

// Offer starts the load; stop ends it and waits for its puts.
func Offer(ctx context.Context, client string, puts Puts) (l *Load, stop func() error, err error) {
	conn, err := netsec.Dial(client, netsec.Files{})
	if err != nil {
		return nil, nil, err
	}
	l = &Load{kv: pb.NewKVClient(conn), every: time.Second / time.Duration(puts.Rate), what: puts}
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
func (l *Load) pace(ctx context.Context, wg *sync.WaitGroup) {
	start := time.Now()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * l.every)
		if Pause(ctx, time.Until(due)) != nil {
			return
		}
		p := &offered{due: due}
		l.mu.Lock()
		l.puts = append(l.puts, p)
		l.mu.Unlock()
		wg.Go(func() { l.put(ctx, p, n) })
	}
}

func (l *Load) put(ctx context.Context, p *offered, n int) {
	ctx, cancel := context.WithTimeout(ctx, putPatience)
	defer cancel()
	_, err := l.kv.Put(ctx, l.what.request(n))
	l.mu.Lock()
	defer l.mu.Unlock()
	p.took, p.failed = max(time.Since(p.due), 1), err != nil
}

// Window gives the latency of the puts that were due in a span of time, once
// all of them were answered.
func (l *Load) Window(ctx context.Context, from, to time.Time) (measure.Latency, error) {
	for {
		puts, failed, pending := l.between(from, to)
		if pending == 0 {
			return measure.LatencyOf(puts, failed), nil
		}
		if err := Pause(ctx, 10*time.Millisecond); err != nil {
			return measure.Latency{}, err
		}
	}
}

func (l *Load) between(from, to time.Time) (puts []measure.Put, failed, pending int) {
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
			puts = append(puts, measure.Put{At: p.due.Sub(from), Took: p.took})
		}
	}
	return puts, failed, pending
}

// Pause waits for a time, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
