package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/internal/fault"
)

// etcdFlag is a flag of etcd's that this node makes nothing of. It is accepted,
// so that what starts etcd starts cfseed; where that would leave something
// undone that somebody relies on, only etcd's own default is.
type etcdFlag struct {
	name    string
	boolean bool
	value   string // etcd's default; not told of when it is given
	refused bool
	why     string
}

const (
	otherStorage  = "the storage is not etcd's"
	noDiscovery   = "members are named by --initial-cluster or found by --join"
	goesWithThat  = "discovery is refused, so nothing asks for it"
	lessStrict    = "the node would let in more than was asked for"
	noTracing     = "there is no tracing"
	logsToStderr  = "the log goes to stderr as text"
	withoutHTTP   = "no keys are served over HTTP"
	etcdIgnoresIt = "etcd ignores it as well"
)

// etcdFlags are in the order of their names.
var etcdFlags = []etcdFlag{
	{name: "backend-batch-interval", value: "0s", why: otherStorage},
	{name: "backend-batch-limit", value: "0", why: otherStorage},
	{name: "backend-bbolt-freelist-type", why: otherStorage},
	{name: "bootstrap-defrag-threshold-megabytes", value: "0", why: otherStorage},
	{name: "client-cert-allowed-hostname", refused: true, why: lessStrict},
	{name: "client-cert-file", refused: true, why: "--cert-file is used both ways"},
	{name: "client-key-file", refused: true, why: "--key-file is used both ways"},
	{name: "cluster-active-size", boolean: true, why: etcdIgnoresIt},
	{name: "cluster-remove-delay", boolean: true, why: etcdIgnoresIt},
	{name: "cluster-sync-interval", boolean: true, why: etcdIgnoresIt},
	{name: "compact-hash-check-time", value: "1m0s", why: "members compare digests, not hashes of compactions"},
	{name: "compaction-batch-limit", value: "0", why: "history is purged beside the requests, a piece at a time"},
	{name: "compaction-sleep-interval", value: "0s", why: "history is purged beside the requests, a piece at a time"},
	{name: "cors", value: "*", why: withoutHTTP},
	{name: "discovery", refused: true, why: noDiscovery},
	{name: "discovery-cacert", why: goesWithThat},
	{name: "discovery-cert", why: goesWithThat},
	{name: "discovery-dial-timeout", value: "2s", why: goesWithThat},
	{name: "discovery-endpoints", refused: true, why: noDiscovery},
	{name: "discovery-fallback", value: "exit", why: goesWithThat},
	{name: "discovery-insecure-skip-tls-verify", boolean: true, value: "false", why: goesWithThat},
	{name: "discovery-insecure-transport", boolean: true, value: "true", why: goesWithThat},
	{name: "discovery-keepalive-time", value: "2s", why: goesWithThat},
	{name: "discovery-keepalive-timeout", value: "6s", why: goesWithThat},
	{name: "discovery-key", why: goesWithThat},
	{name: "discovery-password", why: goesWithThat},
	{name: "discovery-proxy", why: goesWithThat},
	{name: "discovery-request-timeout", value: "5s", why: goesWithThat},
	{name: "discovery-srv", refused: true, why: noDiscovery},
	{name: "discovery-srv-name", why: goesWithThat},
	{name: "discovery-token", refused: true, why: noDiscovery},
	{name: "discovery-user", why: goesWithThat},
	{name: "distributed-tracing-address", value: "localhost:4317", why: noTracing},
	{name: "distributed-tracing-instance-id", why: noTracing},
	{name: "distributed-tracing-sampling-rate", value: "0", why: noTracing},
	{name: "distributed-tracing-service-name", value: "etcd", why: noTracing},
	{name: "downgrade-check-time", value: "5s", why: "there is nothing to downgrade to"},
	{name: "enable-distributed-tracing", boolean: true, value: "false", why: noTracing},
	{name: "enable-grpc-gateway", boolean: true, value: "true", why: withoutHTTP},
	{name: "enable-log-rotation", boolean: true, value: "false", why: logsToStderr},
	{name: "enable-pprof", boolean: true, value: "false", why: "no profiles are served"},
	{name: "feature-gates", why: "etcd's features under trial are not here"},
	{name: "force", boolean: true, why: etcdIgnoresIt},
	{name: "force-new-cluster", boolean: true, value: "false", refused: true, why: "an ID is one data directory's and never used again: begin a new cluster and copy the keys"},
	{name: "host-whitelist", value: "*", why: withoutHTTP},
	{name: "initial-election-tick-advance", boolean: true, value: "true", why: "a node that starts waits a whole election timeout"},
	{name: "listen-client-http-urls", refused: true, why: "nobody would listen there"},
	{name: "log-format", value: "json", why: logsToStderr},
	{name: "log-outputs", value: "default", why: logsToStderr},
	{name: "log-rotation-config-json", value: `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`, why: logsToStderr},
	{name: "logger", value: "zap", why: logsToStderr},
	{name: "max-result-buffer", boolean: true, why: etcdIgnoresIt},
	{name: "max-retry-attempts", boolean: true, why: etcdIgnoresIt},
	{name: "max-snapshots", value: "5", why: otherStorage},
	{name: "max-wals", value: "5", why: otherStorage},
	{name: "memory-mlock", boolean: true, value: "false", why: "memory is not locked"},
	{name: "metrics", value: "basic", why: "all metrics are served"},
	{name: "peer-cert-allowed-cn", refused: true, why: lessStrict},
	{name: "peer-cert-allowed-hostname", refused: true, why: lessStrict},
	{name: "peer-client-cert-file", refused: true, why: "--peer-cert-file is used both ways"},
	{name: "peer-client-key-file", refused: true, why: "--peer-key-file is used both ways"},
	{name: "peer-election-timeout", boolean: true, why: etcdIgnoresIt},
	{name: "peer-heartbeat-interval", boolean: true, why: etcdIgnoresIt},
	{name: "peer-skip-client-san-verification", boolean: true, value: "false", why: "addresses in members' certificates are not looked at"},
	{name: "pre-vote", boolean: true, value: "true", why: "always"},
	{name: "raft-read-timeout", value: "5s", why: "members speak gRPC, which finds dead connections by itself"},
	{name: "raft-write-timeout", value: "5s", why: "members speak gRPC, which finds dead connections by itself"},
	{name: "retry-interval", boolean: true, why: etcdIgnoresIt},
	{name: "snapshot", boolean: true, why: etcdIgnoresIt},
	{name: "snapshot-catchup-entries", value: "5000", why: "--snapshot-count is what is kept of the log"},
	{name: "socket-reuse-address", boolean: true, value: "false", why: "addresses are opened as Go does it"},
	{name: "socket-reuse-port", boolean: true, value: "false", why: "addresses are opened as Go does it"},
	{name: "strict-reconfig-check", boolean: true, value: "true", why: "always"},
	{name: "unsafe-no-fsync", boolean: true, value: "false", refused: true, why: "a write that was acknowledged is on disks"},
	{name: "v", boolean: true, why: etcdIgnoresIt},
	{name: "v2-deprecation", value: "write-only", why: etcdIgnoresIt},
	{name: "vv", boolean: true, why: etcdIgnoresIt},
	{name: "wal-dir", why: "the log is in the data directory, raft/"},
	{name: "warning-apply-duration", value: "100ms", why: "slow requests are not logged"},
	{name: "warning-unary-request-duration", value: "300ms", why: "slow requests are not logged"},
}

