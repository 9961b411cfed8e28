package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/node/policy"
)

func TestConfigIsChecked(t *testing.T) {
	missing := netsec.Files{Cert: filepath.Join(t.TempDir(), "none"), Key: "none"}
	for _, c := range []struct {
		name string
		cfg  Config
		code fault.Code // empty: accepted
	}{
		{"no flags", Config{}, ""},
		{"port 0", Config{ListenPeer: []string{"http://127.0.0.1:0"}}, ""},
		{"two of a kind", Config{ListenClient: []string{"http://127.0.0.1:0", "http://[::1]:0"}}, ""},
		{"short election", Config{Heartbeat: time.Second, Election: 2 * time.Second}, fault.Usage},
		{"five heartbeats", Config{Heartbeat: time.Second, Election: 5 * time.Second}, ""},
		{"negative heartbeat", Config{Heartbeat: -time.Second}, fault.Usage},
		{"negative election", Config{Heartbeat: time.Nanosecond, Election: -1}, fault.Usage},
		{"negative lease", Config{LeaseTTL: -1}, fault.Usage},
		{"negative learners", Config{MaxLearners: -1}, fault.Usage},
		{"negative rate", Config{RateLimit: -1}, fault.Usage},
		{"negative parallel", Config{Parallel: -1}, fault.Usage},
		{"negative request", Config{MaxRequestBytes: -1}, fault.Usage},
		{"largest request", Config{MaxRequestBytes: MaxRequestBytes}, ""},
		{"larger request", Config{MaxRequestBytes: MaxRequestBytes + 1}, fault.Usage},
		{"most operations", Config{MaxTxnOps: DefaultMaxTxnOps}, ""},
		{"more operations", Config{MaxTxnOps: DefaultMaxTxnOps + 1}, fault.Usage},
		{"history by age and number", Config{Compact: policy.CompactorOptions{Period: 1, Revisions: 1}}, fault.Usage},
		{"negative history", Config{Compact: policy.CompactorOptions{Revisions: -1}}, fault.Usage},
		{"no pings", Config{KeepaliveInterval: -1, KeepaliveTimeout: -1}, ""},
		{"await and join", Config{AwaitSeed: true, Join: []string{"h:1"}}, fault.Usage},
		{"existing alone", Config{Existing: true}, fault.Usage},
		{"existing with members", Config{Existing: true, InitialCluster: "a=http://h:1"}, ""},
		{"existing and join", Config{Existing: true, Join: []string{"h:1"}}, ""},
		{"name with =", Config{Name: "a=b"}, fault.Usage},
		{"name with ,", Config{Name: "a,b"}, fault.Usage},
		{"client URL without scheme", Config{ListenClient: []string{"127.0.0.1:1"}}, fault.Usage},
		{"peer URL without port", Config{ListenPeer: []string{"http://127.0.0.1"}}, fault.Usage},
		{"clients at every interface", Config{ListenClient: []string{"http://0.0.0.0:0"}}, fault.Usage},
		{"... advertised at one", Config{ListenClient: []string{"http://0.0.0.0:0"}, AdvertiseClient: []string{"http://127.0.0.1:1"}}, ""},
		{"... advertised at no URL", Config{AdvertiseClient: []string{"127.0.0.1:1"}}, fault.Usage},
		{"peers at every interface", Config{ListenPeer: []string{"http://[::]:0"}}, fault.Usage},
		{"... advertised at one", Config{ListenPeer: []string{"http://[::]:0"}, AdvertisePeer: []string{"http://127.0.0.1:1"}}, ""},
		{"... of a founder", Config{ListenPeer: []string{"http://[::]:0"}, InitialCluster: "a=http://127.0.0.1:1"}, ""},
		{"... that wait", Config{ListenPeer: []string{"http://:0"}, AwaitSeed: true}, ""},
		{"... at no URL", Config{AdvertisePeer: []string{"http://127.0.0.1"}}, fault.Usage},
		{"metrics URL", Config{ListenMetrics: []string{"ftp://h:1"}}, fault.Usage},
		{"TLS beside plain", Config{ListenPeer: []string{"http://127.0.0.1:0", "https://127.0.0.1:0"}}, fault.Usage},
		{"TLS without a certificate", Config{ListenClient: []string{"https://127.0.0.1:0"}}, fault.Usage},
		{"TLS with no such certificate", Config{ListenClient: []string{"https://127.0.0.1:0"}, ClientTLS: missing}, fault.Usage},
		{"certificates to be made", Config{ListenClient: []string{"https://127.0.0.1:0"}, ListenPeer: []string{"https://127.0.0.1:0"}, AutoTLS: true, PeerAutoTLS: true}, ""},
		{"no such certificate, though one would be made", Config{ListenClient: []string{"https://127.0.0.1:0"}, ClientTLS: missing, AutoTLS: true}, fault.Usage},
		{"made for clients only", Config{ListenPeer: []string{"https://127.0.0.1:0"}, AutoTLS: true}, fault.Usage},
		{"good for no time", Config{AutoTLS: true, SelfSignedYears: -1}, fault.Usage},
		{"good for too long", Config{PeerAutoTLS: true, SelfSignedYears: 101}, fault.Usage},
		{"good for no time, but not made", Config{SelfSignedYears: -1}, ""},
		{"members with a CA that signs none", Config{PeerAutoTLS: true, PeerTLS: netsec.Files{CA: "ca"}}, fault.Usage},
		{"members asked for what they lack", Config{PeerAutoTLS: true, PeerTLS: netsec.Files{ClientCertAuth: true}}, fault.Usage},
		{"metrics TLS without a certificate", Config{ListenMetrics: []string{"https://127.0.0.1:0"}}, fault.Usage},
	} {
		_, err := c.cfg.withDefaults()
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "default" || cfg.DataDir != "default.cfseed" || cfg.ticks() != 10 || cfg.FS == nil || cfg.Ready == nil || cfg.Logger == nil {
		t.Errorf("%+v", cfg)
	}
	if cfg, err = (Config{Name: "n1"}).withDefaults(); err != nil || cfg.DataDir != "n1.cfseed" {
		t.Errorf("%q, %v", cfg.DataDir, err)
	}
}

// A directory with somebody's files is refused and not even locked.
func TestForeignDirectoryIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "photo.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{DataDir: dir, ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}})
	if !fault.Is(err, fault.NotEmpty) {
		t.Errorf("%v, want not_empty", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}
