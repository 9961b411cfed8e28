package main

import (
	"math"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node"
	"github.com/chainfire/cfseed/node/policy"
)

const categoryClients = "CLIENTS"

// nodeLimitFlags are about history and what clients may ask for.
func nodeLimitFlags() []cli.Flag {
	requestBytes := command.Bytes(node.DefaultMaxRequestBytes)
	return []cli.Flag{
		&cli.StringFlag{Name: "auto-compaction-mode", Value: modePeriodic, Category: categoryMember, Usage: "`MODE` of --auto-compaction-retention: periodic or revision"},
		&cli.StringFlag{Name: "auto-compaction-retention", Value: "0", Category: categoryMember, Usage: "history that is kept, `LENGTH`: hours, a duration such as 30m, or a number of revisions; 0 = all"},
		&cli.GenericFlag{Name: "max-request-bytes", Value: &requestBytes, Category: categoryClients, Usage: "the largest request, `BYTES`"},
		&cli.IntFlag{Name: "max-txn-ops", Value: node.DefaultMaxTxnOps, Category: categoryClients, Usage: "operations in a transaction, `N`, which is no more than the default"},
		&cli.Uint64Flag{Name: "max-concurrent-streams", Value: math.MaxUint32, Category: categoryClients, Usage: "streams that one connection may have open, `N`"},
		&cli.DurationFlag{Name: "grpc-keepalive-min-time", Value: node.DefaultKeepaliveMinTime, Category: categoryClients, Usage: "a client that pings more often than every `DURATION` is cut off; no more than the default counts"},
		&cli.DurationFlag{Name: "grpc-keepalive-interval", Value: node.DefaultKeepaliveInterval, Category: categoryClients, Usage: "ping a client that was silent for `DURATION`; 0 = never"},
		&cli.DurationFlag{Name: "grpc-keepalive-timeout", Value: node.DefaultKeepaliveTimeout, Category: categoryClients, Usage: "cut it off when it does not answer within `DURATION`; 0 = never"},
	}
}

// limits reads nodeLimitFlags.
func limits(c *cli.Context, cfg *node.Config) (err error) {
	if cfg.Compact, err = compaction(c.String("auto-compaction-mode"), c.String("auto-compaction-retention")); err != nil {
		return err
	}
	size := command.BytesOf(c, "max-request-bytes")
	if size == 0 || size > node.MaxRequestBytes {
		return fault.Newf(fault.Usage, "", "--max-request-bytes %d: want 1 to %d", size, node.MaxRequestBytes)
	}
	cfg.MaxRequestBytes = int(size)
	if cfg.MaxTxnOps = c.Int("max-txn-ops"); cfg.MaxTxnOps < 1 {
		return fault.Newf(fault.Usage, "", "--max-txn-ops %d: want 1 or more", cfg.MaxTxnOps)
	}
	streams := c.Uint64("max-concurrent-streams")
	if streams == 0 || streams > math.MaxUint32 {
		return fault.Newf(fault.Usage, "", "--max-concurrent-streams %d: want 1 to %d", streams, uint32(math.MaxUint32))
	}
	if streams < math.MaxUint32 {
		cfg.MaxStreams = uint32(streams)
	}
	cfg.KeepaliveMinTime = c.Duration("grpc-keepalive-min-time")
	for name, value := range map[string]*time.Duration{"grpc-keepalive-interval": &cfg.KeepaliveInterval, "grpc-keepalive-timeout": &cfg.KeepaliveTimeout} {
		if *value = c.Duration(name); *value <= 0 {
			*value = -1
		}
	}
	return nil
}

const (
	modePeriodic = "periodic"
	modeRevision = "revision"
)

// compaction reads etcd's pair of flags: hours or a duration, or revisions.
func compaction(mode, retention string) (policy.CompactorOptions, error) {
	bad := func(format string, args ...any) (policy.CompactorOptions, error) {
		return policy.CompactorOptions{}, fault.Newf(fault.Usage, "", format, args...)
	}
	n, err := strconv.ParseInt(retention, 10, 64)
	number := err == nil
	switch {
	case mode != modePeriodic && mode != modeRevision:
		return bad("--auto-compaction-mode %q: want %s or %s", mode, modePeriodic, modeRevision)
	case retention == "":
		return policy.CompactorOptions{}, nil
	case number && n < 0:
		return bad("--auto-compaction-retention %s: less than nothing", retention)
	case mode == modeRevision && number:
		return policy.CompactorOptions{Revisions: n}, nil
	case mode == modeRevision:
		return bad("--auto-compaction-retention %q: want a number of revisions", retention)
	case number && n > int64(math.MaxInt64/time.Hour):
		return bad("--auto-compaction-retention %s: too many hours", retention)
	case number:
		return policy.CompactorOptions{Period: time.Duration(n) * time.Hour}, nil
	}
	period, err := time.ParseDuration(retention)
	if err != nil || period < 0 {
		return bad("--auto-compaction-retention %q: want hours or a duration such as 30m", retention)
	}
	return policy.CompactorOptions{Period: period}, nil
}
