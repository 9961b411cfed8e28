package node

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/chainfire/cfseed/internal/datadir"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// rpc is one method of one service at one address.
type rpc struct {
	url, method    string
	client, server bool // streams
}

func rpcsOf(url string, srv *grpc.Server) []rpc {
	var out []rpc
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			out = append(out, rpc{url, "/" + service + "/" + m.Name, m.IsClientStream, m.IsServerStream})
		}
	}
	return out
}

// call makes the call with an empty message and gives the status.
func (r rpc) call(ctx context.Context, conn *grpc.ClientConn) error {
	if !r.client && !r.server {
		return conn.Invoke(ctx, r.method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: r.client, ServerStreams: r.server}, r.method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return s.RecvMsg(&emptypb.Empty{})
}

// bootstrapped opens the only member of a new cluster, as Run does, and leaves
// it to the test to run it.
func bootstrapped(t *testing.T, cfg Config) *member {
	t.Helper()
	n := &node{cfg: cfg, dir: datadir.At(cfg.FS, cfg.DataDir), logger: cfg.Logger, registry: registry{prometheus.NewRegistry()}}
	n.metrics = newMetrics(n.registry)
	var err error
	if n.fronts, err = openFronts(t.Context(), &n.cfg, n.registry.Registry); err != nil {
		t.Fatal(err)
	}
	id, err := n.bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	m, err := n.openMember(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// serveUntilEnd runs the member and its doors until the test ends.
func serveUntilEnd(t *testing.T, m *member) {
	ctx, stop := context.WithCancel(context.Background())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.n.fronts.run(gctx) })
	g.Go(func() error { return m.run(gctx, nil) })
	t.Cleanup(func() {
		stop()
		if err := errors.Join(g.Wait(), m.close()); err != nil {
			t.Error(err)
		}
	})
}

// TestAuthorizerGuardsEveryRPC asks for every method that a member registers,
// on both its addresses, while the authoriser says no; and, as the control,
// while it says yes.
func TestAuthorizerGuardsEveryRPC(t *testing.T) {
	var deny atomic.Bool
	var asked atomic.Int64
	ready := make(chan struct{})
	cfg, err := Config{Name: "guarded", DataDir: filepath.Join(t.TempDir(), "guarded"),
		ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"},
		Heartbeat: soloHeartbeat, Election: soloElection, Rand: rand.Reader,
		Ready: func(string) { close(ready) },
		Authorize: func(context.Context, string) error {
			asked.Add(1)
			if deny.Load() {
				return errors.New("not you")
			}
			return nil
		}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := bootstrapped(t, cfg)
	srv, err := m.services()
	if err != nil {
		t.Fatal(err)
	}
	conns := map[string]*grpc.ClientConn{}
	var rpcs []rpc
	for url, s := range map[string]*grpc.Server{m.n.cfg.AdvertiseClient[0]: srv.client.Server, m.n.cfg.AdvertisePeer[0]: srv.peer.Server} {
		conns[url] = connect(t, url)
		rpcs = append(rpcs, rpcsOf(url, s)...)
	}
	for _, must := range []string{chainfirev1.Seed_GetSnapshot_FullMethodName, chainfirev1.Cluster_MemberAdd_FullMethodName,
		chainfirev1.Await_Receive_FullMethodName, chainfirev1.Peer_Stream_FullMethodName, "/etcdserverpb.KV/Put"} {
		if !slices.ContainsFunc(rpcs, func(r rpc) bool { return r.method == must }) {
			t.Errorf("%s is not among those found", must)
		}
	}
	serveUntilEnd(t, m)
	<-ready

	deny.Store(true)
	for _, r := range rpcs {
		if err := r.call(within(t), conns[r.url]); status.Code(err) != codes.PermissionDenied {
			t.Errorf("denied: %s at %s: %v", r.method, r.url, err)
		}
	}
	deny.Store(false)
	for _, r := range rpcs {
		before, ended := asked.Load(), make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- r.call(ctx, conns[r.url]) }()
		waitFor(t, r.method+" is asked for", func() bool { return asked.Load() > before || len(ended) > 0 })
		if asked.Load() == before {
			t.Errorf("%s at %s was let in without a question", r.method, r.url)
		}
		time.AfterFunc(100*time.Millisecond, cancel) // of a stream that stands, nothing more is to come
		if err := <-ended; status.Code(err) == codes.PermissionDenied {
			t.Errorf("allowed: %s at %s: %v", r.method, r.url, err)
		}
	}
}

// A node that waits is guarded as well.
func TestAuthorizerGuardsTheWaitingRoom(t *testing.T) {
	var deny atomic.Bool
	deny.Store(true)
	n := start(t, "waiting", Config{AwaitSeed: true, Authorize: func(context.Context, string) error {
		if deny.Load() {
			return errors.New("not you")
		}
		return nil
	}}).waiting()
	conn := connect(t, n.peer)
	srv := grpc.NewServer()
	chainfirev1.RegisterAwaitServer(srv, chainfirev1.UnimplementedAwaitServer{})
	for denied, patience := range map[bool]time.Duration{true: patience, false: time.Second} {
		deny.Store(denied)
		for _, r := range rpcsOf(n.peer, srv) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := r.call(ctx, conn); (status.Code(err) == codes.PermissionDenied) != denied {
				t.Errorf("%s, denied %t: %v", r.method, denied, err)
			}
			cancel()
		}
	}
}
