package netsec

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

// splitServer is both servers on one address.
type splitServer struct {
	URL
	split *Split
	info  chan credentials.AuthInfo // of each call
	stop  func()
}

func serveSplit(t *testing.T, raw string, f Files) *splitServer {
	t.Helper()
	u, err := ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	l, u, err := u.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &splitServer{URL: u, info: make(chan credentials.AuthInfo, 16)}
	if s.split, err = f.Split(u, l.Addr()); err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(s.split.Credentials()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if p, ok := peer.FromContext(ctx); ok {
				s.info <- p.AuthInfo
			}
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	web := &http.Server{ReadHeaderTimeout: 100 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		_, _ = io.WriteString(w, r.Proto+" "+r.URL.Path+" by "+name)
	})}
	ended := make(chan error, 2)
	go func() { ended <- srv.Serve(s.split.Listen(l)) }()
	go func() { ended <- web.Serve(s.split) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := s.split.Close(); err != nil {
			t.Error(err)
		}
		srv.Stop()
		_ = web.Close() // the listener is closed already
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		}
	}
	t.Cleanup(s.stop)
	return s
}

// page asks for a page as a client that knows HTTP/2 as well does.
func page(t *testing.T, u URL, f Files) (string, error) {
	t.Helper()
	conf, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	conf.NextProtos = nil // its own
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String()+"/page", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(res.Body)
	return string(body), errors.Join(err, res.Body.Close())
}

// TestSplit: one address speaks gRPC and HTTP/1.1, whoever comes first, and who
// a client is certified to be reaches both.
func TestSplit(t *testing.T) {
	p := newPKI(t)
	server, client := p.issue("server", "127.0.0.1"), p.issue("client", "client")
	strict := server
	strict.ClientCertAuth = true
	for _, c := range []struct {
		name, listen   string
		server, client Files
		who            string
		tls            bool
	}{
		{"plain", "http://127.0.0.1:0", Files{}, Files{}, "nobody", false},
		{"TLS", "https://127.0.0.1:0", server, Files{CA: server.CA}, "nobody", true},
		{"TLS, who are you", "https://127.0.0.1:0", strict, client, "client", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveSplit(t, c.listen, c.server)
			for range 3 {
				if body, err := page(t, s.URL, c.client); err != nil || body != "HTTP/1.1 /page by "+c.who {
					t.Errorf("%q, %v", body, err)
				}
				if err := call(t, s.String(), c.client); err != nil {
					t.Fatal(err)
				}
				info, secure := (<-s.info).(credentials.TLSInfo)
				if secure != c.tls || secure && c.who != "nobody" && info.State.VerifiedChains[0][0].Subject.CommonName != c.who {
					t.Errorf("%+v", info)
				}
			}
			if c.who != "nobody" {
				if body, err := page(t, s.URL, Files{CA: server.CA}); err == nil {
					t.Errorf("somebody without a certificate reads %q", body)
				}
			}
		})
	}
}

// TestSplitOldClient: one that knows no ALPN speaks HTTP/1.1.
func TestSplitOldClient(t *testing.T) {
	p := newPKI(t)
	f := p.issue("server", "127.0.0.1")
	s := serveSplit(t, "https://127.0.0.1:0", f)
	conf, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	conf.NextProtos = nil
	conn, err := tls.Dial("tcp", s.Addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // test
	if _, err := io.WriteString(conn, "GET /old HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got[len(got)-len("/old by server"):]) != "/old by server" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestSplitSilence: a connection that says nothing, or half a request, holds up
// neither the others nor the end.
func TestSplitSilence(t *testing.T) {
	s := serveSplit(t, "http://127.0.0.1:0", Files{})
	dial := func(first string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			_, err = io.WriteString(conn, first)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	silent, slow, half := dial(""), dial("PR"), dial("GET /half HTTP/1.1\r\nHo")
	if err := call(t, s.String(), Files{}); err != nil {
		t.Error(err)
	}
	if body, err := page(t, s.URL, Files{}); err != nil || body == "" {
		t.Errorf("%q, %v", body, err)
	}
	// gRPC lifts the bound of the handshake when it has handed the connection
	// over: the HTTP server's own must stand.
	if got, err := io.ReadAll(half); err != nil || len(got) > 0 && string(got[:12]) != "HTTP/1.1 400" && string(got[:12]) != "HTTP/1.1 408" {
		t.Errorf("half a request: %q, %v", got, err)
	}
	s.stop()
	for _, conn := range []net.Conn{silent, slow} {
		if _, err := io.ReadAll(conn); errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	if _, err := s.split.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
