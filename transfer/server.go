package transfer

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Config is what a Server is made of. Authorizer, Leases, Seeds and Cluster are
// required.
type Config struct {
	Authorizer Authorizer
	Leases     LeaseKeeper
	Seeds      Provider
	Digests    DigestReader // nil: DigestAt is refused
	Tails      TailReader   // nil: GetTail is refused
	Dial       DialFunc     // to waiting targets; nil: TransferSnapshot is refused

	Cluster    func() ident.Cluster // of this member; the nonce may become known
	ClientURLs func() []string      // of all members, for failover; may be nil
	Logger     *slog.Logger         // nil: slog.Default()
	Conns      *ConnMeter           // counts the server's connections; may be nil
	Channels   bool                 // ServeChannels runs: they are offered

	Slots         int           // seeds served at a time; default 8
	QueueLength   int           // seeds that may wait for a slot; default 64
	QueueTimeout  time.Duration // how long they may; default 30 s
	Streams       int           // of one seed at a time; default 32
	SlotGrace     time.Duration // an idle seed keeps its slot for so long; default 2 s
	IdleTimeout   time.Duration // a peer that takes nothing for so long is dropped; default 60 s
	SweepInterval time.Duration // between looks for leases that ended; default 5 s
	RateLimit     int64         // bytes per second of all seeds together; 0 = none
	Parallel      int           // compressions at a time; default 4
	Pace          *Pace         // slows seeds down for foreground work; may be nil
}

func (c *Config) setDefaults() {
	setDefault(&c.Slots, 8)
	setDefault(&c.QueueLength, 64)
	setDefault(&c.QueueTimeout, 30*time.Second)
	setDefault(&c.Streams, 32)
	setDefault(&c.SlotGrace, 2*time.Second)
	setDefault(&c.IdleTimeout, time.Minute)
	setDefault(&c.SweepInterval, 5*time.Second)
	setDefault(&c.Parallel, 4)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.ClientURLs == nil {
		c.ClientURLs = func() []string { return nil }
	}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Server is the source side: it implements chainfirev1.SeedServer. Register it
// on gRPC servers made with ServerOptions.
type Server struct {
	chainfirev1.UnimplementedSeedServer

	cfg   Config
	slots *slots
	// strangers holds one for each channel that has not asked for anything yet.
	strangers chan struct{}
	pool      *bufferPool
	codec     *chunk.Codec
	limiter   *rate.Limiter

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // every goroutine of the server
	kick   chan struct{}  // wakes the janitor

	mu       sync.Mutex
	closed   bool
	sessions map[uint64]*session // by lease ID
}

// NewServer starts a server's janitor; Close ends it.
func NewServer(cfg Config) (*Server, error) {
	cfg.setDefaults()
	codec, err := chunk.NewCodec(cfg.Parallel)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, codec: codec, pool: newBufferPool(), limiter: newLimiter(cfg.RateLimit),
		slots:     newSlots(cfg.Slots, cfg.QueueLength, cfg.QueueTimeout),
		strangers: make(chan struct{}, maxStrangers),
		kick:      make(chan struct{}, 1), sessions: make(map[uint64]*session)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.wg.Go(s.janitor)
	return s, nil
}

// Close ends all streams, gives the seeds back and waits for every goroutine.
// Leases are left alone: they belong to the cluster. A stream whose peer takes
// nothing ends when its gRPC server stops.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel(fault.Newf(fault.Unreachable, "serve seed", "the source is shutting down"))
	s.wg.Wait()
	s.mu.Lock()
	for _, sess := range s.sessions {
		s.drop(sess)
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.codec.Close()
	return nil
}

// start registers a call; the server's Close waits for done.
func (s *Server) start() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, context.Cause(s.ctx)
	}
	s.wg.Add(1)
	return s.wg.Done, nil
}

// bind gives a context that also ends with the server.
func (s *Server) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// enter authorises a call and registers it.
func (s *Server) enter(ctx context.Context, rpc string) (context.Context, func(), error) {
	if err := s.cfg.Authorizer.AuthorizeSeed(ctx, rpc); err != nil {
		return nil, nil, err
	}
	done, err := s.start()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := s.bind(ctx)
	return ctx, func() { cancel(); done() }, nil
}

