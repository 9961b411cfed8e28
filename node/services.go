package node

import (
	"math"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/node/clusterapi"
	"github.com/chainfire/cfseed/node/concurrency"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/node/join"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// services are the servers of a member's two addresses.
type services struct {
	peer, client *shared
	etcd         *etcdapi.Server // its health service follows the member
}

// services makes the servers and registers what each serves; nothing listens
// yet.
func (m *member) services() (*services, error) {
	n := m.n
	cluster := clusterapi.New(m.backend)
	leases := newLeases(m.backend, m.lessor, m.leader)
	asEtcd := etcdBackend{m.backend, cluster, m.leader, leases, newLeaseIDs(m.boot), m.watches, newMaintenance(m)}
	etcd := etcdapi.New(asEtcd, etcdapi.Options{MinLeaseTTL: minLeaseTTL(n.cfg), Version: EtcdVersion, Election: n.cfg.Election,
		Tokens: m.tokens, ClientCertAuth: n.cfg.ClientTLS.ClientCertAuth, BcryptCost: n.cfg.BcryptCost,
		MaxRequestBytes: n.cfg.MaxRequestBytes, MaxTxnOps: n.cfg.MaxTxnOps})

	await := n.await
	if await == nil {
		await = join.NewAwait(join.AwaitConfig{Name: n.cfg.Name, FreeBytes: n.dir.FreeSpace,
			Directory: func() ident.Nonce { return m.identity.get().Directory }})
		await.Member()
	}
	peerSrv, err := n.newShared(n.cfg.ListenPeer, n.cfg.PeerTLS, n.fronts.peer)
	if err != nil {
		return nil, err
	}
	peerSrv.split.WithoutHTTP()
	m.transport.Register(peerSrv)
	cluster.Register(peerSrv)
	chainfirev1.RegisterSeedServer(peerSrv, m.seeds.server)
	chainfirev1.RegisterAwaitServer(peerSrv, await)
	chainfirev1.RegisterLeasesServer(peerSrv, leases)

	gate := seedGate{rules: func() *auth.Rules { return m.state.machine().Auth() }, client: etcd.Client}
	clientSrv, err := n.newShared(n.cfg.ListenClient, n.cfg.ClientTLS, n.fronts.client, append(append(etcd.ServerOptions(), n.cfg.clientOptions()...), netsec.Gate(gate.ask).ServerOptions()...)...)
	if err != nil {
		return nil, err
	}
	etcd.Register(clientSrv.Server)
	concurrency.Backend{KV: etcd.KV(), Leases: etcd.Leases(), Header: asEtcd.Header,
		Watch: func() concurrency.Watches { return m.watches.Open() }}.Register(clientSrv.Server)
	cluster.Register(clientSrv.Server)
	chainfirev1.RegisterSeedServer(clientSrv, m.seeds.server)
	return &services{peer: peerSrv, client: clientSrv, etcd: etcd}, nil
}

// clientOptions are what the flags say about connections of clients. Nodes that
// seed are among them, so no less than what these do is forbidden.
func (c Config) clientOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: min(c.KeepaliveMinTime, DefaultKeepaliveMinTime), PermitWithoutStream: true})}
	pings := keepalive.ServerParameters{Time: math.MaxInt64}
	if c.KeepaliveInterval > 0 && c.KeepaliveTimeout > 0 {
		pings = keepalive.ServerParameters{Time: c.KeepaliveInterval, Timeout: c.KeepaliveTimeout}
	}
	opts = append(opts, grpc.KeepaliveParams(pings))
	if c.MaxStreams > 0 {
		opts = append(opts, grpc.MaxConcurrentStreams(c.MaxStreams))
	}
	return opts
}
