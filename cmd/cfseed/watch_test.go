package main

import (
	"bytes"
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	gstatus "google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
)

// Watch tells of two changes and of what follows from the key: "gone" is
// compacted, "enough" is ended, "broken" is too, after a connection that ends at
// member a; any other key hears no more.
func (m *fakeMember) Watch(stream etcdserverpb.Watch_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	create := req.GetCreateRequest()
	m.record("Watch", create)
	key := create.GetKey()
	start := create.GetStartRevision()
	send := func(r *etcdserverpb.WatchResponse) {
		if r.Header == nil {
			r.Header = &etcdserverpb.ResponseHeader{Revision: 9}
		}
		if err == nil {
			err = stream.Send(r)
		}
	}
	send(&etcdserverpb.WatchResponse{Created: true})
	if string(key) == "gone" {
		send(&etcdserverpb.WatchResponse{Canceled: true, CompactRevision: 5})
		return err
	}
	if start == 0 {
		start = 10
	}
	put := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Value: []byte("new"), CreateRevision: 2, ModRevision: start, Version: 2}}
	del := &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: key, ModRevision: start + 1}}
	if create.GetPrevKv() {
		put.PrevKv = &mvccpb.KeyValue{Key: key, Value: []byte("old"), CreateRevision: 2, ModRevision: 2, Version: 1}
	}
	send(&etcdserverpb.WatchResponse{Events: []*mvccpb.Event{put, del}})
	send(&etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: start + 20}}) // progress
	switch {
	case err != nil:
		return err
	case string(key) == "broken" && m.name == "a":
		return gstatus.Error(codes.Unavailable, "the member is stopping")
	case string(key) == "broken" || string(key) == "enough":
		send(&etcdserverpb.WatchResponse{Canceled: true, CancelReason: "enough is told"})
		return err
	}
	<-stream.Context().Done()
	return nil
}

// TestWatchUntilInterrupted: a change is printed when it comes, and a member that
// answers but has nothing to tell is waited for beyond --timeout, also where the
// user may watch and nothing else.
func TestWatchUntilInterrupted(t *testing.T) {
	for name, silent := range map[string]bool{"a user who may ask": false, "a user who may not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testWatchUntilInterrupted(t, silent)
		})
	}
}

func testWatchUntilInterrupted(t *testing.T, silent bool) {
	cluster := startFakeCluster(t)
	cluster.members[0].silent = silent
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr bytes.Buffer
	env := &command.Env{Stdout: &stdout, Stderr: &stderr}
	ended := make(chan int)
	go func() {
		ended <- command.Main(ctx, env, newApp(env), []string{"cfseed", "watch", "k", "--timeout", "2s", "-o", "json",
			"--endpoints", cluster.members[0].url})
	}()
	cluster.awaitCall(t, 1+5) // the watch, and a question every quarter of the timeout
	cancel()
	if code := <-ended; code != 130 {
		t.Errorf("exit %d: %s", code, &stderr)
	}
	const want = `{"type":"put","revision":10,"kv":{"key":"k","value":"new","create_revision":2,"mod_revision":10,"version":2,"lease":0},"prev_kv":null}
{"type":"delete","revision":11,"kv":{"key":"k","create_revision":0,"mod_revision":11,"version":0,"lease":0},"prev_kv":null}
{"error":{"code":"interrupted","message":"interrupted","hint":""}}
`
	if got := stdout.String(); got != want {
		t.Errorf("got %s", got)
	}
}
