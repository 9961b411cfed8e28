//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// answerPatience bounds one answer, or the wait for a watch's events.
const answerPatience = 20 * time.Second

// side is one of the two servers, through etcd's client: its stubs with its
// retries, since clientv3's own methods can not say all that the API can.
type side struct {
	name    string
	client  *clientv3.Client
	kv      pb.KVClient
	lease   pb.LeaseClient
	watcher clientv3.Watcher
	// falsify changes an answer, to see whether that is found; nil: it does not.
	falsify func(req, resp proto.Message)
}

func newSide(t *testing.T, name, endpoint string) *side {
	t.Helper()
	// Requests above the servers' limits must reach them.
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		MaxCallSendMsgSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // ends with "context canceled" by design
	return &side{name: name, client: client, kv: clientv3.RetryKVClient(client), lease: clientv3.RetryLeaseClient(client),
		watcher: clientv3.NewWatcher(client)}
}

// ask sends a request that was resolved.
func (s *side) ask(req proto.Message, stream bool) (a reply) {
	ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
	defer cancel()
	switch q := req.(type) {
	case *pb.RangeRequest:
		if stream {
			a = s.pieces(ctx, q)
			break
		}
		a = answered(s.kv.Range(ctx, q))
	case *pb.PutRequest:
		a = answered(s.kv.Put(ctx, q))
	case *pb.DeleteRangeRequest:
		a = answered(s.kv.DeleteRange(ctx, q))
	case *pb.TxnRequest:
		a = answered(s.kv.Txn(ctx, q))
	case *pb.CompactionRequest:
		a = answered(s.kv.Compact(ctx, q))
	case *pb.LeaseGrantRequest:
		a = answered(s.lease.LeaseGrant(ctx, q))
	case *pb.LeaseRevokeRequest:
		a = answered(s.lease.LeaseRevoke(ctx, q))
	case *pb.LeaseTimeToLiveRequest:
		a = answered(s.lease.LeaseTimeToLive(ctx, q))
	case *pb.LeaseLeasesRequest:
		a = answered(s.lease.LeaseLeases(ctx, q))
	case *pb.LeaseKeepAliveRequest:
		a = s.keepAlive(ctx, q)
	default:
		return reply{err: fmt.Errorf("nobody sends a %T", req)}
	}
	if s.falsify != nil && a.err == nil {
		s.falsify(req, a.resp)
	}
	return a
}

func answered[M proto.Message](resp M, err error) reply {
	if err != nil {
		return reply{err: err}
	}
	return reply{resp: resp}
}

// keepAlive renews a lease once, over a stream of its own.
func (s *side) keepAlive(ctx context.Context, q *pb.LeaseKeepAliveRequest) reply {
	stream, err := s.lease.LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(q)
	}
	if err != nil {
		return reply{err: err}
	}
	a := answered(stream.Recv())
	return answered(a.resp, errors.Join(a.err, stream.CloseSend()))
}

// pieces is a range stream put together; how it is cut is the server's choice.
func (s *side) pieces(ctx context.Context, q *pb.RangeRequest) reply {
	stream, err := s.kv.RangeStream(ctx, q)
	if err != nil {
		return reply{err: err}
	}
	all := &pb.RangeResponse{}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return reply{resp: all}
		}
		if err != nil {
			return reply{err: err}
		}
		proto.Merge(all, piece.GetRangeResponse())
	}
}

// watching is a watch at one side.
type watching struct {
	side   *side
	ch     clientv3.WatchChan
	events []*mvccpb.Event
	end    string
}

// watch begins a watch and waits until the server has made it, or refused.
func (s *side) watch(ctx context.Context, spec watchSpec, start int64) (*watching, error) {
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithRev(start)}
	for set, opt := range map[*bool]clientv3.OpOption{&spec.NoPut: clientv3.WithFilterPut(), &spec.NoDelete: clientv3.WithFilterDelete(),
		&spec.PrevKV: clientv3.WithPrevKV(), &spec.Fragments: clientv3.WithFragment()} {
		if *set {
			opts = append(opts, opt)
		}
	}
	if spec.End != "" {
		opts = append(opts, clientv3.WithRange(spec.End))
	}
	w := &watching{side: s, ch: s.watcher.Watch(ctx, spec.Key, opts...)}
	return w, w.take()
}

// take waits for one response.
func (w *watching) take() error {
	timer := time.NewTimer(answerPatience)
	defer timer.Stop()
	select {
	case resp, open := <-w.ch:
		w.add(resp, open)
		return nil
	case <-timer.C:
		return fmt.Errorf("%s has sent nothing for %s", w.side.name, answerPatience)
	}
}

func (w *watching) add(resp clientv3.WatchResponse, open bool) {
	for _, ev := range resp.Events {
		w.events = append(w.events, &mvccpb.Event{Type: ev.Type, Kv: ev.Kv, PrevKv: ev.PrevKv})
	}
	if !open || resp.Canceled {
		w.end = fmt.Sprintf("ended, open %t, compacted %d, %v", open, resp.CompactRevision, resp.Err())
	}
}

// until waits until events have come up to a revision, or the watch has ended;
// revision 0 takes what is there.
func (w *watching) until(revision int64) error {
	for revision > 0 && w.end == "" {
		if n := len(w.events); n > 0 && w.events[n-1].GetKv().GetModRevision() >= revision {
			break
		}
		if err := w.take(); err != nil {
			return fmt.Errorf("events up to revision %d: %w", revision, err)
		}
	}
	for w.end == "" {
		select {
		case resp, open := <-w.ch:
			w.add(resp, open)
			continue
		default:
		}
		break
	}
	return nil
}

// heardUpTo is what was heard of revisions up to one.
func (w *watching) heardUpTo(revision int64) heard {
	n := len(w.events)
	for n > 0 && w.events[n-1].GetKv().GetModRevision() > revision {
		n--
	}
	return heard{events: w.events[:n], end: w.end}
}