// ignoredFlags are flags for etcdFlags, left out of the help text.
func ignoredFlags() []cli.Flag {
	var out []cli.Flag
	for _, f := range etcdFlags {
		usage := "etcd's, without effect: " + f.why
		if f.refused {
			usage = "etcd's, refused: " + f.why
		}
		if f.boolean {
			out = append(out, &cli.BoolFlag{Name: f.name, Hidden: true, Usage: usage})
		} else {
			out = append(out, &cli.StringFlag{Name: f.name, Hidden: true, Usage: usage + " (`VALUE`)"})
		}
	}
	return out
}

// tellIgnored refuses etcd's flags whose neglect would harm, and tells of those
// that were given and have no effect.
func tellIgnored(c *cli.Context, log *slog.Logger) error {
	for _, f := range etcdFlags {
		value := fmt.Sprint(c.Value(f.name))
		if !c.IsSet(f.name) || value == "" || value == f.value || f.boolean && value == strconv.FormatBool(false) && f.value == "" {
			continue
		}
		if f.refused {
			return fault.Newf(fault.Usage, "", "--%s %s: %s", f.name, value, f.why).WithHint("leave it out; docs/etcd-compatibility.md lists etcd's flags")
		}
		log.Info("flag without effect", "flag", "--"+f.name, "why", f.why)
	}
	return nil
}

// tellUnknown tells of variables of etcd's kind that set nothing, as etcd does.
func tellUnknown(c *cli.Context, environ []string, log *slog.Logger) {
	var known []string
	for _, f := range c.Command.Flags {
		if d, ok := f.(interface{ GetEnvVars() []string }); ok {
			known = append(known, d.GetEnvVars()...)
		}
	}
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, etcdPrefix) && !slices.Contains(known, name) {
			log.Warn("unknown variable in the environment", "name", name)
		}
	}
}

// etcdPrefix begins the variables that set etcd's flags.
const etcdPrefix = "ETCD_"
