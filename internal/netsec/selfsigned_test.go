package netsec

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestSelfSigned: a certificate names its hosts, is good for its years, and a
// client that trusts it and no other is served.
func TestSelfSigned(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	hosts, err := Hosts([]string{"https://127.0.0.1:1", "https://127.0.0.1:2", "https://localhost:1", "https://[::1]:0", "https://:3", "unixs:///a"})
	if err != nil || !slices.Equal(hosts, []string{"127.0.0.1", "localhost", "::1"}) {
		t.Fatalf("%q, %v", hosts, err)
	}
	cert, key, err := SelfSigned(hosts, now, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, text := range map[string][]byte{f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if expires, err := f.Expires(); err != nil || !expires.Equal(now.Add(2*365*24*time.Hour)) {
		t.Errorf("expires %v, %v", expires, err)
	}
	server, err := f.Server()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing waits for it
	for _, c := range []struct {
		name  string
		host  string
		files Files
		ok    bool
	}{
		{"trusted, by address", "127.0.0.1", Files{CA: f.Cert}, true},
		{"trusted, by name", "localhost", Files{CA: f.Cert}, true},
		{"of another host", "example.com", Files{CA: f.Cert}, false},
		{"not trusted", "127.0.0.1", Files{}, false},
		{"not verified", "example.com", Files{Unverified: true}, true},
		{"a member's own is not asked for", "127.0.0.1", Files{Unverified: true, Cert: f.Cert, Key: f.Key}, true},
	} {
		client, err := c.files.Client()
		if err != nil {
			t.Fatal(err)
		}
		client.ServerName = c.host
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.(*tls.Conn).Handshake() // the client tells
			_ = conn.Close()
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), client)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			_ = conn.Close() // what the handshake has shown is enough
		}
		<-done
	}
	pair, err := f.pair()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil || !leaf.NotBefore.Equal(now) || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		t.Errorf("%+v, %v", leaf, err)
	}
	if _, is := pair.PrivateKey.(*ecdsa.PrivateKey); !is {
		t.Errorf("key of type %T", pair.PrivateKey)
	}
	for _, years := range []int{-1, 0, MaxSelfSignedYears + 1} {
		if _, _, err := SelfSigned(hosts, now, years); !fault.Is(err, fault.Usage) {
			t.Errorf("%d years: %v", years, err)
		}
	}
}

// TestApartUnverified: channels of seeds reach a member that made its own
// certificate, and only where it is not verified.
func TestApartUnverified(t *testing.T) {
	cert, key, err := SelfSigned([]string{"elsewhere"}, time.Now(), 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, text := range map[string][]byte{f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := serveApart(t, "https", f, false)
	for _, f.Unverified = range []bool{true, false} {
		conn, err := DialApart(t.Context(), url, f, echoes, func(c net.Conn) net.Conn { return c })
		if (err == nil) != f.Unverified {
			t.Errorf("unverified %v: %v", f.Unverified, err)
		}
		if err == nil {
			_ = conn.Close() // it stands, which is enough
		}
	}
}
