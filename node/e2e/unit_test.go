//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// etcdScript is cfseed behind etcd's name, as docs/etcd-compatibility.md has it.
func etcdScript(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec "+binary+" node \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEtcdUnit starts a cluster as etcd's documents say: one member by the
// flags of a unit, one by the environment of one, one by etcd's own file.
func TestEtcdUnit(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	etcd := etcdScript(t)
	flags, env, file := c.New("s1"), c.New("s2"), c.New("s3")
	members := fmt.Sprintf("s1=%s,s2=%s,s3=%s", flags.Peer, env.Peer, file.Peer)

	flags.begin(etcd, "-name", "s1", "-data-dir", flags.DataDir,
		"--listen-client-urls", flags.Client, "--advertise-client-urls", flags.Client,
		"--listen-peer-urls", flags.Peer, "--initial-advertise-peer-urls", flags.Peer,
		"--initial-cluster", members, "--initial-cluster-token", "tkn", "--initial-cluster-state", "new",
		"--heartbeat-interval", "100", "--election-timeout", "1000", "--snapshot-count=10000", "--max-wals=10",
		"--quota-backend-bytes=8589934592", "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h", "--max-request-bytes=2097152",
		"--pre-vote", "--strict-reconfig-check", "--logger=zap", "--log-outputs=stderr", "--client-cert-auth=false")

	env.Env = []string{
		"ETCD_NAME=s2", "ETCD_DATA_DIR=" + env.DataDir, "ETCD_LISTEN_CLIENT_URLS=" + env.Client, "ETCD_ADVERTISE_CLIENT_URLS=" + env.Client,
		"ETCD_LISTEN_PEER_URLS=" + env.Peer, "ETCD_INITIAL_ADVERTISE_PEER_URLS=" + env.Peer, "ETCD_INITIAL_CLUSTER=" + members,
		"ETCD_INITIAL_CLUSTER_TOKEN=tkn", "ETCD_INITIAL_CLUSTER_STATE=new", "ETCD_HEARTBEAT_INTERVAL=100", "ETCD_ELECTION_TIMEOUT=1000",
		"ETCD_AUTO_COMPACTION_RETENTION=1", "ETCD_ENABLE_V2=true", "ETCD_LOG_LEVEL=info", "ETCD_DISCOVERY=", "ETCD_WAL_DIR=/elsewhere"}
	env.begin(etcd)

	config := filepath.Join(c.Dir, "etcd.conf.yml")
	if err := os.WriteFile(config, []byte(strings.Join([]string{
		"name: s3", "data-dir: " + file.DataDir, "wal-dir:", "snapshot-count: 10000", "heartbeat-interval: 100", "election-timeout: 1000",
		"quota-backend-bytes: 0", "listen-peer-urls: " + file.Peer, "listen-client-urls: " + file.Client, "max-snapshots: 5", "max-wals: 5",
		"initial-advertise-peer-urls: " + file.Peer, "advertise-client-urls: " + file.Client, "discovery:", "initial-cluster: " + members,
		"initial-cluster-token: 'tkn'", "initial-cluster-state: 'new'", "strict-reconfig-check: false", "enable-pprof: true",
		"client-transport-security:", "  cert-file:", "  key-file:", "  client-cert-auth: false", "  trusted-ca-file:", "  auto-tls: false",
		"peer-transport-security:", "  cert-file:", "  client-cert-auth: false", "self-signed-cert-validity: 1", "log-level: info",
		"logger: zap", "log-outputs: [stderr]", "force-new-cluster: false", "auto-compaction-mode: periodic", `auto-compaction-retention: "1"`,
	}, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	file.begin(etcd, "--config-file", config)

	for _, n := range c.Nodes {
		n.WaitReady(startPatience)
	}
	if _, err := c.Client(flags).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if resp, err := c.Client(n).Get(t.Context(), "k"); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("%s: %v, %v", n.Name, resp, err)
		}
	}
	for _, say := range []struct {
		n    *Node
		text string
	}{
		{flags, "flag=--max-wals"}, {flags, "flag=--log-outputs"}, {env, "flag=--wal-dir"}, {env, `"unknown variable in the environment" name=ETCD_ENABLE_V2`},
		{file, "flag=--strict-reconfig-check"}, {file, "flag=--enable-pprof"},
	} {
		if say.n.LogCount(say.text) != 1 {
			t.Errorf("%s does not say %q once", say.n.Name, say.text)
		}
	}
	if n := flags.LogCount("flag without effect"); n != 2 {
		t.Errorf("s1 tells of %d flags without effect", n)
	}

	// A flag that would be missed ends the node before it touches anything.
	refused := c.New("s4")
	refused.begin(etcd, "--name", "s4", "--data-dir", refused.DataDir, "--force-new-cluster")
	if code, said := refused.WaitExit(startPatience); code != 2 || !strings.Contains(said, "--force-new-cluster true: an ID is one data directory's") {
		t.Errorf("exit %d: %s", code, said)
	}
	if _, err := os.Stat(refused.DataDir); !os.IsNotExist(err) {
		t.Errorf("its data directory: %v", err)
	}
}
