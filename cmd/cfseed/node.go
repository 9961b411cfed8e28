package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/node"
)

const (
	categoryMember   = "MEMBER"
	categoryCluster  = "CLUSTER"
	categoryJoin     = "JOINING"
	categorySecurity = "SECURITY"
)

func nodeCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "node",
		Usage: "Run a node: a member of a cluster, or a newcomer to one",
		Description: "With no flags: a cluster of one node on etcd's ports. The line \"ready to serve client requests\"\n" +
			"on stdout says that clients are served. SIGTERM and SIGINT stop it cleanly.\n" +
			"All flags of etcd are taken; docs/etcd-compatibility.md lists those without effect.",
		Flags: nodeFlags(),
		Action: env.Action(func(ctx context.Context, c *cli.Context, s *command.Session) error {
			if c.Bool("version") {
				v := nodeVersion{node.EtcdVersion, thisBuild()}
				return s.Out.Result(v, func(w io.Writer) { fmt.Fprintf(w, "etcd Version: %s\n%s\n", v.EtcdVersion, v.buildVersion) })
			}
			if path := c.String("config"); path != "" {
				if err := applyConfigFile(c, path); err != nil {
					return err
				}
				if err := s.SetLog(c); err != nil {
					return err
				}
			}
			if err := tellIgnored(c, s.Log); err != nil {
				return err
			}
			tellUnknown(c, os.Environ(), s.Log)
			cfg, err := nodeConfig(c)
			if err != nil {
				return err
			}
			spareThreads()
			cfg.Logger = s.Log
			cfg.Ready = func(line string) { fmt.Fprintln(s.Stdout, line) }
			return node.Run(ctx, cfg)
		}),
	}
}

// nodeVersion is the shape of --version in JSON.
type nodeVersion struct {
	EtcdVersion string `json:"etcd_version"`
	buildVersion
}

// nodeFlags are etcd's flags, which etcd's environment sets as well, and ours.
func nodeFlags() []cli.Flag {
	etcds := command.Flags(nodeMemberFlags(), nodeLimitFlags(), nodeClusterFlags(), nodeSecurityFlags(), ignoredFlags())
	ours := command.Flags(nodeOwnFlags(), nodeJoinFlags(), command.OutputFlags())
	for _, f := range ours {
		if f.Names()[0] == "log-level" { // which every command has
			command.AlsoByEnvironment(etcdPrefix, []cli.Flag{f})
		}
	}
	return append(command.AlsoByEnvironment(etcdPrefix, etcds), ours...)
}

func nodeMemberFlags() []cli.Flag {
	heartbeat, election := command.Millis(node.DefaultHeartbeat), command.Millis(node.DefaultElection)
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Value: node.DefaultName, Category: categoryMember, Usage: "`NAME` of the node"},
		&cli.StringFlag{Name: "data-dir", Category: categoryMember, Usage: "data `DIR`; default NAME.cfseed"},
		&cli.StringFlag{Name: "config", Aliases: []string{"config-file"}, Category: categoryMember, Usage: "YAML `FILE` with flags by name, or etcd's; the command line and the environment come first"},
		&cli.StringFlag{Name: "listen-client-urls", Value: node.DefaultClientURL, Category: categoryMember, Usage: "`URLS` to serve clients on; port 0 lets the system choose"},
		&cli.StringFlag{Name: "advertise-client-urls", Category: categoryMember, Usage: "`URLS` that clients reach; default what is listened on"},
		&cli.StringFlag{Name: "listen-peer-urls", Value: node.DefaultPeerURL, Category: categoryMember, Usage: "`URLS` to serve members on"},
		&cli.StringFlag{Name: "listen-metrics-urls", Category: categoryMember, Usage: "further `URLS` that answer /metrics, /health, /livez and /readyz"},
		&cli.GenericFlag{Name: "heartbeat-interval", Value: &heartbeat, Category: categoryMember, Usage: "the leader's heartbeat, `DURATION`; milliseconds where no unit is given"},
		&cli.GenericFlag{Name: "election-timeout", Value: &election, Category: categoryMember, Usage: "without a leader for `DURATION`, elect one; milliseconds where no unit is given"},
		&cli.Uint64Flag{Name: "snapshot-count", Value: node.DefaultTrailing, Category: categoryMember, Usage: "keep `N` log entries behind the applied one"},
		&cli.DurationFlag{Name: "watch-progress-notify-interval", Value: node.DefaultProgress, Category: categoryMember, Usage: "quiet watches that ask for it hear of the revision every `DURATION`"},
		&cli.Int64Flag{Name: "quota-backend-bytes", Category: categoryMember, Usage: "refuse puts when the state has `N` bytes; 0 = 2 GiB, -1 = no limit"},
		&cli.DurationFlag{Name: "corrupt-check-time", Value: node.DefaultCorruptCheck, Category: categoryMember, Usage: "the leader compares the members every `DURATION`; 0 = never"},
		&cli.BoolFlag{Name: "version", Category: categoryMember, Usage: "print which version of etcd's API is served, and end"},
	}
}

func nodeOwnFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "accept-moved-data-dir", Category: categoryMember, Usage: "the data directory was moved and the original is gone"},
	}
}

func nodeClusterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "initial-advertise-peer-urls", Category: categoryCluster, Usage: "`URLS` that members reach; default what is listened on"},
		&cli.StringFlag{Name: "initial-cluster", Category: categoryCluster, Usage: "the first members, `NAME=URL,...`; default this node alone"},
		&cli.StringFlag{Name: "initial-cluster-state", Value: "new", Category: categoryCluster, Usage: "`STATE`: new, or existing to join as a member that was added"},
		&cli.StringFlag{Name: "initial-cluster-token", Value: node.DefaultToken, Category: categoryCluster, Usage: "`TOKEN` that member IDs are derived from, too"},
		&cli.IntFlag{Name: "max-learners", Value: node.DefaultMaxLearners, Category: categoryCluster, Usage: "learners that are to vote, at most `N` at a time; more joins queue"},
	}
}

func nodeJoinFlags() []cli.Flag {
	leaseBytes := command.Bytes(node.DefaultLeaseBytes)
	return append([]cli.Flag{
		&cli.StringFlag{Name: "join", Category: categoryJoin, Usage: "client `ENDPOINTS` of a cluster: seed from it, then join"},
		&cli.BoolFlag{Name: "learner", Category: categoryJoin, Usage: "stay a learner"},
		&cli.BoolFlag{Name: "await-seed", Category: categoryJoin, Usage: "wait at the peer URL for `cfseed member add` or `cfseed push`; with TLS also give --join-token or --cluster-id"},
		&cli.StringFlag{Name: "user", Category: categoryJoin, Usage: "join as `NAME:PASSWORD`, where the cluster asks for a user"},
		&cli.StringFlag{Name: "password", Category: categoryJoin, Usage: "the `PASSWORD` of --user NAME"},
		&cli.StringFlag{Name: "join-token", Category: categoryJoin, Usage: "with --await-seed: who adds this node has to give `TOKEN`"},
		&cli.StringFlag{Name: "cluster-id", Category: categoryJoin, Usage: "accept a seed of the cluster `ID` only"},
		&cli.IntFlag{Name: "parallel", Category: categoryJoin, Usage: "`N` connections that the seed comes over; default 2, or 4 on a long line"},
		&cli.DurationFlag{Name: "lease-ttl", Value: node.DefaultLeaseTTL, Category: categoryJoin, Usage: "a seed lease that is not renewed ends after `DURATION`"},
		&cli.GenericFlag{Name: "lease-bytes", Value: &leaseBytes, Category: categoryJoin, Usage: "... and when the log behind its hold has `BYTES`"},
	}, command.SeedingFlags()...)
}

func nodeSecurityFlags() []cli.Flag {
	var out []cli.Flag
	for _, side := range []struct{ prefix, who, crl, unsure string }{
		{"", "clients", "client-crl-file", "nobody else signs it"}, {"peer-", "members", "peer-crl-file", "those of members are not verified"}} {
		out = append(out,
			&cli.StringFlag{Name: side.prefix + "cert-file", Category: categorySecurity, Usage: "our certificate towards " + side.who + ", `FILE`"},
			&cli.StringFlag{Name: side.prefix + "key-file", Category: categorySecurity, Usage: "its private key, `FILE`"},
			&cli.StringFlag{Name: side.prefix + "trusted-ca-file", Category: categorySecurity, Usage: "trust " + side.who + " certified by `FILE`"},
			&cli.BoolFlag{Name: side.prefix + "client-cert-auth", Category: categorySecurity, Usage: "ask " + side.who + " for a certificate"},
			&cli.BoolFlag{Name: side.prefix + "auto-tls", Category: categorySecurity, Usage: "make our certificate towards " + side.who + " where no file is given; " + side.unsure},
			&cli.StringFlag{Name: side.crl, Category: categorySecurity, Usage: "refuse " + side.who + " whose certificate `FILE` says is revoked"})
	}
	return append(out,
		&cli.IntFlag{Name: "self-signed-cert-validity", Value: node.DefaultSelfSignedYears, Category: categorySecurity, Usage: "`YEARS` of 365 days that certificates made here are good for"},
		&cli.StringFlag{Name: "tls-min-version", Value: "TLS1.2", Category: categorySecurity, Usage: "`VERSION` of TLS at least: TLS1.2 or TLS1.3"},
		&cli.StringFlag{Name: "tls-max-version", Category: categorySecurity, Usage: "`VERSION` of TLS at most"},
		&cli.StringFlag{Name: "cipher-suites", Category: categorySecurity, Usage: "`SUITES` that TLS 1.2 may choose from, separated by commas; default those that Go finds safe"},
		&cli.StringFlag{Name: "auth-token", Value: node.DefaultAuthToken, Category: categorySecurity, Usage: "`KIND` of users' tokens: simple, or jwt,sign-method=M,pub-key=FILE,priv-key=FILE,ttl=D"},
		&cli.IntFlag{Name: "auth-token-ttl", Value: int(node.DefaultAuthTTL.Seconds()), Category: categorySecurity, Usage: "a simple token ends `SECONDS` after its last use"},
		&cli.IntFlag{Name: "bcrypt-cost", Value: node.DefaultBcryptCost, Category: categorySecurity, Usage: "`COST` of hashing a password, 4 to 31"})
}

