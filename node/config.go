package node

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/crypto/bcrypt"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/node/peer"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/token"
	"github.com/chainfire/cfseed/node/watch"
)

// Defaults, etcd's where etcd has the flag.
const (
	DefaultName        = "default"
	DefaultClientURL   = "http://127.0.0.1:2379"
	DefaultPeerURL     = "http://127.0.0.1:2380"
	DefaultToken       = "etcd-cluster"
	DefaultHeartbeat   = 100 * time.Millisecond
	DefaultElection    = 1000 * time.Millisecond
	DefaultTrailing    = 10000
	DefaultLeaseTTL    = 10 * time.Minute
	DefaultLeaseBytes  = 1 << 30
	DefaultMaxLearners = 1
	DefaultAuthToken   = "simple"
	// DefaultSelfSignedYears is in years of 365 days.
	DefaultSelfSignedYears = 1
	DefaultAuthTTL         = token.DefaultTTL
	DefaultBcryptCost      = bcrypt.DefaultCost
	DefaultQuota           = 2 << 30
	// DefaultCorruptCheck is our own: etcd does not check until it is told to.
	DefaultCorruptCheck = time.Minute
	// The memtables of the state are taken from it: with less, hardly any block stays.
	DefaultCacheBytes = 96 << 20
	DefaultProgress   = watch.DefaultProgressInterval
	DefaultMemTable   = 16 << 20
	// Nodes that seed ping a client address as often as this allows them.
	DefaultKeepaliveMinTime  = 5 * time.Second
	DefaultKeepaliveInterval = 2 * time.Second
	DefaultKeepaliveTimeout  = 5 * time.Second
	DefaultMaxRequestBytes   = etcdapi.DefaultMaxRequestBytes
	DefaultMaxTxnOps         = mvcc.MaxTxnOps
	// MaxRequestBytes is the most that MaxRequestBytes of a Config may be: an entry
	// travels between members in one frame.
	MaxRequestBytes     = peer.MaxFrame - 1<<20
	defaultIdleTimeout  = time.Minute
	defaultSeedSlots    = 8
	minWatchProgress    = 100 * time.Millisecond // etcd's
	defaultTickDivision = 1
)

// Config is everything a node is started with. The zero value of a field means
// its default; cmd/cfseed has a flag for each.
type Config struct {
	Name         string
	DataDir      string // default <name>.cfseed
	ListenClient []string
	ListenPeer   []string
	// Advertised URLs; default what is listened on.
	AdvertiseClient []string
	AdvertisePeer   []string
	ListenMetrics   []string

	InitialCluster string // name=url,...; default this node alone
	Existing       bool   // --initial-cluster-state existing
	Token          string

	Heartbeat   time.Duration
	Election    time.Duration
	Trailing    uint64 // entries kept behind the applied index (--snapshot-count)
	MaxLearners int
	// Quota is how many bytes the state may have in use before NOSPACE is raised
	// and puts are refused; 0 = DefaultQuota, less = no limit.
	Quota int64
	// CorruptCheck is how often the leader compares all members; 0 =
	// DefaultCorruptCheck, less = never.
	CorruptCheck time.Duration
	// WatchProgress is how often a quiet watch with progress_notify hears of the
	// revision; less than 100ms means that.
	WatchProgress time.Duration

	// Compact says what history is kept; by default all of it.
	Compact policy.CompactorOptions

	// Limits on clients. MaxTxnOps is at most, and by default, mvcc.MaxTxnOps;
	// MaxStreams is of one connection, 0 = no limit.
	MaxRequestBytes int
	MaxTxnOps       int
	MaxStreams      uint32
	// Pings on client connections: how often a client may, how often this node
	// does when nothing else is heard, and how long it waits for the answer. Where
	// one of the last two is less than 0, connections are left to TCP.
	KeepaliveMinTime, KeepaliveInterval, KeepaliveTimeout time.Duration

	Join      []string // endpoints of the cluster to join (C3)
	Learner   bool     // stay a learner
	AwaitSeed bool     // wait at the peer URL
	JoinToken string   // a waiting target accepts only this token ...
	ClusterID uint64   // ... or this cluster

	Parallel    int
	RateLimit   int64 // bytes per second while seeding; 0 = none
	Compression string
	LeaseTTL    time.Duration
	LeaseBytes  uint64

	// AcceptMoved accepts a data directory that was moved or copied to another
	// inode; the operator vouches that the original does not run.
	AcceptMoved bool

	ClientTLS, PeerTLS netsec.Files
	// AutoTLS and PeerAutoTLS make a self-signed certificate for a side that has none
	// and an https URL, good for SelfSignedYears (0 = 1); it is kept in the data
	// directory. Members with PeerAutoTLS accept every certificate.
	AutoTLS, PeerAutoTLS bool
	SelfSignedYears      int

	// AuthToken is the kind of users' tokens, etcd's --auth-token, AuthTokenTTL for how
	// long a simple one lives after its last use, BcryptCost that of passwords' hashes.
	AuthToken    string
	AuthTokenTTL time.Duration
	BcryptCost   int
	User         *netsec.Login // as whom to join a cluster that asks; nil: as nobody

	// Authorize may refuse any RPC of any service by its full method name; nil
	// allows what the TLS configuration lets in.
	Authorize func(ctx context.Context, fullMethod string) error

	CacheBytes    int64
	MemTableBytes uint64

	FS     vfs.FS    // default the operating system's
	Rand   io.Reader // default crypto/rand
	Logger *slog.Logger
	Ready  func(line string) // receives the lines meant for stdout

	loops  loops
	lessor policy.LessorOptions // zero: etcd's
}

