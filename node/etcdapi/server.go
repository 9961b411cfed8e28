package etcdapi

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/chainfire/cfseed/internal/state/mvcc"
)

const (
	// DefaultMaxRequestBytes is etcd's limit on a request, 1.5 MiB.
	DefaultMaxRequestBytes = 3 << 19

	// grpcOverhead is the room around a request of the largest size, so that it
	// is refused by its own error and not by gRPC's.
	grpcOverhead = 512 << 10

	etcdPrefix = "/etcdserverpb."
	// snapshotMethod is the one stream that etcd's learner serves.
	snapshotMethod = etcdPrefix + "Maintenance/Snapshot"
)

// Options bound requests.
type Options struct {
	MaxRequestBytes int    // 0 = DefaultMaxRequestBytes
	MaxTxnOps       int    // 0, and no more than, mvcc.MaxTxnOps, which is a rule of the state machine
	MinLeaseTTL     int64  // seconds; shorter leases are granted this; 0 = 1
	Version         string // of etcd's API, as /version tells it
	// Election is the election timeout; a stream that requires a leader ends after
	// three without one. 0 = one second.
	Election time.Duration
	// Tokens are those of users; nil: nobody can authenticate.
	Tokens Tokens
	// ClientCertAuth takes the common name of a client's verified certificate for
	// the name of its user, where it shows no token.
	ClientCertAuth bool
	BcryptCost     int // of passwords' hashes; 0, and what bcrypt can not do, = its default, 10
	// SnapshotIdle ends a snapshot whose client takes no piece for so long: it keeps
	// files from being removed. 0 = a minute.
	SnapshotIdle time.Duration
}

// Server serves the etcd services of one node.
type Server struct {
	backend Backend
	opts    Options
	health  *health.Server
	streams streams
	raising sync.Mutex // of the NOSPACE alarm
}

// New returns a Server over a backend. It reports itself as not serving until
// SetServing. Run must run while it serves.
func New(b Backend, o Options) *Server {
	if o.MaxRequestBytes <= 0 {
		o.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if o.MaxTxnOps <= 0 {
		o.MaxTxnOps = mvcc.MaxTxnOps
	}
	if o.Election <= 0 {
		o.Election = time.Second
	}
	if o.SnapshotIdle <= 0 {
		o.SnapshotIdle = time.Minute
	}
	if o.BcryptCost < bcrypt.MinCost || o.BcryptCost > bcrypt.MaxCost {
		o.BcryptCost = bcrypt.DefaultCost
	}
	s := &Server{backend: b, opts: o, health: health.NewServer(), streams: streams{led: map[*ledStream]bool{}}}
	s.SetServing(false)
	return s
}

// Register adds the services to a server made with ServerOptions, the gRPC
// health service and reflection included. Other services may be registered on
// it, before or after.
func (s *Server) Register(g *grpc.Server) {
	pb.RegisterKVServer(g, kvServer{s: s})
	pb.RegisterWatchServer(g, watchServer{s: s})
	pb.RegisterClusterServer(g, clusterServer{s: s})
	pb.RegisterLeaseServer(g, leaseServer{s: s})
	pb.RegisterAuthServer(g, authServer{s: s})
	pb.RegisterMaintenanceServer(g, maintenanceServer{s: s})
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
}

// ServerOptions are the limits and the interceptors that the services rely on:
// calls that require a leader fail without one, a learner answers only Status and
// serializable reads, no stream, and what needs a user or root is refused to others.
// All touch etcd's services alone.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(s.opts.MaxRequestBytes + grpcOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := s.fit(ctx, info.FullMethod, req); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := s.fit(ss.Context(), info.FullMethod, nil); err != nil {
				return err
			}
			if !ofEtcd(info.FullMethod) {
				return next(srv, ss)
			}
			return s.streams.serve(srv, ss, next)
		}),
	}
}

// KV and Leases are the services for others of this member, which ask as a
// client would.
func (s *Server) KV() pb.KVServer        { return kvServer{s: s} }
func (s *Server) Leases() pb.LeaseServer { return leaseServer{s: s} }

// SetServing says to the health service whether this member serves.
func (s *Server) SetServing(serving bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		st = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
}

// Shutdown reports not serving for good and ends the health watches.
func (s *Server) Shutdown() { s.health.Shutdown() }

// ofEtcd reports whether a method belongs to a service of etcd's.
func ofEtcd(method string) bool {
	return strings.HasPrefix(method, etcdPrefix) || strings.HasPrefix(method, "/v3lockpb.") || strings.HasPrefix(method, "/v3electionpb.")
}

// fit reports whether this member can serve a call in its present role. req is
// nil for a stream; etcd's learner serves one alone.
func (s *Server) fit(ctx context.Context, method string, req any) error {
	if !ofEtcd(method) {
		return nil
	}
	_, learner := s.backend.Role()
	if learner && !learnerServes(req) && method != snapshotMethod {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	if err := s.wantsLeader(ctx); err != nil {
		return err
	}
	return s.admit(ctx, method, req)
}

// wantsLeader refuses a call that requires a leader while none is known.
func (s *Server) wantsLeader(ctx context.Context) error {
	if leader, _ := s.backend.Role(); leader == 0 && requiresLeader(ctx) {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

func learnerServes(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.GetSerializable()
	}
	return false
}

// fail is the status that a client hears for an error of the backend.
func (s *Server) fail(err error) error {
	leader, _ := s.backend.Role()
	return toStatus(err, leader == 0)
}

// header completes a response's header; a revision that the apply set stays.
func (s *Server) header(h *pb.ResponseHeader) *pb.ResponseHeader {
	now := s.backend.Header()
	if rev := h.GetRevision(); rev != 0 {
		now.Revision = rev
	}
	return now
}
