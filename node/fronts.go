package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/node/join"
	"github.com/chainfire/cfseed/node/peer"
	"github.com/chainfire/cfseed/transfer"
)

// fronts are the addresses of a node. They are opened before anything else
// happens, so that a port in use is told at once and port 0 is known.
type fronts struct {
	client, peer *door
	metrics      []net.Listener
	// meter counts the bytes of every connection, so that a seed over a slow
	// line is told from one that stands still.
	meter *transfer.ConnMeter
	// reachable says that the advertised peer URLs are worth telling the others:
	// they were given, or the system chose the port. Else the cluster may know
	// better ones, from --initial-cluster or `member add`.
	reachable bool
	web       *web
	logger    *slog.Logger
	loops     loops
}

// openFronts listens and completes the advertised URLs in cfg.
func openFronts(ctx context.Context, cfg *Config, r *prometheus.Registry) (*fronts, error) {
	f := &fronts{meter: &transfer.ConnMeter{}, web: newWeb(r), logger: cfg.Logger, loops: cfg.loops}
	var opened []net.Listener
	open := func(urls []string) ([]net.Listener, []string, error) {
		var ls []net.Listener
		var got []string
		for _, s := range urls {
			u, err := netsec.ParseURL(s)
			if err != nil {
				return nil, nil, err
			}
			l, actual, err := u.Listen(ctx)
			if err != nil {
				return nil, nil, err
			}
			ls, got, opened = append(ls, l), append(got, actual.String()), append(opened, l)
		}
		return ls, got, nil
	}
	clients, clientURLs, err := open(cfg.ListenClient)
	if err != nil {
		return nil, errors.Join(err, closeAll(opened))
	}
	peers, peerURLs, err := open(cfg.ListenPeer)
	if err != nil {
		return nil, errors.Join(err, closeAll(opened))
	}
	if f.metrics, _, err = open(cfg.ListenMetrics); err != nil {
		return nil, errors.Join(err, closeAll(opened))
	}
	if err := f.secureMetrics(cfg); err != nil {
		return nil, errors.Join(err, closeAll(opened))
	}
	for _, ls := range [][]net.Listener{clients, peers} {
		for i := range ls {
			ls[i] = f.meter.Listen(ls[i])
		}
	}
	f.client, f.peer = newDoor(clients), newDoor(peers)
	f.reachable = len(cfg.AdvertisePeer) > 0 || slices.ContainsFunc(cfg.ListenPeer, func(u string) bool { return strings.HasSuffix(u, ":0") })
	if len(cfg.AdvertiseClient) == 0 {
		cfg.AdvertiseClient = clientURLs
	}
	if len(cfg.AdvertisePeer) == 0 {
		cfg.AdvertisePeer = peerURLs
	}
	cfg.AdvertisePeer = slices.Sorted(slices.Values(cfg.AdvertisePeer))
	if cfg.InitialCluster == "" {
		for i, u := range cfg.AdvertisePeer {
			if i > 0 {
				cfg.InitialCluster += ","
			}
			cfg.InitialCluster += cfg.Name + "=" + u
		}
	}
	return f, nil
}

// secureMetrics puts TLS before the metrics listeners where their URLs say so.
func (f *fronts) secureMetrics(cfg *Config) error {
	for i, s := range cfg.ListenMetrics {
		u, err := netsec.ParseURL(s)
		if err != nil || !u.TLS() {
			return err
		}
		conf, err := cfg.ClientTLS.Server()
		if err != nil {
			return err
		}
		conf.NextProtos = []string{"http/1.1"}
		f.metrics[i] = tls.NewListener(f.metrics[i], conf)
	}
	return nil
}

func closeAll(ls []net.Listener) error {
	var errs []error
	for _, l := range ls {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// run keeps the doors until ctx ends.
func (f *fronts) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(f.loops.lasting(gctx, "client door", f.client.run))
	g.Go(f.loops.lasting(gctx, "peer door", f.peer.run))
	if len(f.metrics) > 0 {
		g.Go(func() error { return serveHTTP(gctx, f.metrics, f.web, f.logger) })
	}
	return g.Wait()
}

// newServer makes a gRPC server for the listeners of urls: TLS where they say
// so, every RPC through the gate, faults mapped to statuses.
func (n *node) newServer(urls []string, files netsec.Files, more ...grpc.ServerOption) (*grpc.Server, error) {
	if len(urls) == 0 {
		return n.makeServer(nil, more...), nil
	}
	u, err := netsec.ParseURL(urls[0])
	if err != nil {
		return nil, err
	}
	creds, err := files.ServerCredentials(u)
	if err != nil {
		return nil, err
	}
	return n.makeServer(creds, more...), nil
}

// shared is an address that a gRPC server shares with others.
type shared struct {
	*grpc.Server
	split    *netsec.Split
	channels net.Listener // of the chunks of seeds
}

// newShared is newServer for a member's address.
func (n *node) newShared(urls []string, files netsec.Files, d *door, more ...grpc.ServerOption) (*shared, error) {
	u, err := netsec.ParseURL(urls[0])
	if err != nil {
		return nil, err
	}
	split, err := files.Split(u, d.listeners[0].Addr())
	if err != nil {
		return nil, err
	}
	return &shared{n.makeServer(split.Credentials(), more...), split, split.Apart(transfer.ChannelProtocol)}, nil
}

// serve serves gRPC, and the channels of seeds, for a room until ctx ends.
func (s *shared) serve(ctx context.Context, r *room, seeds *transfer.Server) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.serveOn(gctx, s.Server, s.split.Listen(r)) })
	g.Go(func() error { return seeds.ServeChannels(gctx, s.channels) })
	g.Go(func() error {
		<-gctx.Done()
		return s.split.Close()
	})
	return g.Wait()
}

func (n *node) makeServer(creds credentials.TransportCredentials, more ...grpc.ServerOption) *grpc.Server {
	// Stop waits for the handlers: they use stores that are closed afterwards.
	opts := append(transfer.ServerOptions(), grpc.WaitForHandlers(true))
	opts = append(opts, peer.ServerOptions()...)
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	opts = append(opts,
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			res, err := h(ctx, req)
			return res, rpcfault.ToStatus(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return rpcfault.ToStatus(h(srv, ss))
		}))
	// The gate comes before any other rule: who may not ask learns nothing.
	opts = append(opts, netsec.Gate(n.cfg.Authorize).ServerOptions()...)
	return grpc.NewServer(append(opts, more...)...)
}

// dial connects to a member or newcomer by URL; peers' certificates are used,
// since it is members' addresses that a node dials.
func (n *node) dial(_ context.Context, url string) (*grpc.ClientConn, error) {
	return n.dialPeer(url)
}

// dialer connects with the certificates of one side, members' or clients', and as
// a user; nil: as nobody.
func dialer(files func(endpoint string) netsec.Files, user *netsec.Login) join.Dialer {
	return func(_ context.Context, url string) (*grpc.ClientConn, error) {
		return netsec.Dial(url, files(url), append(user.DialOptions(), peer.DialOptions()...)...)
	}
}

func (n *node) dialPeer(url string) (*grpc.ClientConn, error) {
	return netsec.Dial(url, n.cfg.PeerTLS, peer.DialOptions()...)
}