// OpenSeed opens or continues a lease and prepares a seed under it.
func (s *Server) OpenSeed(ctx context.Context, req *chainfirev1.OpenSeedRequest) (*chainfirev1.OpenSeedResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_OpenSeed_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	sess, err := s.open(ctx, req)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	resp := &chainfirev1.OpenSeedResponse{Meta: sess.meta().Proto(), ClientUrls: s.cfg.ClientURLs()}
	if s.cfg.Channels && sess.layout.ChunkSize <= chunkSize {
		opener := context.WithoutCancel(ctx)
		sess.opener.Store(&opener)
		resp.Channel = sess.secret[:]
	}
	return resp, nil
}

// checkCluster refuses a request meant for another cluster.
func (s *Server) checkCluster(id uint64, nonce []byte) error {
	const op = "open seed"
	genesis, err := ident.NonceFrom(nonce)
	if err != nil {
		return fault.New(fault.Usage, op, err)
	}
	own := s.cfg.Cluster()
	if asked := (ident.Cluster{ID: id, Genesis: genesis}); id != 0 && !own.Same(asked) {
		return fault.Newf(fault.Refused, op, "this member is of cluster %s, asked for cluster %s",
			ident.FormatID(own.ID), ident.FormatID(id)).
			WithHint("check the endpoints: they name another cluster")
	}
	return nil
}

// RenewLease extends a lease.
func (s *Server) RenewLease(ctx context.Context, req *chainfirev1.RenewLeaseRequest) (*chainfirev1.RenewLeaseResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_RenewLease_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	lease, err := s.cfg.Leases.Renew(ctx, req.GetLeaseId(), milliseconds(req.GetTtlMs()), req.GetCapBytes())
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	s.mu.Lock()
	if sess := s.sessions[lease.ID]; sess != nil {
		sess.ttl.Store(int64(lease.TTL))
	}
	s.mu.Unlock()
	return &chainfirev1.RenewLeaseResponse{TtlMs: uint64(lease.TTL / time.Millisecond)}, nil
}

// CloseLease ends a lease, and what is served here under it.
func (s *Server) CloseLease(ctx context.Context, req *chainfirev1.CloseLeaseRequest) (*chainfirev1.CloseLeaseResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_CloseLease_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	if err := s.cfg.Leases.Close(ctx, req.GetLeaseId()); err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	s.forget(req.GetLeaseId())
	return &chainfirev1.CloseLeaseResponse{}, nil
}

// DigestAt answers the state digest at an applied index.
func (s *Server) DigestAt(ctx context.Context, req *chainfirev1.DigestAtRequest) (*chainfirev1.DigestAtResponse, error) {
	ctx, leave, err := s.enter(ctx, chainfirev1.Seed_DigestAt_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	if s.cfg.Digests == nil {
		return nil, rpcfault.ToStatus(fault.Newf(fault.Refused, "digest", "this member answers no digests"))
	}
	at, digest, revision, err := s.cfg.Digests.DigestAt(ctx, req.GetIndex())
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	return &chainfirev1.DigestAtResponse{Index: at, Digest: digest[:], Revision: uint64(revision)}, nil
}

// SeedQueue tells how busy this source is. It answers at once, also while
// OpenSeed waits for a slot or captures a seed.
func (s *Server) SeedQueue(ctx context.Context, _ *chainfirev1.SeedQueueRequest) (*chainfirev1.SeedQueueResponse, error) {
	_, leave, err := s.enter(ctx, chainfirev1.Seed_SeedQueue_FullMethodName)
	if err != nil {
		return nil, rpcfault.ToStatus(err)
	}
	defer leave()
	all, free, waiting := s.slots.state()
	return &chainfirev1.SeedQueueResponse{Slots: uint32(all), Free: uint32(free), Waiting: uint32(max(0, waiting))}, nil
}
