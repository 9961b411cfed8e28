//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	manyWatches  = 10000
	manyStreams  = 4
	manyPatience = 2 * time.Minute
	// manyWindow is what a stream takes ahead of its reader.
	manyWindow = 64 << 10
	// manyMemory bounds what the member may grow by.
	manyMemory = 128 << 20
)

// manyWatch is one of the watches and what it was told.
type manyWatch struct {
	key, end string // a key, or a range
	told     []string
	progress int64
	err      error
}

// newManyWatch is the watch of a number: of ten, seven have a key of their own, one
// shares a key with 49 others, one a prefix with 19, and one has a range of keys
// that others have.
func newManyWatch(i int) *manyWatch {
	prefixed := func(prefix string) *manyWatch {
		return &manyWatch{key: prefix, end: clientv3.GetPrefixRangeEnd(prefix)}
	}
	switch i % 10 {
	case 7:
		return &manyWatch{key: sharedKey(i / 10 % manyShared)}
	case 8:
		return prefixed(groupPrefix(i / 10 % manyGroups))
	case 9:
		return &manyWatch{key: ownKey(i - 9), end: ownKey(i + 11)}
	default:
		return &manyWatch{key: ownKey(i)}
	}
}

const manyShared, manyGroups = 20, 50

func ownKey(i int) string      { return fmt.Sprintf("key/%05d", i) }
func sharedKey(i int) string   { return fmt.Sprintf("shared/%02d", i) }
func groupPrefix(i int) string { return fmt.Sprintf("group/%02d/", i) }

// collect reads until the member says that all up to a revision was told.
func (w *manyWatch) collect(ch clientv3.WatchChan) {
	for resp := range ch {
		if w.err = resp.Err(); w.err != nil {
			return
		}
		if resp.IsProgressNotify() {
			w.progress = resp.Header.GetRevision()
			return
		}
		for _, ev := range resp.Events {
			w.told = append(w.told, eventOf((*clientv3.Event)(ev)))
		}
	}
}

// manyLog is every event there was, in order.
type manyLog struct {
	t      *testing.T
	client *clientv3.Client
	keys   []string
	events []string
	rev    int64
}

func (l *manyLog) add(kind, key, value string) {
	l.keys = append(l.keys, key)
	l.events = append(l.events, fmt.Sprintf("%s %s=%s@%d", kind, key, value, l.rev))
}

// put writes keys, all at one revision.
func (l *manyLog) put(value string, keys ...string) {
	l.t.Helper()
	ops := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = clientv3.OpPut(key, value)
	}
	res, err := l.client.Txn(l.t.Context()).Then(ops...).Commit()
	if err != nil {
		l.t.Fatal(err)
	}
	l.rev = res.Header.GetRevision()
	for _, key := range keys {
		l.add("PUT", key, value)
	}
}

func (l *manyLog) del(prefix string) {
	l.t.Helper()
	res, err := l.client.Delete(l.t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		l.t.Fatal(err)
	}
	l.rev = res.Header.GetRevision()
	for _, kv := range res.PrevKvs {
		l.add("DELETE", string(kv.Key), "")
	}
}

// write tells every watch something, some of them often.
func (l *manyLog) write() {
	l.t.Helper()
	var own []string
	for i := range manyWatches {
		if i%10 < 7 {
			own = append(own, ownKey(i))
		}
	}
	long := strings.Repeat("v", 100)
	for keys := range slices.Chunk(own, 100) {
		l.put("first "+long, keys...)
	}
	for round := range 3 {
		value := fmt.Sprint(round, " ", long)
		for i := range manyShared {
			l.put(value, sharedKey(i))
		}
		for i := range manyGroups {
			l.put(value, groupPrefix(i)+"a")
			l.put(value, groupPrefix(i)+"b")
		}
		for i := 0; i < len(own); i += 70 {
			l.put(value, own[i])
		}
	}
	l.del(groupPrefix(7))
	l.del("key/01")
	for keys := range slices.Chunk(own, 100) {
		l.put("last "+long, keys...)
	}
}

// of is the events that a watch must be told; at is where the log has a key.
func (l *manyLog) of(w *manyWatch, at map[string][]int) (want []string) {
	if w.end == "" {
		for _, i := range at[w.key] {
			want = append(want, l.events[i])
		}
		return want
	}
	for i, key := range l.keys {
		if w.key <= key && key < w.end {
			want = append(want, l.events[i])
		}
	}
	return want
}

func (l *manyLog) places() map[string][]int {
	at := map[string][]int{}
	for i, key := range l.keys {
		at[key] = append(at[key], i)
	}
	return at
}

// unread is a watch of everything by a client that does not read it.
type unread struct{ stream pb.Watch_WatchClient }

func newUnread(ctx context.Context, t *testing.T, conn *grpc.ClientConn) unread {
	t.Helper()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || !resp.GetCreated() {
		t.Fatalf("%v, %v", resp, err)
	}
	return unread{stream}
}

