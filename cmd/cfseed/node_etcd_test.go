package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// etcdsFlags reads testdata/etcd-flags: what each flag of etcd's is here.
func etcdsFlags(t *testing.T) (names []string, kinds map[string]string) {
	t.Helper()
	text, err := os.ReadFile("testdata/etcd-flags")
	if err != nil {
		t.Fatal(err)
	}
	kinds = map[string]string{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		names, kinds[name] = append(names, name), kind
	}
	return names, kinds
}

func isEtcds(t *testing.T, f cli.Flag) bool {
	t.Helper()
	names, _ := etcdsFlags(t)
	return slices.ContainsFunc(f.Names(), func(n string) bool { return slices.Contains(names, n) })
}

// TestEtcdFlags: each flag of etcd's is taken, as testdata/etcd-flags says.
func TestEtcdFlags(t *testing.T) {
	names, want := etcdsFlags(t)
	if !slices.IsSorted(names) || len(names) < 100 {
		t.Errorf("%d flags, not in order or too few", len(names))
	}
	got, seen := map[string]string{}, map[string]bool{}
	for _, f := range etcdFlags {
		got[f.name] = "none"
		if f.refused {
			got[f.name] = "refused"
		}
		if f.why == "" {
			t.Errorf("--%s: without a reason", f.name)
		}
	}
	for _, f := range nodeFlags() {
		for _, name := range f.Names() {
			if seen[name] {
				t.Errorf("--%s is there twice: a flag that is served does not belong into etcdFlags", name)
			}
			seen[name] = true
			if command.Shown(f) && got[name] == "" && want[name] != "" {
				got[name] = "served"
			}
		}
	}
	for _, name := range names {
		if got[name] != want[name] {
			t.Errorf("--%s is %q, the list says %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("--%s is no flag of etcd's", name)
		}
	}
}

// TestEtcdFlagsAreDocumented: docs/etcd-compatibility.md has a row for each
// reason, with the flags that it is the reason of.
func TestEtcdFlagsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/etcd-compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	type reason struct {
		refused bool
		why     string
	}
	var order []reason
	flags := map[reason][]string{}
	for _, f := range etcdFlags {
		r := reason{f.refused, f.why}
		if flags[r] == nil {
			order = append(order, r)
		}
		flags[r] = append(flags[r], "`--"+f.name+"`")
	}
	for _, r := range order {
		what := "no effect"
		if r.refused {
			what = "refused"
		}
		if row := fmt.Sprintf("| %s | %s | %s |\n", strings.Join(flags[r], ", "), what, r.why); !strings.Contains(string(text), row) {
			t.Errorf("docs/etcd-compatibility.md lacks\n%s", row)
		}
	}
}

// parsed is what a command line, an environment and a file give a node.
type parsed struct {
	ctx *cli.Context
	log string
	err error
}

// parse runs the node command up to the point where it would start a node.
func parse(t *testing.T, file string, env map[string]string, args ...string) parsed {
	t.Helper()
	var environ []string
	for name, value := range env {
		t.Setenv(name, value)
		environ = append(environ, name+"="+value)
	}
	if file != "" {
		path := filepath.Join(t.TempDir(), "etcd.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config-file", path)
	}
	var got parsed
	var stderr, log bytes.Buffer
	constructor := func(e *command.Env) *cli.Command {
		return &cli.Command{Name: "node", Flags: nodeFlags(), Action: e.Action(func(_ context.Context, c *cli.Context, _ *command.Session) error {
			got.ctx = c
			if path := c.String("config"); path != "" {
				if err := applyConfigFile(c, path); err != nil {
					return err
				}
			}
			logger := slog.New(slog.NewTextHandler(&log, nil))
			if err := tellIgnored(c, logger); err != nil {
				return err
			}
			tellUnknown(c, environ, logger)
			_, err := nodeConfig(c)
			return err
		})}
	}
	e := &command.Env{Stdout: &stderr, Stderr: &stderr}
	if code := command.Main(t.Context(), e, command.NewApp(e, "cfseed", "", []command.Constructor{constructor}), append([]string{"cfseed", "node"}, args...)); code != 0 {
		got.err = fault.Newf(fault.Usage, "", "exit %d: %s", code, stderr.String())
	}
	got.log = log.String()
	return got
}