func nodeConfig(c *cli.Context) (node.Config, error) {
	cfg := node.Config{
		Name: c.String("name"), DataDir: c.String("data-dir"),
		ListenClient: list(c, "listen-client-urls"), AdvertiseClient: list(c, "advertise-client-urls"),
		ListenPeer: list(c, "listen-peer-urls"), AdvertisePeer: list(c, "initial-advertise-peer-urls"),
		ListenMetrics: list(c, "listen-metrics-urls"), InitialCluster: c.String("initial-cluster"), Token: c.String("initial-cluster-token"),
		Heartbeat: command.MillisOf(c, "heartbeat-interval"), Election: command.MillisOf(c, "election-timeout"), Trailing: c.Uint64("snapshot-count"),
		MaxLearners: c.Int("max-learners"), WatchProgress: c.Duration("watch-progress-notify-interval"), Join: list(c, "join"), Learner: c.Bool("learner"), AwaitSeed: c.Bool("await-seed"),
		JoinToken: c.String("join-token"), Parallel: c.Int("parallel"), RateLimit: int64(command.BytesOf(c, "rate-limit")),
		LeaseTTL: c.Duration("lease-ttl"), LeaseBytes: command.BytesOf(c, "lease-bytes"), AcceptMoved: c.Bool("accept-moved-data-dir"),
		Quota: c.Int64("quota-backend-bytes"), CorruptCheck: c.Duration("corrupt-check-time"),
		ClientTLS: tlsFiles(c, ""), PeerTLS: tlsFiles(c, "peer-"), AutoTLS: c.Bool("auto-tls"), PeerAutoTLS: c.Bool("peer-auto-tls"),
		AuthToken: c.String("auth-token"), AuthTokenTTL: time.Duration(c.Int("auth-token-ttl")) * time.Second, BcryptCost: c.Int("bcrypt-cost"),
	}
	if cfg.CorruptCheck == 0 {
		cfg.CorruptCheck = -1
	}
	err := limits(c, &cfg)
	if err != nil {
		return cfg, err
	}
	if err := tlsLimits(c, &cfg); err != nil {
		return cfg, err
	}
	if cfg.User, err = netsec.ParseLogin(c.String("user"), c.String("password")); err != nil {
		return cfg, err
	}
	if cfg.Compression, err = command.CompressionOf(c); err != nil {
		return cfg, err
	}
	switch state := c.String("initial-cluster-state"); state {
	case "new":
	case "existing":
		cfg.Existing = true
	default:
		return cfg, fault.Newf(fault.Usage, "", "--initial-cluster-state %q: want new or existing", state)
	}
	if id := c.String("cluster-id"); id != "" {
		if cfg.ClusterID, err = ident.ParseID(id); err != nil {
			return cfg, fault.New(fault.Usage, "--cluster-id", err)
		}
	}
	return cfg, nil
}

func tlsFiles(c *cli.Context, prefix string) netsec.Files {
	return netsec.Files{Cert: c.String(prefix + "cert-file"), Key: c.String(prefix + "key-file"),
		CA: c.String(prefix + "trusted-ca-file"), ClientCertAuth: c.Bool(prefix + "client-cert-auth")}
}

// tlsLimits sets what clients and members may speak, and who is revoked.
func tlsLimits(c *cli.Context, cfg *node.Config) error {
	least, err := netsec.ParseTLSVersion(c.String("tls-min-version"))
	if err != nil {
		return fault.New(fault.Usage, "--tls-min-version", err)
	}
	most, err := netsec.ParseTLSVersion(c.String("tls-max-version"))
	if err != nil {
		return fault.New(fault.Usage, "--tls-max-version", err)
	}
	suites, err := netsec.ParseCipherSuites(c.String("cipher-suites"))
	if err != nil {
		return fault.New(fault.Usage, "--cipher-suites", err)
	}
	for _, side := range []*netsec.Files{&cfg.ClientTLS, &cfg.PeerTLS} {
		side.MinVersion, side.MaxVersion, side.CipherSuites = least, most, suites
	}
	if cfg.SelfSignedYears = c.Int("self-signed-cert-validity"); cfg.SelfSignedYears == 0 {
		cfg.SelfSignedYears = -1 // 0 would be the default
	}
	cfg.ClientTLS.CRL, cfg.PeerTLS.CRL = c.String("client-crl-file"), c.String("peer-crl-file")
	return nil
}

// list reads a comma-separated flag; not set gives nil.
func list(c *cli.Context, name string) []string {
	var out []string
	for s := range strings.SplitSeq(c.String(name), ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
