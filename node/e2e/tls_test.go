//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// authority is a CA and where its files are.
type authority struct {
	t    *testing.T
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir, name: name}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	a.key = a.newKey()
	a.cert = a.sign(name, template, template, a.key, a.key)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, a.name+"-"+name) }

// ca is the file to trust the authority with.
func (a *authority) ca() string { return a.file(a.name + ".pem") }

// sign makes a certificate and writes it.
func (a *authority) sign(name string, template, parent *x509.Certificate, own, signer *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue makes a certificate of 127.0.0.1 for servers and clients and gives its
// files.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	own := a.newKey()
	a.sign(name, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, own, a.key)
	der, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".key", "EC PRIVATE KEY", der)
	return a.file(name + ".pem"), a.file(name + ".key")
}

// nodeFlags secure one side of a node: prefix "" for clients, "peer-" for members.
func (a *authority) nodeFlags(prefix string) []string {
	cert, key := a.issue("node")
	return []string{"--" + prefix + "cert-file", cert, "--" + prefix + "key-file", key,
		"--" + prefix + "trusted-ca-file", a.ca(), "--" + prefix + "client-cert-auth"}
}

// commandFlags secure a command whose certificate is of the authority by and
// that trusts this one.
func (a *authority) commandFlags(by *authority, name string) []string {
	cert, key := by.issue(name)
	return []string{"--cacert", a.ca(), "--cert", cert, "--key", key}
}

// clientTLS is commandFlags for clientv3.
func (a *authority) clientTLS(by *authority, name string) *tls.Config {
	a.t.Helper()
	cert, key := by.issue(name)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// TestTLS secures clients and members by two authorities, each side asking for
// certificates: who has one of the right authority gets in, nobody else, and
// all ways to join work.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clients, members, strangers := newAuthority(t, dir, "clients"), newAuthority(t, dir, "members"), newAuthority(t, dir, "strangers")
	c := NewCluster(t, append(clients.nodeFlags(""), members.nodeFlags("peer-")...)...)
	c.Scheme, c.TLS, c.Secure = "https", clients.clientTLS(clients, "writer"), clients.commandFlags(clients, "operator")
	first := c.Start("n1")
	w := c.StartWriter(2, 200)
	w.AwaitMore(50)

	second := c.StartAwaiting("n2", "--cluster-id", c.MustAsk("member", "list").Str("cluster_id"))
	c.add(second)
	second.Stop()
	second.Restart("--await-seed") // ignored by a member, whom it accepts as well
	third := c.Spawn("n3", "--join", first.Client)
	third.WaitReady(startPatience)
	c.AwaitRole("voter", first, second, third)
	fourth := c.New("n4")
	if r := c.CLI(append([]string{"pull", "--from", first.Client, "--data-dir", fourth.DataDir, "--name", fourth.Name}, c.Secure...)...); r.Code != 0 {
		t.Fatalf("pull: %s", r)
	}
	fourth.Spawn("--join", first.Client)
	fourth.WaitReady(startPatience)
	c.AwaitRole("voter", fourth)

	for name, flags := range map[string][]string{
		"a certificate of strangers": clients.commandFlags(strangers, "stranger"),
		"no certificate":             {"--cacert", clients.ca()},
		"trust in strangers":         strangers.commandFlags(clients, "operator"),
		"no TLS configuration":       nil,
	} {
		for _, command := range [][]string{{"member", "list"}, {"get", "a"}, {"push", "--to", "https://127.0.0.1:1"}} {
			args := append(append([]string{}, command...), "--endpoints", first.Client, "--timeout", "3s")
			if r := c.CLI(append(args, flags...)...); r.Code == 0 || r.Str("error", "code") == "" {
				t.Errorf("%v with %s: %s", command, name, r)
			}
		}
	}
	// A member's address takes a member's certificate, not a client's.
	seeding := []string{"pull", "--from", first.Peer, "--data-dir", filepath.Join(dir, "stolen"), "--timeout", "3s"}
	if r := c.CLI(append(seeding, c.Secure...)...); r.Code == 0 {
		t.Errorf("pull from a member's address with a client's certificate: %s", r)
	}
	wrongClient(t, first, clients.clientTLS(strangers, "stranger"))

	intruder := c.New("intruder")
	c.Common = append(strangers.nodeFlags(""), strangers.nodeFlags("peer-")...)
	intruder.Spawn("--await-seed")
	if code, stderr := intruder.WaitExit(startPatience); code != 2 || !strings.Contains(stderr, "cfseed member token intruder") {
		t.Errorf("a secure node that waits for anybody: exit %d: %s", code, stderr)
	}
	if _, err := os.Stat(intruder.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory was touched: %v", err)
	}
	intruder.Spawn("--await-seed", "--join-token", "any")
	intruder.WaitLine("waiting for seed", startPatience)
	if r := c.Ask("member", "add", intruder.Name, "--peer-urls", intruder.Peer); r.Code != 3 {
		t.Errorf("member add of a node with a certificate of strangers: %s", r)
	}
	w.CheckOn(first, second, third, fourth)
	for name, config := range map[string]*tls.Config{"": clients.clientTLS(clients, "probe"), "a stranger": clients.clientTLS(strangers, "stranger")} {
		code, body, err := page(t, first.Client+"/health?serializable=true", config)
		if (err == nil) != (name == "") || err == nil && (code != 200 || body != `{"health":"true","reason":""}`) {
			t.Errorf("%s asks for the health: %d %q, %v", name, code, body, err)
		}
	}
}

// wrongClient wants etcd's client to be refused with the configuration.
func wrongClient(t *testing.T, n *Node, config *tls.Config) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{n.Client}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // ends with "context canceled" by design
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := client.Get(ctx, "a"); err == nil {
		t.Error("a client with a certificate of strangers is served")
	}
}
