package netsec

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

func TestParseTLSLimits(t *testing.T) {
	for name, want := range map[string]uint16{"": 0, "TLS1.2": tls.VersionTLS12, "TLS1.3": tls.VersionTLS13} {
		if got, err := ParseTLSVersion(name); got != want || err != nil {
			t.Errorf("%q: %x, %v", name, got, err)
		}
	}
	for _, name := range []string{"TLS1.1", "tls1.2", "1.3"} {
		if _, err := ParseTLSVersion(name); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v", name, err)
		}
	}
	got, err := ParseCipherSuites("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,")
	if err != nil || len(got) != 2 || got[0] != tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 {
		t.Errorf("%x, %v", got, err)
	}
	if got, err := ParseCipherSuites(""); got != nil || err != nil {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := ParseCipherSuites("TLS_NONE"); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
}

// TestTLSLimits: a server speaks the versions and suites that it was told, with
// gRPC alone and beside HTTP.
func TestTLSLimits(t *testing.T) {
	p := newPKI(t)
	server := p.issue("server", "127.0.0.1")
	const allowed, other = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	for _, c := range []struct {
		name     string
		min, max uint16
		suites   []uint16
		version  uint16 // of the client
		suite    uint16
		ok       bool
	}{
		{"open", 0, 0, nil, tls.VersionTLS12, other, true},
		{"at least 1.3", tls.VersionTLS13, 0, nil, tls.VersionTLS12, allowed, false},
		{"at least 1.3", tls.VersionTLS13, 0, nil, tls.VersionTLS13, allowed, true},
		{"at most 1.2", 0, tls.VersionTLS12, nil, tls.VersionTLS13, allowed, false},
		{"at most 1.2", 0, tls.VersionTLS12, nil, tls.VersionTLS12, allowed, true},
		{"one suite", 0, 0, []uint16{allowed}, tls.VersionTLS12, other, false},
		{"one suite", 0, 0, []uint16{allowed}, tls.VersionTLS12, allowed, true},
	} {
		f := server
		f.MinVersion, f.MaxVersion, f.CipherSuites = c.min, c.max, c.suites
		for where, u := range map[string]URL{"gRPC": serve(t, "https://127.0.0.1:0", f, nil), "both": serveSplit(t, "https://127.0.0.1:0", f).URL} {
			conf, err := Files{CA: server.CA}.Client()
			if err != nil {
				t.Fatal(err)
			}
			conf.MinVersion, conf.MaxVersion, conf.CipherSuites = c.version, c.version, []uint16{c.suite}
			conn, err := tls.Dial("tcp", u.Addr, conf)
			if (err == nil) != c.ok {
				t.Errorf("%s, %s, client of %s: %v", c.name, where, tls.VersionName(c.version), err)
			}
			if err == nil {
				_ = conn.Close()
			}
		}
	}
	for name, f := range map[string]Files{
		"less at most than at least": {MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12},
		"suites of TLS 1.3":          {MinVersion: tls.VersionTLS13, CipherSuites: []uint16{allowed}},
	} {
		f.Cert, f.Key = server.Cert, server.Key
		if _, err := f.Server(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// revoke writes the list of revoked certificates, DER or PEM.
func (p *pki) revoke(armour bool, serials ...int64) string {
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	issuer := *p.ca
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	issuer.SubjectKeyId = []byte{1}
	der, err := x509.CreateRevocationList(rand.Reader, list, &issuer, p.key)
	p.must(err)
	if armour {
		der = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	}
	p.must(os.WriteFile(p.path("crl"), der, 0o600))
	return p.path("crl")
}

// TestRevoked: a certificate that is revoked lets nobody in from then on, without
// a restart.
func TestRevoked(t *testing.T) {
	p := newPKI(t)
	server := p.issue("server", "127.0.0.1") // serial number 2
	good, bad := p.issue("good", "good"), p.issue("bad", "bad")
	server.ClientCertAuth, server.CRL = true, p.revoke(false)
	u := serve(t, "https://127.0.0.1:0", server, nil)
	for name, f := range map[string]Files{"good": good, "bad": bad} {
		if err := call(t, u.String(), f); err != nil {
			t.Errorf("%s, before: %v", name, err)
		}
	}
	for _, armour := range []bool{false, true} {
		p.revoke(armour, 77, 4)
		if err := call(t, u.String(), good); err != nil {
			t.Errorf("the other one is revoked: %v", err)
		}
		if err := call(t, u.String(), bad); err == nil {
			t.Error("a revoked certificate lets in")
		}
	}
	if err := os.Remove(server.CRL); err != nil {
		t.Fatal(err)
	}
	if err := call(t, u.String(), good); err == nil {
		t.Error("without the list somebody gets in")
	}
	for name, text := range map[string]string{"nothing": "", "no list": "text", "too large": strings.Repeat("x", maxCRLBytes+1)} {
		if err := os.WriteFile(server.CRL, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Server(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
