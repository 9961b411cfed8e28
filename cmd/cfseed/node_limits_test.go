package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node"
	"github.com/chainfire/cfseed/node/policy"
)

func TestCompactionFlags(t *testing.T) {
	for _, c := range []struct {
		mode, retention string
		want            policy.CompactorOptions
		bad             bool
	}{
		{mode: "periodic", retention: "0"},
		{mode: "periodic"},
		{mode: "periodic", retention: "5", want: policy.CompactorOptions{Period: 5 * time.Hour}},
		{mode: "periodic", retention: "72h", want: policy.CompactorOptions{Period: 72 * time.Hour}},
		{mode: "periodic", retention: "90s", want: policy.CompactorOptions{Period: 90 * time.Second}},
		{mode: "revision", retention: "0"},
		{mode: "revision", retention: "1000", want: policy.CompactorOptions{Revisions: 1000}},
		{mode: "revision", retention: "5m", bad: true},
		{mode: "periodic", retention: "-1", bad: true},
		{mode: "periodic", retention: "-1s", bad: true},
		{mode: "periodic", retention: "soon", bad: true},
		{mode: "periodic", retention: "9000000", bad: true},
		{mode: "", retention: "1", bad: true},
		{mode: "never", retention: "1", bad: true},
	} {
		got, err := compaction(c.mode, c.retention)
		if got != c.want || c.bad != fault.Is(err, fault.Usage) || !c.bad && err != nil {
			t.Errorf("%s %s: %+v, %v", c.mode, c.retention, got, err)
		}
	}
}

func TestLimitFlags(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // request, ops, streams, pings; or the failure
	}{
		{"", "1572864 128 0 5s 2s 5s"},
		{"--max-request-bytes 2097152 --max-txn-ops 64 --max-concurrent-streams 100", "2097152 64 100 5s 2s 5s"},
		{"--max-concurrent-streams 4294967295", "1572864 128 0 5s 2s 5s"},
		{"--grpc-keepalive-min-time 1s --grpc-keepalive-interval 0 --grpc-keepalive-timeout 20s", "1572864 128 0 1s -1ns 20s"},
		{"--max-request-bytes 0", "--max-request-bytes 0: want 1"},
		{"--max-request-bytes 1GiB", "--max-request-bytes 1073741824: want 1"},
		{"--max-txn-ops 0", "--max-txn-ops 0: want 1"},
		{"--max-concurrent-streams 0", "want 1 to"},
		{fmt.Sprint("--max-concurrent-streams ", uint64(math.MaxUint32)+1), "want 1 to"},
	} {
		p := parse(t, "", nil, strings.Fields(c.args)...)
		got := fmt.Sprint(p.err)
		if p.err == nil {
			var cfg node.Config
			if err := limits(p.ctx, &cfg); err != nil {
				t.Fatal(err)
			}
			got = fmt.Sprint(cfg.MaxRequestBytes, cfg.MaxTxnOps, cfg.MaxStreams, cfg.KeepaliveMinTime, cfg.KeepaliveInterval, cfg.KeepaliveTimeout)
			if got != c.want {
				t.Errorf("%s: %s, want %s", c.args, got, c.want)
			}
			continue
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.args, got, c.want)
		}
	}
}