// TestWhoSetsAFlag: the command line comes first, then CFSEED_, then ETCD_, then
// the file.
func TestWhoSetsAFlag(t *testing.T) {
	const file = "name: file\nheartbeat-interval: 40\nlisten-client-urls: http://127.0.0.1:1\n"
	for _, c := range []struct {
		name string
		file string
		env  map[string]string
		args []string
		want string // name and heartbeat
	}{
		{"nothing", "", nil, nil, "default 100ms"},
		{"file", file, nil, nil, "file 40ms"},
		{"etcd's environment", file, map[string]string{"ETCD_NAME": "etcd", "ETCD_HEARTBEAT_INTERVAL": "50"}, nil, "etcd 50ms"},
		{"both environments", file, map[string]string{"ETCD_NAME": "etcd", "CFSEED_NAME": "own"}, nil, "own 40ms"},
		{"command line", file, map[string]string{"ETCD_NAME": "etcd", "CFSEED_NAME": "own"}, []string{"--name", "line"}, "line 40ms"},
		{"one dash", "", nil, []string{"-name=line", "-heartbeat-interval", "60"}, "line 60ms"},
		{"a unit", "", nil, []string{"--heartbeat-interval", "0.05s"}, "default 50ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, c.file, c.env, c.args...)
			if p.err != nil {
				t.Fatal(p.err)
			}
			if got := fmt.Sprint(p.ctx.String("name"), " ", command.MillisOf(p.ctx, "heartbeat-interval")); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	p := parse(t, "", map[string]string{"ETCD_CONFIG_FILE": writeConfig(t, file)})
	if p.err != nil || p.ctx.String("name") != "file" {
		t.Errorf("ETCD_CONFIG_FILE: %v", p.err)
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEtcdFlagsAreTold: what has no effect is said, unless it is what etcd does
// by default; what would be missed is refused; what is unknown is too, on the
// command line, or said, in the environment.
func TestEtcdFlagsAreTold(t *testing.T) {
	for _, c := range []struct {
		name      string
		args      string
		env       map[string]string
		said      string // in the log; "" = nothing
		forbidden string // "" = it starts
	}{
		{name: "defaults", args: "--pre-vote --strict-reconfig-check=true --logger zap --force-new-cluster=false --tls-min-version TLS1.2 --max-wals 5"},
		{name: "no effect", args: "--pre-vote=false", said: "flag=--pre-vote why=always"},
		{name: "no effect, with a value", args: "--max-wals=7", said: "flag=--max-wals"},
		{name: "no effect, by the environment", env: map[string]string{"ETCD_LOG_FORMAT": "console"}, said: "flag=--log-format"},
		{name: "empty", env: map[string]string{"ETCD_DISCOVERY": "", "ETCD_CIPHER_SUITES": ""}},
		{name: "etcd ignores it", args: "-vv", said: "flag=--vv"},
		{name: "refused", args: "--force-new-cluster", forbidden: "--force-new-cluster true: an ID is one data directory's"},
		{name: "refused with a value", args: "--discovery-srv example.com", forbidden: "--discovery-srv example.com: members are named by"},
		{name: "refused by the environment", env: map[string]string{"ETCD_UNSAFE_NO_FSYNC": "true"}, forbidden: "--unsafe-no-fsync true"},
		{name: "unknown", args: "--listen-client-url http://x:1", forbidden: "did you mean --listen-client-urls?"},
		{name: "unknown, near one without effect", args: "--snapshots 5", forbidden: "cfseed node --help"},
		{name: "unknown in the environment", env: map[string]string{"ETCD_NMAE": "x"}, said: "unknown variable in the environment"},
		{name: "level that ends the process", args: "--log-level panic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, "", c.env, strings.Fields(c.args)...)
			switch {
			case c.forbidden == "" && p.err != nil:
				t.Fatal(p.err)
			case c.forbidden != "" && (p.err == nil || !strings.Contains(p.err.Error(), c.forbidden)):
				t.Errorf("got %v, want %q", p.err, c.forbidden)
			}
			if (c.said == "") != (p.log == "") || !strings.Contains(p.log, c.said) {
				t.Errorf("said %q, want %q", p.log, c.said)
			}
		})
	}
}

// TestEtcdVersion: scripts that ask etcd for its version are answered.
func TestEtcdVersion(t *testing.T) {
	code, stdout, stderr := runArgs(t.Context(), "", "node", "--version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "etcd Version: 3.") || !strings.Contains(stdout, "\ncfseed ") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, stdout, _ := runArgs(t.Context(), "", "node", "--version", "-o", "json"); code != 0 || !strings.HasPrefix(stdout, `{"etcd_version":"3.`) || !strings.Contains(stdout, `"go":"go`) {
		t.Errorf("as JSON: exit %d, %q", code, stdout)
	}
}

// TestTLSFlags: versions and suites are read for both sides, and what is not
// known is refused before anything is touched.
func TestTLSFlags(t *testing.T) {
	p := parse(t, "", nil, strings.Fields("--tls-min-version TLS1.2 --tls-max-version TLS1.3 --cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 --client-crl-file c --peer-crl-file p")...)
	if p.err != nil {
		t.Fatal(p.err)
	}
	cfg, err := nodeConfig(p.ctx)
	if err != nil || cfg.ClientTLS.CRL != "c" || cfg.PeerTLS.CRL != "p" {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, f := range []netsec.Files{cfg.ClientTLS, cfg.PeerTLS} {
		if f.MinVersion != tls.VersionTLS12 || f.MaxVersion != tls.VersionTLS13 || !slices.Equal(f.CipherSuites, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}) {
			t.Errorf("%+v", f)
		}
	}
	for _, args := range []string{"--tls-min-version TLS1.1", "--tls-max-version 1.3", "--cipher-suites TLS_NONE"} {
		if p := parse(t, "", nil, strings.Fields(args)...); p.err == nil || !strings.Contains(p.err.Error(), "exit 2") {
			t.Errorf("%s: %v", args, p.err)
		}
	}
}
