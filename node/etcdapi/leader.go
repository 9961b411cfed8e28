package etcdapi

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// leaderlessElections is how many election timeouts a stream that requires a
// leader lives without one; etcd's number. To begin such a stream anew costs
// more than to refuse a call.
const leaderlessElections = 3

// streams are the streams being served and the goroutines that belong to them.
type streams struct {
	mu      sync.Mutex
	led     map[*ledStream]bool // those that require a leader
	closing bool
	wg      sync.WaitGroup
}

// ledStream is a stream that ends when there is no leader.
type ledStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (l *ledStream) Context() context.Context { return l.ctx }

// start runs fn beside a stream's handler, unless the server is stopping.
func (s *streams) start(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Go(fn)
	return true
}

// serve runs the handler of a stream; of one that requires a leader the end is
// told as etcd tells it.
func (s *streams) serve(srv any, ss grpc.ServerStream, next grpc.StreamHandler) error {
	if !requiresLeader(ss.Context()) {
		return next(srv, ss)
	}
	l := &ledStream{ServerStream: ss}
	l.ctx, l.cancel = context.WithCancelCause(ss.Context())
	defer l.cancel(nil)
	s.mu.Lock()
	s.led[l] = true
	s.mu.Unlock()
	err := next(srv, l)
	s.mu.Lock()
	delete(s.led, l)
	s.mu.Unlock()
	if cause := context.Cause(l.ctx); cause == rpctypes.ErrGRPCNoLeader {
		return cause
	}
	return err
}

func (s *streams) endLed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.led {
		l.cancel(rpctypes.ErrGRPCNoLeader)
	}
}

func requiresLeader(ctx context.Context) bool {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return false
	}
	v := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// Run ends streams that require a leader when there has been none for a while.
// After ctx has ended it waits for what belongs to streams, whose server must
// be stopped meanwhile.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.opts.Election)
	defer ticker.Stop()
	for without := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			continue
		case <-ticker.C:
		}
		if leader, _ := s.backend.Role(); leader != 0 {
			without = 0
			continue
		}
		if without++; without >= leaderlessElections {
			s.streams.endLed()
		}
	}
	s.streams.mu.Lock()
	s.streams.closing = true
	s.streams.mu.Unlock()
	s.streams.wg.Wait()
	return nil
}
