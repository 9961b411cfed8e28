package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

// parseNode gives what a command line and a configuration file make of the
// node's flags.
func parseNode(t *testing.T, file string, args ...string) (*cli.Context, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var got *cli.Context
	app := &cli.App{Name: "cfseed", Commands: []*cli.Command{{
		Name: "node", Flags: nodeFlags(),
		Action: func(c *cli.Context) error { got = c; return applyConfigFile(c, path) },
	}}}
	err := app.Run(append([]string{"cfseed", "node"}, args...))
	return got, err
}

func TestConfigFile(t *testing.T) {
	c, err := parseNode(t, strings.Join([]string{
		"name: from-file", "data-dir: /somewhere", "heartbeat-interval: 50ms", "snapshot-count: 77",
		"listen-peer-urls: [http://127.0.0.1:1, http://127.0.0.1:2]", "await-seed: true", "lease-bytes: 2MiB"}, "\n"),
		"--name", "from-flag")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.String("name"); got != "from-flag" {
		t.Errorf("name %q: the command line comes first", got)
	}
	if got := c.String("data-dir"); got != "/somewhere" {
		t.Errorf("data-dir %q", got)
	}
	if got := command.MillisOf(c, "heartbeat-interval"); got != 50*time.Millisecond {
		t.Errorf("heartbeat-interval %s", got)
	}
	if got := c.Uint64("snapshot-count"); got != 77 {
		t.Errorf("snapshot-count %d", got)
	}
	if got := list(c, "listen-peer-urls"); len(got) != 2 || got[1] != "http://127.0.0.1:2" {
		t.Errorf("listen-peer-urls %q", got)
	}
	if !c.Bool("await-seed") {
		t.Error("await-seed is not set")
	}
}

func TestConfigFileRefused(t *testing.T) {
	for name, file := range map[string]string{
		"unknown flag":   "no-such-flag: 1",
		"itself":         "config: other.yaml",
		"not a map":      "- a\n- b",
		"not YAML":       "name: [",
		"nested":         "name: {a: b}",
		"bad duration":   "heartbeat-interval: soon",
		"list of a list": "listen-peer-urls: [{a: b}]",
		"etcd's itself":  "config-file: other.yaml",
		"not a section":  "client-transport-security: yes",
		"no such key":    "peer-transport-security: {cert: x}",
		"etcd alone":     "client-transport-security: {allowed-cn: [x]}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseNode(t, file); !fault.Is(err, fault.Usage) {
				t.Errorf("got %v, want a usage error", err)
			}
		})
	}
}

// TestEtcdConfigFile: etcd's file has sections, times without a unit, and names
// without a value.
func TestEtcdConfigFile(t *testing.T) {
	c, err := parseNode(t, `
name: 'm1'
data-dir: /somewhere
wal-dir:
heartbeat-interval: 250
election-timeout: 2500
quota-backend-bytes: 0
listen-client-urls: https://127.0.0.1:1,https://127.0.0.1:2
initial-cluster-state: 'existing'
grpc-keepalive-min-time: 3000000000
watch-progress-notify-interval: 5m
auto-compaction-mode: revision
auto-compaction-retention: 1000
strict-reconfig-check: true
client-transport-security:
  cert-file: /c.pem
  key-file: /c.key
  client-cert-auth: true
  trusted-ca-file: /ca.pem
  auto-tls: false
  allowed-cn:
peer-transport-security:
  cert-file: /p.pem
  trusted-ca-file: /pca.pem
socket-options: {reuse-port: false}
`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"name": "m1", "data-dir": "/somewhere", "wal-dir": "", "listen-client-urls": "https://127.0.0.1:1,https://127.0.0.1:2",
		"initial-cluster-state": "existing", "auto-compaction-retention": "1000", "cert-file": "/c.pem", "key-file": "/c.key",
		"trusted-ca-file": "/ca.pem", "peer-cert-file": "/p.pem", "peer-trusted-ca-file": "/pca.pem", "peer-key-file": "",
	} {
		if got := c.String(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !c.Bool("client-cert-auth") || c.Bool("peer-client-cert-auth") || c.IsSet("wal-dir") {
		t.Error("client-cert-auth, peer-client-cert-auth or wal-dir")
	}
	for name, want := range map[string]time.Duration{"grpc-keepalive-min-time": 3 * time.Second, "watch-progress-notify-interval": 5 * time.Minute} {
		if got := c.Duration(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := command.MillisOf(c, "election-timeout"); got != 2500*time.Millisecond {
		t.Errorf("election-timeout: %s", got)
	}
}

// TestConfigFileSuggests: a name that is misspelt is told with the right one.
func TestConfigFileSuggests(t *testing.T) {
	for file, want := range map[string]string{
		"listen-client-url: x":                 "did you mean listen-client-urls?",
		"client-transport-securty: {}":         "did you mean client-transport-security?",
		"peer-transport-security: {key-fil: }": "did you mean key-file?",
		"zzzzz: 1":                             "cfseed node --help lists them",
	} {
		if _, err := parseNode(t, file); !fault.Is(err, fault.Usage) || fault.HintOf(err) != want {
			t.Errorf("%s: %v, hint %q, want %q", file, err, fault.HintOf(err), want)
		}
	}
}

// FuzzConfigFile: whatever a file holds is settings or wrong usage.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{"name: a", "client-transport-security: {cert-file: x, allowed-cn: }", "listen-peer-urls: [a, [b]]", "a: &a [*a]",
		"heartbeat-interval: 1e9", "? [x]: y", "1: 2", "grpc-keepalive-interval: -1", "socket-options:\n- reuse-port"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		app := &cli.App{Name: "cfseed", Writer: io.Discard, ErrWriter: io.Discard, Commands: []*cli.Command{{
			Name: "node", Flags: nodeFlags(),
			Action: func(c *cli.Context) error { return applyConfig(c, "test", text) },
		}}}
		if err := app.Run([]string{"cfseed", "node"}); err != nil && !fault.Is(err, fault.Usage) {
			t.Errorf("%v is no wrong usage", err)
		}
	})
}
