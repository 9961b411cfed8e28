package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/node/etcdapi"
)

func (s *server) put(key, value string) int64 {
	s.t.Helper()
	resp, err := s.cli.Put(ctx(s.t), key, value)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.GetRevision()
}

// rawWatch is a stream without etcd's client around it.
func (s *server) rawWatch(t *testing.T) pb.Watch_WatchClient {
	t.Helper()
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func sendCreate(t *testing.T, stream pb.Watch_WatchClient, r *pb.WatchCreateRequest) {
	t.Helper()
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, stream pb.Watch_WatchClient) *pb.WatchResponse {
	t.Helper()
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What is asked wrongly is told with etcd's words, and the stream goes on.
func TestWatchRefusals(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	s.put("k", "v")
	stream := s.rawWatch(t)
	for _, c := range []struct {
		name   string
		req    *pb.WatchCreateRequest
		reason string
	}{
		{"created", &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 7}, ""},
		{"same ID", &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 7}, "mvcc: duplicate watch ID provided on the WatchStream"},
		{"empty range", &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("k")}, "mvcc: watcher range is empty"},
		{"range that ends before it begins", &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("a")}, "mvcc: watcher range is empty"},
		{"before all time", &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: -1}, "etcdserver: mvcc: required revision has been compacted"},
	} {
		sendCreate(t, stream, c.req)
		want := &pb.WatchResponse{Header: s.Header(), WatchId: 7, Created: true}
		if c.reason != "" {
			want.WatchId, want.Canceled, want.CancelReason = -1, true, c.reason
		}
		if got := receive(t, stream); !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
	// An ID that nobody gives is chosen, past those that are taken.
	for _, want := range []int64{0, 1, 2} {
		sendCreate(t, stream, &pb.WatchCreateRequest{Key: []byte("k")})
		if got := receive(t, stream); got.WatchId != want || !got.Created || got.Canceled {
			t.Errorf("chosen ID: %v, want %d", got, want)
		}
	}
	cancel := func(id int64) {
		t.Helper()
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}); err != nil {
			t.Fatal(err)
		}
	}
	cancel(99) // nobody answers
	cancel(7)
	if got, want := receive(t, stream), (&pb.WatchResponse{Header: s.Header(), WatchId: 7, Canceled: true}); !proto.Equal(got, want) {
		t.Errorf("cancelled: %v, want %v", got, want)
	}
	sendCreate(t, stream, &pb.WatchCreateRequest{Key: []byte("k"), WatchId: 7})
	if got := receive(t, stream); got.WatchId != 7 || got.Canceled {
		t.Errorf("an ID used again: %v", got)
	}
}

