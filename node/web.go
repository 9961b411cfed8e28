package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// The bounds of HTTP requests.
const (
	httpHeaderTimeout = 5 * time.Second
	httpWriteTimeout  = time.Minute
	httpIdleTimeout   = 2 * time.Minute
	httpHeaderBytes   = 16 << 10
	httpFarewell      = time.Second // requests under way may take, at the end
)

// web answers HTTP for the member that runs now; before one does, only metrics.
type web struct {
	metrics http.Handler
	member  atomic.Pointer[http.Handler]
}

func newWeb(r *prometheus.Registry) *web {
	return &web{metrics: promhttp.HandlerFor(r, promhttp.HandlerOpts{})}
}

// ServeHTTP implements http.Handler.
func (w *web) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	switch h := w.member.Load(); {
	case h != nil:
		(*h).ServeHTTP(out, r)
	case r.URL.Path == "/metrics":
		w.metrics.ServeHTTP(out, r)
	default:
		http.Error(out, "this node is not a member yet", http.StatusServiceUnavailable)
	}
}

// serveHTTP serves the connections of l until ctx ends and every handler has
// returned.
func serveHTTP(ctx context.Context, listeners []net.Listener, h http.Handler, logger *slog.Logger) error {
	var handlers sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: httpHeaderTimeout, ReadTimeout: httpHeaderTimeout, WriteTimeout: httpWriteTimeout, IdleTimeout: httpIdleTimeout,
		MaxHeaderBytes: httpHeaderBytes, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			err := srv.Serve(l)
			if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || gctx.Err() != nil {
				return nil // whoever closes it has ended ctx, or is about to
			}
			return err
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpFarewell)
		defer cancel()
		if srv.Shutdown(last) != nil {
			srv.Close() //nolint:errcheck // closing listeners again
		}
		return nil
	})
	err := g.Wait()
	handlers.Wait()
	return err
}

// serveClients serves gRPC and HTTP on the clients' address, and HTTP where
// metrics are, until ctx ends.
func (m *member) serveClients(ctx context.Context, r *room, srv *services) error {
	handler := srv.etcd.Handler(m.n.fronts.web.metrics)
	m.n.fronts.web.member.Store(&handler)
	defer m.n.fronts.web.member.Store(nil)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.client.serve(gctx, r, m.seeds.server) })
	g.Go(func() error { return serveHTTP(gctx, []net.Listener{srv.client.split}, handler, m.n.logger) })
	return g.Wait()
}
