package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

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
		Name: "node", Flags: append(nodeMemberFlags(), append(nodeClusterFlags(), nodeJoinFlags()...)...),
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
	if got := c.Duration("heartbeat-interval"); got != 50*time.Millisecond {
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
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseNode(t, file); !fault.Is(err, fault.Usage) {
				t.Errorf("got %v, want a usage error", err)
			}
		})
	}
}