func eventText(evs []*clientv3.Event) string {
	var out []string
	for _, ev := range evs {
		text := fmt.Sprintf("%s %s=%s@%d", ev.Type, ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision)
		if ev.PrevKv != nil {
			text += fmt.Sprintf(" was %s@%d", ev.PrevKv.Value, ev.PrevKv.ModRevision)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// collect reads n events of a watch, which ends then.
func collect(t *testing.T, n int, open func(ctx context.Context) clientv3.WatchChan) string {
	t.Helper()
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	var evs []*clientv3.Event
	for resp := range open(c) {
		if resp.Err() != nil {
			t.Fatal(resp.Err())
		}
		if evs = append(evs, resp.Events...); len(evs) >= n {
			return eventText(evs)
		}
	}
	t.Fatalf("ended after %s", eventText(evs))
	return ""
}

// TestWatchWithEtcdsClient watches what has been and what comes.
func TestWatchWithEtcdsClient(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	first := s.put("a/1", "one")
	s.put("a/1", "two")
	if _, err := s.cli.Txn(ctx(t)).Then(clientv3.OpPut("a/2", "x"), clientv3.OpPut("b", "y"), clientv3.OpDelete("a/1")).Commit(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		key  string
		opts []clientv3.OpOption
		n    int
		want string
	}{
		{"key", "a/1", nil, 3, "PUT a/1=one@2, PUT a/1=two@3, DELETE a/1=@4"},
		{"previous", "a/1", []clientv3.OpOption{clientv3.WithPrevKV()}, 3, "PUT a/1=one@2, PUT a/1=two@3 was one@2, DELETE a/1=@4 was two@3"},
		{"prefix", "a/", []clientv3.OpOption{clientv3.WithPrefix()}, 4, "PUT a/1=one@2, PUT a/1=two@3, PUT a/2=x@4, DELETE a/1=@4"},
		{"from key", "a/2", []clientv3.OpOption{clientv3.WithFromKey()}, 2, "PUT a/2=x@4, PUT b=y@4"},
		{"everything", "", []clientv3.OpOption{clientv3.WithPrefix()}, 5, "PUT a/1=one@2, PUT a/1=two@3, PUT a/2=x@4, PUT b=y@4, DELETE a/1=@4"},
		{"no puts", "a/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithFilterPut()}, 1, "DELETE a/1=@4"},
		{"no deletes", "a/1", []clientv3.OpOption{clientv3.WithFilterDelete()}, 2, "PUT a/1=one@2, PUT a/1=two@3"},
	} {
		got := collect(t, c.n, func(ctx context.Context) clientv3.WatchChan {
			return s.cli.Watch(ctx, c.key, append(c.opts, clientv3.WithRev(first))...)
		})
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	now := s.cli.Watch(clientv3.WithRequireLeader(ctx(t)), "a/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	later := s.cli.Watch(ctx(t), "a/", clientv3.WithPrefix(), clientv3.WithRev(6))
	if resp := <-now; !resp.Created || resp.Header.GetRevision() != 4 {
		t.Errorf("created: %v", resp)
	}
	s.put("a/5", "five")
	s.put("a/6", "six")
	got := ""
	for !strings.Contains(got, "six") {
		got += eventText((<-now).Events) + "; "
	}
	if want := "PUT a/5=five@5; PUT a/6=six@6; "; got != want && got != "PUT a/5=five@5, PUT a/6=six@6; " {
		t.Errorf("from now on: %s", got)
	}
	if got := eventText((<-later).Events); got != "PUT a/6=six@6" {
		t.Errorf("from the future on: %s", got)
	}
	if _, err := s.cli.Compact(ctx(t), 4); err != nil {
		t.Fatal(err)
	}
	resp := <-s.cli.Watch(ctx(t), "a/1", clientv3.WithRev(3))
	if !errors.Is(resp.Err(), rpctypes.ErrCompacted) || resp.CompactRevision != 4 {
		t.Errorf("compacted: %v", resp)
	}
	if got := collect(t, 1, func(ctx context.Context) clientv3.WatchChan { return s.cli.Watch(ctx, "a/2", clientv3.WithRev(4)) }); got != "PUT a/2=x@4" {
		t.Errorf("from the compact revision on: %s", got)
	}
}

// The keys of a lease that ends are deleted like others.
func TestWatchOfLeasedKeys(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	lease, err := s.cli.Grant(ctx(t), 600)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"a", "b"} {
		if _, err := s.cli.Put(ctx(t), k, "v", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.cli.Revoke(ctx(t), lease.ID); err != nil {
		t.Fatal(err)
	}
	got := collect(t, 2, func(ctx context.Context) clientv3.WatchChan {
		return s.cli.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithFilterPut(), clientv3.WithPrevKV())
	})
	if got != "DELETE a=@4 was v@2, DELETE b=@4 was v@3" {
		t.Error(got)
	}
}

// Progress is told to quiet watches that ask for it, and to all on request.
func TestWatchProgress(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	notified := s.cli.Watch(ctx(t), "quiet", clientv3.WithProgressNotify())
	rev := s.put("other", "v")
	for {
		resp := <-notified
		if !resp.IsProgressNotify() {
			t.Fatalf("%v", resp)
		}
		if resp.Header.GetRevision() == rev {
			break
		}
	}
	// Another client's stream: those of one share it, notifications included.
	c := ctx(t)
	asked := s.cli.Watch(clientv3.WithRequireLeader(c), "quiet", clientv3.WithCreatedNotify())
	<-asked
	rev = s.put("other", "w")
	if err := s.cli.RequestProgress(clientv3.WithRequireLeader(c)); err != nil {
		t.Fatal(err)
	}
	if resp := <-asked; !resp.IsProgressNotify() || resp.Header.GetRevision() != rev {
		t.Errorf("asked at %d: %v", rev, resp)
	}
}

// A response is split for who allows it, and for nobody else.
func TestWatchFragments(t *testing.T) {
	s := serve(t, etcdapi.Options{MaxRequestBytes: 64 << 10}, nil) // and 512 KiB around it
	var ops []clientv3.Op
	for i := range 12 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("k%02d", i), ""))
	}
	if _, err := s.cli.Txn(ctx(t)).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		s.put(fmt.Sprintf("k%02d", i), strings.Repeat("v", 60<<10))
	}
	del, err := s.cli.Delete(ctx(t), "k", clientv3.WithPrefix()) // 12 previous values in one revision
	if err != nil {
		t.Fatal(err)
	}
	for _, fragment := range []bool{true, false} {
		stream := s.rawWatch(t)
		sendCreate(t, stream, &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: del.Header.GetRevision(),
			PrevKv: true, Fragment: fragment})
		receive(t, stream)
		var evs []*mvccpb.Event
		pieces := 0
		for more := true; more; pieces++ {
			resp := receive(t, stream)
			if size := proto.Size(resp); fragment && size > 576<<10 {
				t.Errorf("a fragment of %d bytes", size)
			}
			evs = append(evs, resp.Events...)
			more = resp.Fragment
		}
		if len(evs) != 12 || !slices.IsSortedFunc(evs, func(a, b *mvccpb.Event) int { return strings.Compare(string(a.Kv.Key), string(b.Kv.Key)) }) {
			t.Errorf("fragment=%t: %d events", fragment, len(evs))
		}
		if want := map[bool]int{true: 2, false: 1}[fragment]; pieces != want {
			t.Errorf("fragment=%t: %d pieces, want %d", fragment, pieces, want)
		}
	}
}

// A stream that requires a leader ends without one, another one does not; a
// learner serves none.
func TestWatchNeedsALeader(t *testing.T) {
	s := serve(t, etcdapi.Options{Election: 10 * time.Millisecond}, nil)
	requires := s.cli.Watch(clientv3.WithRequireLeader(ctx(t)), "k", clientv3.WithCreatedNotify())
	without := s.cli.Watch(ctx(t), "k", clientv3.WithCreatedNotify())
	<-requires
	<-without
	s.leader.Store(0)
	if resp := <-requires; !errors.Is(resp.Err(), rpctypes.ErrNoLeader) {
		t.Errorf("with the leader lost: %v", resp.Err())
	}
	if resp := <-s.cli.Watch(clientv3.WithRequireLeader(ctx(t)), "k"); !errors.Is(resp.Err(), rpctypes.ErrNoLeader) {
		t.Errorf("begun without a leader: %v", resp.Err())
	}
	s.leader.Store(selfID)
	rev := s.put("k", "v")
	if resp := <-without; resp.Header.GetRevision() != rev || len(resp.Events) != 1 {
		t.Errorf("the watch that needs no leader: %v", resp)
	}
	s.learner.Store(true)
	stream := s.rawWatch(t)
	if _, err := stream.Recv(); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Errorf("at a learner: %v", err)
	}
}

// A client that has said its last word goes on hearing; one that goes away is
// told so.
func TestWatchEnds(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	stream := s.rawWatch(t)
	sendCreate(t, stream, &pb.WatchCreateRequest{Key: []byte("k")})
	receive(t, stream)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	rev := s.put("k", "v")
	if resp := receive(t, stream); resp.Header.GetRevision() != rev {
		t.Errorf("after the client's last word: %v", resp)
	}
	s.grpc.Stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("the server has stopped: %v", err)
	}
}
