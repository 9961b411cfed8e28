package kvbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
)

// watched is the key that all watches of fanOut are of.
const watched = "watched"

// fanOut puts a key that a thousand watches watch, over a few streams, and waits
// for all events before it puts it again. Latencies are those of events, from
// the call of the put.
func fanOut(ctx context.Context, at place) (operation, func() error, error) {
	ctx, cancel := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(ctx)
	events := make(chan time.Time, watchers)
	made := make(chan struct{}, watchers)
	stop := func() error {
		cancel()
		_ = g.Wait() // they end with the context
		return nil
	}
	for i := range streams {
		stream, err := pb.NewWatchClient(at.conns[i%len(at.conns)]).Watch(gctx)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		for range watchers / streams {
			err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(watched)}}})
			if err != nil {
				return nil, nil, errors.Join(err, stop())
			}
		}
		g.Go(func() error { return hear(gctx, stream, made, events) })
	}
	for range watchers {
		select {
		case <-made:
		case <-gctx.Done():
			return nil, nil, errors.Join(fmt.Errorf("a watch was not made: %w", context.Cause(gctx)), stop())
		}
	}
	return func(ctx context.Context, client int, r *rand.Rand) (outcome, error) {
		began := time.Now()
		if _, err := at.kv(client).Put(ctx, &pb.PutRequest{Key: []byte(watched), Value: at.value(r)}); err != nil {
			return outcome{}, err
		}
		done := outcome{count: watchers}
		for range watchers {
			select {
			case came := <-events:
				done.took = append(done.took, came.Sub(began))
			case <-ctx.Done():
				return outcome{}, ctx.Err()
			}
		}
		return done, nil
	}, stop, nil
}

// hear passes on what a stream says until it ends.
func hear(ctx context.Context, stream pb.Watch_WatchClient, made chan<- struct{}, events chan<- time.Time) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		if resp.GetCreated() {
			made <- struct{}{}
		}
		for range resp.GetEvents() {
			select {
			case events <- now:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
