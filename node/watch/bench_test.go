package watch

import (
	"context"
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// benchmark feeds watches, one a stream, each with its reader, from a machine
// that is written to; an operation is one write, events are what is read.
func benchmark(b *testing.B, watches int, keyOf func(i int) string, writes func(i int) string, eventsEach int) {
	m := newMachine(b)
	defer m.close(b)
	h := New(m, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var hub, readers sync.WaitGroup
	hub.Go(func() {
		if err := h.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	done := make(chan int, watches)
	for i := range watches {
		s := h.Open()
		ask(b, s, &pb.WatchCreateRequest{Key: []byte(keyOf(i))})
		readers.Go(func() {
			defer s.Close()
			for {
				resp, _, err := s.Next(ctx)
				if err != nil {
					return
				}
				if n := len(resp.GetEvents()); n > 0 {
					done <- n
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range b.N {
			if err := m.apply(b, envelope.Put, &pb.PutRequest{Key: []byte(writes(i)), Value: []byte("a value of some length")}); err != nil {
				b.Error(err)
			}
			h.Applied()
		}
	})
	for left := b.N * eventsEach; left > 0; {
		left -= <-done
	}
	writer.Wait()
	b.StopTimer()
	if eventsEach > 0 {
		b.ReportMetric(float64(b.N*eventsEach)/b.Elapsed().Seconds(), "events/s")
	}
	cancel()
	readers.Wait()
	hub.Wait()
}

// Each write concerns one of the watches.
func BenchmarkDistinctKeys(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("watches=%d", n), func(b *testing.B) {
			key := func(i int) string { return fmt.Sprintf("key/%05d", i*7919%n) }
			benchmark(b, n, key, key, 1)
		})
	}
}

// Each write concerns all of the watches.
func BenchmarkOneKey(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("watches=%d", n), func(b *testing.B) {
			key := func(int) string { return "key" }
			benchmark(b, n, key, key, n)
		})
	}
}

// No write concerns any of the watches, or there is none: what applying pays.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("watches=%d", n), func(b *testing.B) {
			benchmark(b, n, func(i int) string { return fmt.Sprintf("watched/%05d", i) }, func(i int) string { return fmt.Sprintf("key/%05d", i%10_000) }, 0)
		})
	}
}