// withDefaults fills what is not set and refuses what can not be.
func (c Config) withDefaults() (Config, error) {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.Name, DefaultName)
	set(&c.DataDir, c.Name+".cfseed")
	set(&c.Token, DefaultToken)
	set(&c.Compression, "auto")
	set(&c.AuthToken, DefaultAuthToken)
	if len(c.ListenClient) == 0 {
		c.ListenClient = []string{DefaultClientURL}
	}
	if len(c.ListenPeer) == 0 {
		c.ListenPeer = []string{DefaultPeerURL}
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.Election == 0 {
		c.Election = DefaultElection
	}
	if c.Trailing == 0 {
		c.Trailing = DefaultTrailing
	}
	if c.WatchProgress == 0 {
		c.WatchProgress = DefaultProgress
	}
	if c.WatchProgress > 0 {
		c.WatchProgress = max(c.WatchProgress, minWatchProgress)
	}
	if c.MaxLearners == 0 {
		c.MaxLearners = DefaultMaxLearners
	}
	if c.AuthTokenTTL == 0 {
		c.AuthTokenTTL = token.DefaultTTL
	}
	c.SelfSignedYears = cmp.Or(c.SelfSignedYears, DefaultSelfSignedYears)
	if c.BcryptCost == 0 {
		c.BcryptCost = DefaultBcryptCost
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	if c.CorruptCheck == 0 {
		c.CorruptCheck = DefaultCorruptCheck
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.LeaseBytes == 0 {
		c.LeaseBytes = DefaultLeaseBytes
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = DefaultMemTable
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&c.KeepaliveMinTime, DefaultKeepaliveMinTime}, {&c.KeepaliveInterval, DefaultKeepaliveInterval}, {&c.KeepaliveTimeout, DefaultKeepaliveTimeout}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Ready == nil {
		c.Ready = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.check()
}

// check refuses what can not be, before anything is touched.
func (c Config) check() error {
	const op = "node"
	switch {
	case c.Heartbeat < 0 || c.Election < 0 || c.LeaseTTL < 0 || c.WatchProgress < 0 || c.MaxLearners < 0 || c.Parallel < 0 || c.RateLimit < 0 || c.CacheBytes < 0 ||
		c.MaxRequestBytes < 0 || c.MaxTxnOps < 0 || c.Compact.Period < 0 || c.Compact.Revisions < 0:
		return fault.Newf(fault.Usage, op, "a duration, number or size is negative")
	case c.Election < 5*c.Heartbeat:
		return fault.Newf(fault.Usage, op, "--election-timeout %s must be at least 5 times --heartbeat-interval %s", c.Election, c.Heartbeat)
	case c.AuthTokenTTL < 0:
		return fault.Newf(fault.Usage, op, "--auth-token-ttl is negative")
	case c.BcryptCost < bcrypt.MinCost || c.BcryptCost > bcrypt.MaxCost:
		return fault.Newf(fault.Usage, op, "--bcrypt-cost %d: want %d to %d", c.BcryptCost, bcrypt.MinCost, bcrypt.MaxCost)
	case c.MaxRequestBytes > MaxRequestBytes:
		return fault.Newf(fault.Usage, op, "--max-request-bytes %d: members exchange no more than %d", c.MaxRequestBytes, MaxRequestBytes)
	case c.Compact.Period > 0 && c.Compact.Revisions > 0:
		return fault.Newf(fault.Usage, op, "history is kept by age or by number of revisions, not by both")
	case c.MaxTxnOps > mvcc.MaxTxnOps:
		return fault.Newf(fault.Usage, op, "--max-txn-ops %d: all members refuse transactions of more than %d operations", c.MaxTxnOps, mvcc.MaxTxnOps)
	case c.AwaitSeed && len(c.Join) > 0:
		return fault.Newf(fault.Usage, op, "--await-seed and --join exclude each other")
	case c.Existing && c.InitialCluster == "" && len(c.Join) == 0 && !c.AwaitSeed:
		return fault.Newf(fault.Usage, op, "--initial-cluster-state existing needs --initial-cluster")
	case strings.ContainsAny(c.Name, "=,"):
		return fault.Newf(fault.Usage, op, "--name %q must not contain = or ,", c.Name)
	}
	if _, err := token.New(c.AuthToken, c.AuthTokenTTL); err != nil {
		return err
	}
	if err := c.checkAutoTLS(); err != nil {
		return err
	}
	if err := c.checkListens(); err != nil {
		return err
	}
	return c.checkAdvertised()
}

func (c Config) checkListens() error {
	for _, side := range []struct {
		flag  string
		urls  []string
		files netsec.Files
		auto  bool
	}{
		{"--listen-client-urls", c.ListenClient, c.ClientTLS, c.AutoTLS},
		{"--listen-peer-urls", c.ListenPeer, c.PeerTLS, c.PeerAutoTLS},
		{"--listen-metrics-urls", c.ListenMetrics, c.ClientTLS, c.AutoTLS},
	} {
		if err := checkListen(side.flag, side.urls, side.files, side.auto); err != nil {
			return err
		}
	}
	return nil
}

// checkAdvertised refuses addresses at which nobody can reach the node: what is no
// URL, and what stands for every interface of this machine. Peers of a node that
// waits for its seed, and of a founder, are told of its address by others.
func (c Config) checkAdvertised() error {
	for _, side := range []struct {
		listenFlag, flag   string
		port               string // as an example
		listen, advertised []string
		told               bool
	}{
		{"--listen-client-urls", "--advertise-client-urls", "2379", c.ListenClient, c.AdvertiseClient, false},
		{"--listen-peer-urls", "--initial-advertise-peer-urls", "2380", c.ListenPeer, c.AdvertisePeer, c.AwaitSeed || c.InitialCluster != ""},
	} {
		for _, s := range side.advertised {
			if _, err := netsec.ParseURL(s); err != nil {
				return fault.New(fault.Usage, side.flag, err)
			}
		}
		for _, s := range side.listen {
			if u, err := netsec.ParseURL(s); err == nil && u.Unspecified() && len(side.advertised) == 0 && !side.told {
				return fault.Newf(fault.Usage, side.listenFlag, "%s is every interface of this machine: others can not tell which to connect to", s).
					WithHint("add %s with an address of this machine, as http://10.0.0.1:%s", side.flag, side.port)
			}
		}
	}
	return nil
}

// checkListen reads the URLs and the certificates that they need: a node with
// unreadable ones must not seed for an hour first. One server serves them all,
// so they are all of one kind. With auto the
// certificate may be still to be made.
func checkListen(flag string, urls []string, files netsec.Files, auto bool) error {
	var first netsec.URL
	for i, s := range urls {
		u, err := netsec.ParseURL(s)
		if err != nil {
			return fault.New(fault.Usage, flag, err)
		}
		if i == 0 {
			first = u
		}
		if u.TLS() != first.TLS() {
			return fault.Newf(fault.Usage, flag, "%s is with TLS and %s is without", pick(u.TLS(), u, first), pick(u.TLS(), first, u)).
				WithHint("give URLs of one kind")
		}
	}
	if len(urls) == 0 || auto && !given(files) {
		return nil
	}
	if _, err := files.ServerCredentials(first); err != nil {
		return fault.New(fault.CodeOf(err), flag, err)
	}
	return nil
}

// secure reports whether members are told from strangers here.
func (c Config) secure() bool {
	u, err := netsec.ParseURL(c.ListenPeer[0]) // all are of one kind
	return err == nil && u.TLS()
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// ticks gives the election timeout in heartbeat intervals.
func (c Config) ticks() int { return int(c.Election / c.Heartbeat) }
