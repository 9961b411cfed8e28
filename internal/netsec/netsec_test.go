package netsec

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

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		in, want string // want empty: refused
	}{
		{"http://127.0.0.1:2379", "http://127.0.0.1:2379"},
		{" https://host:2380/ ", "https://host:2380"},
		{"http://[::1]:0", "http://[::1]:0"},
		{"http://:2379", "http://:2379"},
		{"unix:///run/a.sock", "unix:///run/a.sock"},
		{"unix://localhost:2379", "unix://localhost:2379"},
		{"unixs://a.sock", "unixs://a.sock"},
		{"", ""},
		{"127.0.0.1:2379", ""},
		{"http://127.0.0.1", ""},
		{"http://127.0.0.1:", ""},
		{"http://127.0.0.1:99999", ""},
		{"http://127.0.0.1:-1", ""},
		{"http://h:1/path", ""},
		{"http://h:1?q=1", ""},
		{"http://h:1#f", ""},
		{"http://user@h:1", ""},
		{"ftp://h:1", ""},
		{"unix://", ""},
		{"unix://a\x00b", ""},
		{"http://h\x7f:1", ""},
		{"http://" + strings.Repeat("h", maxURL) + ":1", ""},
	} {
		u, err := ParseURL(c.in)
		switch {
		case c.want == "" && !fault.Is(err, fault.Usage):
			t.Errorf("%q: %v, %v; want a usage error", c.in, u, err)
		case c.want != "" && (err != nil || u.String() != c.want):
			t.Errorf("%q: %v, %v; want %s", c.in, u, err, c.want)
		}
	}
	list, err := ParseURLs(" http://a:1, ,https://b:2")
	if err != nil || strings.Join(Strings(list), " ") != "http://a:1 https://b:2" {
		t.Errorf("%v, %v", list, err)
	}
	if !list[1].TLS() || list[0].TLS() || list[0].Unix() {
		t.Error("schemes are mixed up")
	}
	if _, err := ParseURLs("http://a:1,b"); err == nil {
		t.Error("a bad URL in a list passed")
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:2379", "unix:///a", "https://[::1]:0/", "http://%zz:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			if !fault.Is(err, fault.Usage) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseURL(u.String())
		if err != nil || again != u {
			t.Errorf("%q became %v, then %v, %v", s, u, again, err)
		}
	})
}

func TestListen(t *testing.T) {
	u, err := ParseURL("http://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, got, err := u.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	if got.Addr != l.Addr().String() || strings.HasSuffix(got.Addr, ":0") {
		t.Errorf("listening on %s, said %s", l.Addr(), got)
	}
	if _, _, err := got.Listen(t.Context()); !fault.Is(err, fault.InUse) {
		t.Errorf("a taken port: %v", err)
	}
	any, err := ParseURL("http://0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	l2, resolved, err := any.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l2.Close() //nolint:errcheck // test
	if !strings.HasPrefix(resolved.Addr, "0.0.0.0:") || strings.HasSuffix(resolved.Addr, ":0") {
		t.Errorf("resolved to %s", resolved)
	}
}

// pki is a CA and what it signed, in files.
type pki struct {
	t   *testing.T
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
	n   int64
}

func newPKI(t *testing.T) *pki {
	p := &pki{t: t, dir: t.TempDir()}
	p.key = p.newKey()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &p.key.PublicKey, p.key)
	p.must(err)
	p.ca, err = x509.ParseCertificate(der)
	p.must(err)
	p.write("ca.pem", "CERTIFICATE", der)
	return p
}

