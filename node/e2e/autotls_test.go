//go:build e2e

package e2e

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ownCertificate reads the certificate that a node has made for a side.
func ownCertificate(t *testing.T, n *Node, side string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.DataDir, "fixtures", side, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAutoTLS: nodes that make their own certificates form a cluster by --join
// and by --await-seed; clients reach them without a check, or with one where
// they trust the files; a node that is started again has the same certificates.
func TestAutoTLS(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--auto-tls", "--peer-auto-tls", "--self-signed-cert-validity", "2")
	c.Scheme, c.TLS = "https", &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	bundle := filepath.Join(c.Dir, "trusted.pem")
	c.Secure = []string{"--cacert", bundle}
	trust := func(nodes ...*Node) {
		t.Helper()
		var all strings.Builder
		for _, n := range nodes {
			all.WriteString(ownCertificate(t, n, "client"))
		}
		if err := os.WriteFile(bundle, []byte(all.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := c.Start("n1")
	trust(first)
	w := c.StartWriter(2, 200)
	w.AwaitMore(50)
	second := c.Spawn("n2", "--join", first.Client)
	second.WaitReady(startPatience)
	trust(first, second)
	third := c.StartAwaiting("n3", "--cluster-id", c.MustAsk("member", "list").Str("cluster_id"))
	trust(first, second, third)
	c.add(third)
	c.AwaitRole("voter", first, second, third)
	if log := second.LogTail(1 << 20); !strings.Contains(log, "members' certificates are not verified") {
		t.Errorf("%s did not say what it does not check:\n%s", second.Name, log)
	}
	for _, n := range []*Node{second, third} {
		if n.LogCount("channels=true") == 0 {
			t.Errorf("%s did not get its chunks over channels", n.Name)
		}
	}
	for _, n := range []*Node{first, second, third} {
		if ownCertificate(t, n, "client") == ownCertificate(t, n, "peer") {
			t.Errorf("%s has one certificate for both sides", n.Name)
		}
	}
	if ownCertificate(t, first, "client") == ownCertificate(t, second, "client") || ownCertificate(t, first, "peer") == ownCertificate(t, second, "peer") {
		t.Error("a certificate came with the seed")
	}
	if r := c.CLI("get", "a", "--endpoints", second.Client, "--timeout", "3s"); r.Code == 0 {
		t.Errorf("a command that trusts nobody is served: %s", r)
	}

	client, peer := ownCertificate(t, second, "client"), ownCertificate(t, second, "peer")
	if code := second.Stop(); code != 0 {
		t.Errorf("%s ended with %d", second.Name, code)
	}
	second.Restart()
	if ownCertificate(t, second, "client") != client || ownCertificate(t, second, "peer") != peer {
		t.Error("a node that was started again made new certificates")
	}
	w.AwaitMore(50)
	w.CheckOn(first, second, third)
	for _, n := range []*Node{third, second, first} {
		n.Stop()
	}
	c.VerifyDirs(first, second, third)
}
