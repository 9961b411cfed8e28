package peer

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

const (
	// MaxFrame is the largest frame accepted, in bytes. A batch is cut near
	// frameTarget; only a single message may be larger.
	MaxFrame    = 8 << 20
	maxMessage  = MaxFrame - 1<<10
	frameTarget = 1 << 20

	// ConflictSettles is how long a member that restarted after a crash of its
	// machine may be refused with ErrCopied before keepalive ends its old streams.
	ConflictSettles = clientPing + 2*pingTimeout

	serverPing   = 2 * time.Second
	clientPing   = 10 * time.Second // the least that gRPC allows a client
	pingTimeout  = 5 * time.Second
	helloTimeout = 5 * time.Second

	backoffFirst = 25 * time.Millisecond
	backoffCap   = 500 * time.Millisecond
	// A connection that lived this long starts the backoff anew.
	backoffReset = 2 * backoffCap

	defaultQueueMessages   = 4096
	defaultQueueBytes      = 64 << 20
	defaultSnapshotTimeout = 4 * time.Hour
)

// Config is what a Transport needs. Self, Check, Handler and Dial are required.
type Config struct {
	// Self gives the current identity and URLs of this member, boot nonce
	// included. Version and To are filled in by the transport, which does not
	// change the message. Safe for concurrent use.
	Self func() *chainfirev1.PeerHello
	// Check is the node's rules on who of its cluster may talk: not removed
	// (ErrRemoved), directory nonce bound (ErrReplaced). Its errors are faults. Called on both sides of every connection, more than once for each
	// and concurrently; must not block. It must know of a removal before
	// RemovePeer is called.
	Check func(remote *chainfirev1.PeerHello) error
	// Handler takes what arrives.
	Handler Handler
	// Dial makes a connection to one peer URL; it need not wait until it stands.
	// Use DialOptions.
	Dial func(url string) (*grpc.ClientConn, error)
	// SnapshotInfo says where the files of a MsgSnap come from: the manifest root
	// and the seed lease. nil sends neither. It may be called from any goroutine.
	SnapshotInfo func(m *raftpb.Message) (manifestRoot []byte, leaseID uint64)
	// Refused, if set, hears that a peer refused this member, each time (up to
	// about twice a second for each peer): ErrRemoved, ErrReplaced, ErrCopied,
	// ErrOtherCluster or the fault that the peer's Check returned. ErrCopied comes only after the peer has said so
	// for longer than CopiedAfter, so it can be acted on. Must not block.
	Refused func(id uint64, err error)

	// Registry takes the metrics; nil keeps them unregistered.
	Registry prometheus.Registerer
	// Logger; nil discards.
	Logger *slog.Logger
	// Rand gives a number in [0,1) for the jitter of reconnects; nil means none.
	Rand func() float64

	// QueueMessages and QueueBytes bound each lane of each peer; 0 means 4096
	// messages and 64 MiB of entry data.
	QueueMessages int
	QueueBytes    int
	// CopiedAfter is how long ErrCopied must last to be believed; 0 means
	// ConflictSettles.
	CopiedAfter time.Duration
	// SnapshotTimeout is the backstop on one InstallSnapshot, 0 means 4 hours. A
	// dead peer is noticed by keepalive, a stuck fetch by the receiver itself.
	SnapshotTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.Self == nil || c.Check == nil || c.Handler == nil || c.Dial == nil {
		return c, fault.Newf(fault.Usage, "peer transport", "Self, Check, Handler and Dial are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = func() float64 { return 0 }
	}
	if c.SnapshotInfo == nil {
		c.SnapshotInfo = func(*raftpb.Message) ([]byte, uint64) { return nil, 0 }
	}
	if c.Refused == nil {
		c.Refused = func(uint64, error) {}
	}
	if c.QueueMessages <= 0 {
		c.QueueMessages = defaultQueueMessages
	}
	if c.QueueBytes <= 0 {
		c.QueueBytes = defaultQueueBytes
	}
	if c.CopiedAfter <= 0 {
		c.CopiedAfter = ConflictSettles
	}
	if c.SnapshotTimeout <= 0 {
		c.SnapshotTimeout = defaultSnapshotTimeout
	}
	return c, nil
}

// ServerOptions are what a gRPC server needs to serve peers: keepalive quick
// enough to notice a dead member, and room for a frame.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPing, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPing / 2, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(MaxFrame),
	}
}

// DialOptions go into Config.Dial, beside the credentials.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPing, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(MaxFrame)),
	}
}