// read reads so many events.
func (u unread) read(t *testing.T, n int) (told []string, bytes int) {
	t.Helper()
	for len(told) < n {
		resp, err := u.stream.Recv()
		if err != nil || resp.GetCanceled() {
			t.Fatalf("after %d of %d events: %v, %v", len(told), n, resp, err)
		}
		for _, ev := range resp.GetEvents() {
			told = append(told, eventOf((*clientv3.Event)(ev)))
			bytes += len(ev.GetKv().GetKey()) + len(ev.GetKv().GetValue())
		}
	}
	return told, bytes
}

// TestManyWatches has 10,000 watches at one member over a few streams: each is
// told the events of its own, all of them, in order, and no other, while a client
// on the same connection does not read what it has asked for.
func TestManyWatches(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	n := c.Start("n1")
	ctx, cancel := context.WithTimeout(t.Context(), manyPatience)
	defer cancel()
	clients := manyClients(t, n)
	before := n.Metric("process_resident_memory_bytes")
	idle := newUnread(ctx, t, clients[0].ActiveConnection())
	watches := make([]*manyWatch, manyWatches)
	var created, told sync.WaitGroup
	for s, client := range clients {
		created.Go(func() {
			for i := s; i < manyWatches; i += manyStreams {
				w := newManyWatch(i)
				watches[i] = w
				var opts []clientv3.OpOption
				if w.end != "" {
					opts = append(opts, clientv3.WithRange(w.end))
				}
				ch := client.Watch(ctx, w.key, opts...)
				told.Go(func() { w.collect(ch) })
			}
		})
	}
	created.Wait()
	began := n.Metric("process_resident_memory_bytes")

	log := &manyLog{t: t, client: n.client()}
	log.write()
	for _, client := range clients {
		if err := client.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
	}
	told.Wait()
	after := n.Metric("process_resident_memory_bytes")
	wrong, events := log.check(watches)
	if len(wrong) > 0 {
		t.Errorf("%d of %d watches are wrong, such as\n%s", len(wrong), len(watches), strings.Join(wrong[:min(5, len(wrong))], "\n"))
	}
	all, bytes := idle.read(t, len(log.events))
	if !slices.Equal(all, log.events) || bytes < 10*manyWindow {
		t.Errorf("who did not read was told %d events, %d bytes; there are %d", len(all), bytes, len(log.events))
	}
	t.Logf("resident: %.0f MB before, %.0f MB with %d watches, %.0f MB after %d events of %d writes", before/1e6, began/1e6, manyWatches, after/1e6, events,
		len(log.events))
	if after-before > manyMemory {
		t.Errorf("the member grew by %.0f MB", (after-before)/1e6)
	}
}

func manyClients(t *testing.T, n *Node) (clients []*clientv3.Client) {
	t.Helper()
	for range manyStreams {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{n.Client}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithStaticStreamWindowSize(manyWindow)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() }) // ends with "context canceled" by design
		clients = append(clients, client)
	}
	return clients
}

// check tells which watches were told something else than the log has for them.
func (l *manyLog) check(watches []*manyWatch) (wrong []string, events int) {
	at := l.places()
	for i, w := range watches {
		want := l.of(w, at)
		events += len(want)
		if w.err != nil || w.progress < l.rev || len(want) == 0 || !slices.Equal(w.told, want) {
			wrong = append(wrong, fmt.Sprintf("watch %d of %q to %q: %v, told of progress to %d of %d, and of\n%s\nwant\n%s", i, w.key, w.end, w.err,
				w.progress, l.rev, strings.Join(w.told, "\n"), strings.Join(want, "\n")))
		}
	}
	return wrong, events
}

// TestManyWatchesSeesWrong: what is lost, told twice, out of order, another's or
// not finished is found.
func TestManyWatchesSeesWrong(t *testing.T) {
	t.Parallel()
	l := &manyLog{t: t}
	for i, key := range []string{ownKey(0), sharedKey(0), ownKey(1), ownKey(0)} {
		l.rev = int64(i + 2)
		l.add("PUT", key, "x")
	}
	events := []string{l.events[0], l.events[2], l.events[3]}
	for _, tc := range []struct {
		name     string
		told     []string
		progress int64
		right    bool
	}{
		{"right", events, 5, true},
		{"more progress", events, 6, true},
		{"one lost", events[:2], 5, false},
		{"none told", nil, 5, false},
		{"one twice", []string{events[0], events[1], events[1], events[2]}, 5, false},
		{"out of order", []string{events[1], events[0], events[2]}, 5, false},
		{"another's", l.events, 5, false},
		{"not finished", events, 4, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newManyWatch(9)
			w.told, w.progress = tc.told, tc.progress
			if wrong, n := l.check([]*manyWatch{w}); (len(wrong) == 0) != tc.right || n != len(events) {
				t.Errorf("%q, %d events", wrong, n)
			}
		})
	}
	if wrong, _ := l.check([]*manyWatch{newManyWatch(5)}); len(wrong) != 1 {
		t.Errorf("a watch that nothing was written for: %q", wrong)
	}
}
