package node

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
)

// door hands the connections of one address to one gRPC server at a time. A
// node that waits for its seed is served by one server and, from the moment
// its Raft runs, by another, without the address ever being closed: whoever
// follows a join keeps its connection, new ones reach the running member.
type door struct {
	listeners []net.Listener

	mu      sync.Mutex
	current *room
}

func newDoor(listeners []net.Listener) *door { return &door{listeners: listeners} }

// run accepts until ctx ends, then closes the address and stops all servers.
func (d *door) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range d.listeners {
		g.Go(func() error { return d.accept(gctx, l) })
	}
	g.Go(func() error {
		<-gctx.Done()
		d.shut()
		return nil
	})
	return g.Wait()
}

func (d *door) shut() {
	for _, l := range d.listeners {
		l.Close() //nolint:errcheck // closing is how accept ends; there is nothing to lose
	}
}

func (d *door) accept(ctx context.Context, l net.Listener) error {
	for pause := acceptPause; ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = acceptPause
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case !passing(err):
			return fault.New(fault.Internal, "accept connections", err)
		default:
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, time.Second)
			continue
		}
		d.mu.Lock()
		r := d.current
		d.mu.Unlock()
		if r == nil || !r.enter(ctx, conn) {
			conn.Close() //nolint:errcheck // nobody is in; the caller tries again
		}
	}
}

// acceptPause is the first pause after the system had no room for a connection.
const acceptPause = 5 * time.Millisecond

// passing reports errors of Accept that others can cause and that pass, such as
// no file descriptor being left: a member lives through them.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// take gives the room that new connections go to from now on; they wait there
// until a server serves it.
func (d *door) take() *room {
	r := &room{conns: make(chan net.Conn), left: make(chan struct{}), addr: d.listeners[0].Addr()}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = r
	return r
}

// room is the listener that a gRPC server sees.
type room struct {
	conns chan net.Conn
	left  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// serve runs srv for the room's connections until ctx ends and every handler
// has returned.
func (r *room) serve(ctx context.Context, srv *grpc.Server) error { return r.serveOn(ctx, srv, r) }

// serveOn is serve with a listener around the room.
func (r *room) serveOn(ctx context.Context, srv *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		srv.Stop() // waits for the one that ctx began
		return nil
	}
	return err
}

func (r *room) enter(ctx context.Context, c net.Conn) bool {
	select {
	case r.conns <- c:
		return true
	case <-r.left:
		return false
	case <-ctx.Done():
		return false
	}
}

// Accept, Close and Addr implement net.Listener.
func (r *room) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.left:
		return nil, net.ErrClosed
	}
}

func (r *room) Close() error   { r.once.Do(func() { close(r.left) }); return nil }
func (r *room) Addr() net.Addr { return r.addr }
