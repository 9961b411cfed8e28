package node

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// openDoor runs a door on a loopback port until the test ends.
func openDoor(t *testing.T) *door {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor([]net.Listener{l})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

// tenant serves a health service that answers with the given status.
func tenant(t *testing.T, d *door, as healthpb.HealthCheckResponse_ServingStatus) (leave func()) {
	t.Helper()
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	h := health.NewServer()
	h.SetServingStatus("", as)
	healthpb.RegisterHealthServer(srv, h)
	ctx, stop := context.WithCancel(context.Background())
	room := d.take()
	ended := make(chan error, 1)
	go func() { ended <- room.serve(ctx, srv) }()
	done := false
	leave = func() {
		if done {
			return
		}
		done = true
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(leave)
	return leave
}

func visit(t *testing.T, d *door) healthpb.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.listeners[0].Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func answer(t *testing.T, c healthpb.HealthClient) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	res, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return res.GetStatus()
}

// The address passes from one server to the next: who is in stays with the
// first, who comes reaches the second, and nobody is turned away meanwhile.
func TestDoorHandsOver(t *testing.T) {
	d := openDoor(t)
	leave := tenant(t, d, healthpb.HealthCheckResponse_NOT_SERVING)
	old := visit(t, d)
	if got := answer(t, old); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("the first tenant answers %s", got)
	}
	tenant(t, d, healthpb.HealthCheckResponse_SERVING)
	if got := answer(t, old); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("an open connection was moved: %s", got)
	}
	if got := answer(t, visit(t, d)); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("a new connection reaches %s", got)
	}
	leave()
	res, err := old.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	for status.Code(err) == codes.Unavailable { // on the connection that ends
		res, err = old.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	}
	if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("after the first has left: %v, %v", res, err)
	}
}

// A room that nobody serves yet keeps its visitors; one that was left sends
// them away, and neither blocks the door's end (openDoor waits for it).
func TestDoorWithoutServer(t *testing.T) {
	d := openDoor(t)
	client := visit(t, d)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody in: %v", err)
	}
	tenant(t, d, healthpb.HealthCheckResponse_SERVING)()
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody in any more: %v", err)
	}
	room := d.take()
	conn, err := net.Dial("tcp", d.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // test
	inside, err := room.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if inside.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Error("another connection came in")
	}
	_ = inside.Close()
}

// flaky is a listener that fails as told before it works.
type flaky struct {
	net.Listener
	errs chan error
}

func (f flaky) Accept() (net.Conn, error) {
	select {
	case err := <-f.errs:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	default:
		return f.Listener.Accept()
	}
}

func TestDoorOutlivesWantOfDescriptors(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := flaky{l, make(chan error, 2)}
	f.errs <- syscall.EMFILE
	f.errs <- syscall.ECONNABORTED
	d := newDoor([]net.Listener{f})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	tenant(t, d, healthpb.HealthCheckResponse_SERVING)
	if got := answer(t, visit(t, d)); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%s", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Any other error of the listener ends the door, and with it the node.
func TestDoorEndsWithItsListener(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := flaky{l, make(chan error, 1)}
	f.errs <- syscall.EBADF
	if err := newDoor([]net.Listener{f}).run(t.Context()); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
}
