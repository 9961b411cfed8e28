package dial

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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member is a fake whose Status is answer.
type member struct {
	chainfirev1.UnimplementedClusterServer
	etcdserverpb.UnimplementedAuthServer
	answer func(context.Context) error
	calls  atomic.Int32
}

func (m *member) Status(ctx context.Context, _ *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	m.calls.Add(1)
	if m.answer == nil {
		return &chainfirev1.StatusResponse{}, nil
	}
	return &chainfirev1.StatusResponse{}, m.answer(ctx)
}

func (m *member) Authenticate(_ context.Context, req *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	switch {
	case req.GetName() == "open":
		return nil, status.Error(codes.FailedPrecondition, "etcdserver: authentication is not enabled")
	case req.GetPassword() != "secret":
		return nil, status.Error(codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
	}
	return &etcdserverpb.AuthenticateResponse{Token: "token-of-" + req.GetName()}, nil
}

// serve starts m on loopback and gives its address.
func serve(t *testing.T, m *member, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	chainfirev1.RegisterClusterServer(s, m)
	etcdserverpb.RegisterAuthServer(s, m)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// deadAddress is a port on which nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newDialer(t *testing.T, cfg Config) *Dialer {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func askStatus(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{})
	return err
}

func followStatus(ctx context.Context, conn *grpc.ClientConn, _ func()) error {
	return askStatus(ctx, conn)
}

func TestNewRefuses(t *testing.T) {
	good := Config{Endpoints: []string{"127.0.0.1:1"}, Timeout: time.Second}
	tests := map[string]func(*Config){
		"no endpoint":         func(c *Config) { c.Endpoints = []string{"", " "} },
		"scheme":              func(c *Config) { c.Endpoints = []string{"ftp://a:1"} },
		"no port":             func(c *Config) { c.Endpoints = []string{"127.0.0.1:1", "http://a"} },
		"no timeout":          func(c *Config) { c.Timeout = 0 },
		"user without word":   func(c *Config) { c.User = "root" },
		"user without a name": func(c *Config) { c.User = ":x" },
		"key without cert":    func(c *Config) { c.Endpoints = []string{"https://a:1"}; c.Key = "key.pem" },
		"CA is not there":     func(c *Config) { c.Endpoints = []string{"https://a:1"}; c.CACert = "no-such-file.pem" },
	}
	for name, change := range tests {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestReadGoesOnAtTheNextEndpoint(t *testing.T) {
	broken := &member{answer: func(context.Context) error { return status.Error(codes.Unavailable, "going down") }}
	follower := &member{answer: func(context.Context) error {
		return rpcfault.ToStatus(fault.Newf(fault.NotLeader, "status", "ask another"))
	}}
	slow := &member{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	good := &member{}
	d := newDialer(t, Config{Timeout: 1500 * time.Millisecond, Endpoints: []string{deadAddress(t), serve(t, broken), serve(t, follower), serve(t, slow), serve(t, good)}})
	if err := d.Read(t.Context(), "status", askStatus); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*member{"broken": broken, "follower": follower, "slow": slow, "good": good} {
		if m.calls.Load() != 1 {
			t.Errorf("%s was asked %d times", name, m.calls.Load())
		}
	}
}

func TestReadStopsAtAnAnswer(t *testing.T) {
	refusing := &member{answer: func(context.Context) error {
		return rpcfault.ToStatus(fault.Newf(fault.Refused, "", "no").WithHint("ask nicely"))
	}}
	next := &member{}
	d := newDialer(t, Config{Endpoints: []string{serve(t, refusing), serve(t, next)}})
	err := d.Read(t.Context(), "status", askStatus)
	if !fault.Is(err, fault.Refused) || fault.HintOf(err) != "ask nicely" || next.calls.Load() != 0 {
		t.Errorf("%v, hint %q, next asked %d times", err, fault.HintOf(err), next.calls.Load())
	}
}

func TestWriteIsNotRepeatedWhenItMayHaveHappened(t *testing.T) {
	broken := &member{answer: func(context.Context) error { return status.Error(codes.Unavailable, "connection lost") }}
	next := &member{}
	d := newDialer(t, Config{Endpoints: []string{deadAddress(t), serve(t, broken), serve(t, next)}})
	if err := d.Write(t.Context(), "put", askStatus); !fault.Is(err, fault.Unreachable) || next.calls.Load() != 0 {
		t.Errorf("%v, next asked %d times", err, next.calls.Load())
	}
	slow := &member{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	d = newDialer(t, Config{Timeout: 200 * time.Millisecond, Endpoints: []string{serve(t, slow), serve(t, next)}})
	if err := d.Write(t.Context(), "put", askStatus); !fault.Is(err, fault.Timeout) || next.calls.Load() != 0 {
		t.Errorf("%v, next asked %d times", err, next.calls.Load())
	}
	follower := &member{answer: func(context.Context) error { return rpcfault.ToStatus(fault.Newf(fault.NotLeader, "", "no")) }}
	d = newDialer(t, Config{Endpoints: []string{serve(t, follower), serve(t, next)}})
	if err := d.Write(t.Context(), "put", askStatus); err != nil || next.calls.Load() != 1 {
		t.Errorf("after not_leader: %v, next asked %d times", err, next.calls.Load())
	}
}

func TestNobodyThere(t *testing.T) {
	dead := deadAddress(t)
	d := newDialer(t, Config{Endpoints: []string{dead}})
	calls := map[string]func() error{
		"read":   func() error { return d.Read(t.Context(), "status", askStatus) },
		"write":  func() error { return d.Write(t.Context(), "put", askStatus) },
		"follow": func() error { return d.Follow(t.Context(), "member add", followStatus) },
		"once":   func() error { return d.Once(t.Context(), "push", dead, followStatus) },
	}
	for name, call := range calls {
		err := call()
		if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), dead) {
			t.Errorf("%s: %v", name, err)
		}
	}
	follower := &member{answer: func(context.Context) error { return rpcfault.ToStatus(fault.Newf(fault.NotLeader, "", "no leader")) }}
	d = newDialer(t, Config{Endpoints: []string{serve(t, follower)}})
	if err := d.Write(t.Context(), "put", askStatus); !fault.Is(err, fault.NotLeader) {
		t.Errorf("only a follower: %v", err)
	}
}

// TestSilentEndpoint: something accepts and never speaks.
func TestSilentEndpoint(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good := &member{}
	d := newDialer(t, Config{Timeout: 1500 * time.Millisecond, Endpoints: []string{l.Addr().String(), serve(t, good)}})
	if err := d.Read(t.Context(), "status", askStatus); err != nil || good.calls.Load() != 1 {
		t.Errorf("%v, good asked %d times", err, good.calls.Load())
	}
	if _, err := d.Dial(t.Context(), l.Addr().String()); !fault.Is(err, fault.Unreachable) {
		t.Errorf("dial: %v", err)
	}
}

func TestFollowGoesOnUntilTheCallEnds(t *testing.T) {
	first := &member{answer: func(context.Context) error { return status.Error(codes.Unavailable, "killed") }}
	var tries atomic.Int32
	second := &member{answer: func(context.Context) error {
		if tries.Add(1) == 1 {
			return rpcfault.ToStatus(fault.Newf(fault.NotLeader, "", "election"))
		}
		return nil
	}}
	d := newDialer(t, Config{Endpoints: []string{serve(t, first), serve(t, second)}})
	if err := d.Follow(t.Context(), "member add", followStatus); err != nil {
		t.Fatal(err)
	}
	if first.calls.Load() != 2 || second.calls.Load() != 2 {
		t.Errorf("asked %d and %d times", first.calls.Load(), second.calls.Load())
	}
	// Unreachable as the cluster's own word is an answer, not a broken connection.
	third := &member{answer: func(context.Context) error {
		return rpcfault.ToStatus(fault.Newf(fault.Unreachable, "", "nobody waits there"))
	}}
	d = newDialer(t, Config{Endpoints: []string{serve(t, third), serve(t, second)}})
	if err := d.Follow(t.Context(), "member add", followStatus); !fault.Is(err, fault.Unreachable) || third.calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, third.calls.Load())
	}
}

func TestFollowEndsWithoutProgress(t *testing.T) {
	silent := &member{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	endpoint := serve(t, silent)
	d := newDialer(t, Config{Timeout: 200 * time.Millisecond, Endpoints: []string{endpoint}})
	for name, err := range map[string]error{
		"follow": d.Follow(t.Context(), "member add", followStatus),
		"once":   d.Once(t.Context(), "push", endpoint, followStatus),
	} {
		if !fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "no progress for 200ms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := &member{answer: func(context.Context) error { return status.Error(codes.Unavailable, "killed") }}
	d = newDialer(t, Config{Timeout: 200 * time.Millisecond, Endpoints: []string{serve(t, broken)}})
	if err := d.Follow(t.Context(), "member add", followStatus); !fault.Is(err, fault.Timeout) {
		t.Errorf("always broken: %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	silent := &member{answer: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	endpoint := serve(t, silent)
	d := newDialer(t, Config{Endpoints: []string{endpoint}})
	calls := map[string]func(context.Context) error{
		"read":   func(ctx context.Context) error { return d.Read(ctx, "status", askStatus) },
		"follow": func(ctx context.Context) error { return d.Follow(ctx, "member add", followStatus) },
		"once":   func(ctx context.Context) error { return d.Once(ctx, "push", endpoint, followStatus) },
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := call(ctx); !fault.Is(err, fault.Timeout) {
			t.Errorf("%s, deadline: %v", name, err)
		}
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if err := call(ctx); !fault.Is(err, fault.Interrupted) {
			t.Errorf("%s, interrupt: %v", name, err)
		}
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, beat, stop := Watch(t.Context(), time.Second)
		defer stop()
		for range 5 {
			<-time.After(900 * time.Millisecond) // of virtual time
			beat()
		}
		if ctx.Err() != nil {
			t.Fatalf("ended in spite of progress: %v", context.Cause(ctx))
		}
		<-ctx.Done()
		if !fault.Is(context.Cause(ctx), fault.Timeout) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
		beat() // after the end: nothing
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, beat, stop := Watch(t.Context(), time.Second)
		stop()
		beat()
		if !errors.Is(context.Cause(ctx), context.Canceled) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
	})
}

func TestUser(t *testing.T) {
	var seen atomic.Value
	m := &member{answer: func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		seen.Store(strings.Join(md.Get("token"), ","))
		return nil
	}}
	endpoint := serve(t, m)
	tests := []struct {
		user, token string
		code        fault.Code
	}{
		{"", "", ""},
		{"root:secret", "token-of-root", ""},
		{"open:x", "", ""},
		{"root:wrong", "", fault.Permission},
	}
	for _, tc := range tests {
		seen.Store("")
		d := newDialer(t, Config{Endpoints: []string{endpoint}, User: tc.user})
		err := d.Read(t.Context(), "status", askStatus)
		if fault.CodeOf(err) != tc.code || seen.Load() != tc.token {
			t.Errorf("%q: %v, token %q", tc.user, err, seen.Load())
		}
	}
}

func TestTLS(t *testing.T) {
	ca, cert := certificates(t)
	m := &member{}
	endpoint := serve(t, m, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
	for _, e := range []string{"https://" + endpoint, endpoint} { // without a scheme the CA decides
		if err := newDialer(t, Config{Endpoints: []string{e}, CACert: ca}).Read(t.Context(), "status", askStatus); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
	stranger, _ := certificates(t)
	err := newDialer(t, Config{Endpoints: []string{"https://" + endpoint}, CACert: stranger}).Read(t.Context(), "status", askStatus)
	if !fault.Is(err, fault.Unreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of another authority: %v", err)
	}
	if err := newDialer(t, Config{Endpoints: []string{"http://" + endpoint}}).Read(t.Context(), "status", askStatus); !fault.Is(err, fault.Unreachable) {
		t.Errorf("plain text to a TLS server: %v", err)
	}
}

// certificates makes an authority, written to a file, and a certificate of it
// for 127.0.0.1.
func certificates(t *testing.T) (caFile string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
