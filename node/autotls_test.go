package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
)

func autoNode(t *testing.T, dir string, log *bytes.Buffer, change func(*Config)) *node {
	t.Helper()
	cfg := Config{DataDir: dir, AutoTLS: true, PeerAutoTLS: true, SelfSignedYears: 3,
		ListenClient: []string{"https://localhost:1"}, ListenPeer: []string{"https://127.0.0.1:2"}}
	change(&cfg)
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &node{cfg: cfg, dir: datadir.At(vfs.Default, dir), logger: slog.New(slog.NewTextHandler(log, nil))}
}

// TestCertificatesAreKept: they are made once, per side and where a URL needs
// one; of half a pair a new one is made; an expired one is told.
func TestCertificatesAreKept(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, "fixtures", name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	start := func() {
		t.Helper()
		n := autoNode(t, dir, &log, func(*Config) {})
		if err := n.autoTLS(); err != nil {
			t.Fatal(err)
		}
		if n.cfg.ClientTLS.Unverified || !n.cfg.PeerTLS.Unverified {
			t.Error("members' certificates, and no others, go without a check")
		}
	}
	start()
	if !strings.Contains(log.String(), "members' certificates are not verified") || strings.Count(log.String(), "certificate made") != 2 {
		t.Errorf("said %s", log.String())
	}
	client, peer := read("client/cert.pem")+read("client/key.pem"), read("peer/cert.pem")+read("peer/key.pem")
	start()
	if read("client/cert.pem")+read("client/key.pem") != client || read("peer/cert.pem")+read("peer/key.pem") != peer {
		t.Error("certificates were made again")
	}
	if err := os.Remove(filepath.Join(dir, "fixtures/client/key.pem")); err != nil {
		t.Fatal(err)
	}
	start()
	if read("client/cert.pem")+read("client/key.pem") == client || read("peer/cert.pem")+read("peer/key.pem") != peer {
		t.Error("half a pair was not replaced, or the other pair was")
	}

	n := autoNode(t, dir, &log, func(*Config) {})
	for years, want := range map[int]bool{2: false, 4: true} {
		log.Reset()
		if err := n.ownCertificate(n.cfg.autoSides()[0], time.Now().AddDate(years, 0, 0)); err != nil {
			t.Fatal(err)
		}
		n.cfg.ClientTLS.Cert, n.cfg.ClientTLS.Key = "", ""
		if strings.Contains(log.String(), "certificate has expired") != want {
			t.Errorf("after %d years: %q", years, log.String())
		}
	}
}

// TestCertificatesThatNobodyNeeds: none is made for plain text, or beside files
// that are given.
func TestCertificatesThatNobodyNeeds(t *testing.T) {
	from, dir := t.TempDir(), t.TempDir()
	var log bytes.Buffer
	if err := autoNode(t, from, &log, func(*Config) {}).autoTLS(); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	n := autoNode(t, dir, &log, func(c *Config) {
		c.ListenClient = []string{"http://127.0.0.1:1"}
		c.PeerTLS.Cert, c.PeerTLS.Key = filepath.Join(from, "fixtures/peer/cert.pem"), filepath.Join(from, "fixtures/peer/key.pem")
	})
	if err := n.autoTLS(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "fixtures")); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
	if n.cfg.PeerTLS.Unverified || !strings.Contains(log.String(), "certificate files are given") {
		t.Errorf("%+v; said %q", n.cfg.PeerTLS, log.String())
	}
}