func (p *pki) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pki) newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.must(err)
	return k
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) write(name, kind string, der []byte) {
	p.must(os.WriteFile(p.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// issue makes name.pem and name.key for the host.
func (p *pki) issue(name, host string) Files {
	key := p.newKey()
	p.n++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(p.n + 1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.ca, &key.PublicKey, p.key)
	p.must(err)
	p.write(name+".pem", "CERTIFICATE", der)
	keyDER, err := x509.MarshalECPrivateKey(key)
	p.must(err)
	p.write(name+".key", "EC PRIVATE KEY", keyDER)
	return Files{Cert: p.path(name + ".pem"), Key: p.path(name + ".key"), CA: p.path("ca.pem")}
}

// serve runs a health service on the URL and gives where it listens.
func serve(t *testing.T, raw string, f Files, gate Gate) URL {
	t.Helper()
	u, err := ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := f.ServerCredentials(u)
	if err != nil {
		t.Fatal(err)
	}
	l, u, err := u.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(gate.ServerOptions(), grpc.Creds(creds))...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return u
}

func call(t *testing.T, url string, f Files) error {
	t.Helper()
	conn, err := Dial(url, f)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // test
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func TestWhoGetsThrough(t *testing.T) {
	ours, theirs := newPKI(t), newPKI(t)
	server := ours.issue("server", "127.0.0.1")
	strict := server
	strict.ClientCertAuth = true
	member := ours.issue("member", "member")
	stranger := theirs.issue("stranger", "stranger")
	stranger.CA = ours.path("ca.pem")
	wrongHost := ours.issue("elsewhere", "192.0.2.1")
	trusting := Files{CA: ours.path("ca.pem")}
	named := trusting
	named.ServerName = "192.0.2.1"
	sock := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		name   string
		listen string
		server Files
		client Files
		ok     bool
	}{
		{"plain", "http://127.0.0.1:0", Files{}, Files{}, true},
		{"socket", "unix://" + sock, Files{}, Files{}, true},
		{"TLS", "https://127.0.0.1:0", server, trusting, true},
		{"TLS, another CA", "https://127.0.0.1:0", server, Files{CA: theirs.path("ca.pem")}, false},
		{"TLS, the system's CAs", "https://127.0.0.1:0", server, Files{}, false},
		{"TLS, another host's certificate", "https://127.0.0.1:0", wrongHost, trusting, false},
		{"TLS, that host expected", "https://127.0.0.1:0", wrongHost, named, true},
		{"client certificate", "https://127.0.0.1:0", strict, member, true},
		{"no client certificate", "https://127.0.0.1:0", strict, trusting, false},
		{"client certificate of another CA", "https://127.0.0.1:0", strict, stranger, false},
		{"optional client certificate, bad", "https://127.0.0.1:0", server, stranger, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := serve(t, c.listen, c.server, nil)
			err := call(t, u.String(), c.client)
			if (err == nil) != c.ok {
				t.Errorf("%v, want success %v", err, c.ok)
			}
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("failed with %v", err)
			}
		})
	}
	t.Run("plain client, TLS server", func(t *testing.T) {
		u := serve(t, "https://127.0.0.1:0", server, nil)
		if err := call(t, "http://"+u.Addr, Files{}); err == nil {
			t.Error("passed")
		}
	})
	t.Run("no scheme", func(t *testing.T) {
		u := serve(t, "https://127.0.0.1:0", server, nil)
		if err := call(t, u.Addr, trusting); err != nil {
			t.Error(err)
		}
		u = serve(t, "http://127.0.0.1:0", Files{}, nil)
		if err := call(t, u.Addr, Files{}); err != nil {
			t.Error(err)
		}
	})
}

func TestOldTLSIsRefused(t *testing.T) {
	p := newPKI(t)
	f := p.issue("server", "127.0.0.1")
	u := serve(t, "https://127.0.0.1:0", f, nil)
	cfg, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	server, err := f.Server()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MinVersion != tls.VersionTLS12 || server.MinVersion != tls.VersionTLS12 {
		t.Errorf("least versions %x, %x", cfg.MinVersion, server.MinVersion)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c := cfg.Clone()
		c.MinVersion, c.MaxVersion = version, version
		conn, err := tls.Dial("tcp", u.Addr, c)
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
}

// A certificate renewed in place is used without a restart.
func TestCertificateIsReadAgain(t *testing.T) {
	p := newPKI(t)
	f := p.issue("server", "127.0.0.1")
	u := serve(t, "https://127.0.0.1:0", f, nil)
	serial := func() *big.Int {
		cfg, err := f.Client()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", u.Addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // test
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	first := serial()
	p.issue("server", "127.0.0.1")
	if second := serial(); second.Cmp(first) == 0 {
		t.Error("the old certificate is still served")
	}
}

func TestBadFiles(t *testing.T) {
	p := newPKI(t)
	good := p.issue("server", "h")
	other := p.issue("other", "h")
	p.must(os.WriteFile(p.path("junk"), []byte("junk"), 0o600))
	type side func(Files) error
	server := func(f Files) error { _, err := f.Server(); return err }
	client := func(f Files) error { _, err := f.Client(); return err }
	for _, c := range []struct {
		name string
		f    Files
		on   []side
	}{
		{"key alone", Files{Key: good.Key}, []side{server, client}},
		{"certificate alone", Files{Cert: good.Cert}, []side{server, client}},
		{"another's key", Files{Cert: good.Cert, Key: other.Key}, []side{server, client}},
		{"absent", Files{Cert: p.path("x"), Key: p.path("y")}, []side{server, client}},
		{"absent CA", Files{Cert: good.Cert, Key: good.Key, CA: p.path("x")}, []side{server, client}},
		{"junk CA", Files{Cert: good.Cert, Key: good.Key, CA: p.path("junk")}, []side{server, client}},
		{"nothing", Files{}, []side{server}},
		{"client certificates of nobody", Files{Cert: good.Cert, Key: good.Key, ClientCertAuth: true}, []side{server}},
	} {
		for _, f := range c.on {
			if err := f(c.f); !fault.Is(err, fault.Usage) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	if _, err := (Files{}).ServerCredentials(URL{Scheme: "https"}); err == nil {
		t.Error("a TLS listener without a certificate")
	}
	if !(Files{}).Empty() || good.Empty() {
		t.Error("Empty is wrong")
	}
}

func TestGate(t *testing.T) {
	const check, watch = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
		info string // code in the detail
	}{
		{"yes", nil, codes.OK, ""},
		{"a status", status.Error(codes.Unauthenticated, "who"), codes.Unauthenticated, ""},
		{"a fault", fault.Newf(fault.Refused, "gate", "no").WithHint("ask"), codes.PermissionDenied, "refused"},
		{"any error", errors.New("no"), codes.PermissionDenied, "permission"},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := make(chan string, 4)
			u := serve(t, "http://127.0.0.1:0", Files{}, func(_ context.Context, m string) error {
				asked <- m
				return c.err
			})
			conn, err := Dial(u.String(), Files{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // test
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, unary := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			s, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, stream := s.Recv()
			for method, err := range map[string]error{check: unary, watch: stream} {
				if status.Code(err) != c.code {
					t.Errorf("%s: %v", method, err)
				}
				info := ""
				for _, d := range status.Convert(err).Details() {
					if i, ok := d.(*chainfirev1.ErrorInfo); ok {
						info = i.GetCode()
					}
				}
				if info != c.info {
					t.Errorf("%s: detail %q, want %q", method, info, c.info)
				}
			}
			if a, b := <-asked, <-asked; a != check || b != watch {
				t.Errorf("asked about %s, %s", a, b)
			}
		})
	}
}
