package netsec

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const echoes = "echo-protocol/1"

// serveApart serves gRPC and an echo on one address.
func serveApart(t *testing.T, scheme string, f Files, http bool) string {
	t.Helper()
	l, u, err := URL{Scheme: scheme, Addr: "127.0.0.1:0"}.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Split(u, l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	own := s.Apart(echoes)
	if !http {
		s.WithoutHTTP()
	}
	srv := grpc.NewServer(grpc.Creds(s.Credentials()))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(s.Listen(l)) })
	wg.Go(func() {
		for {
			c, err := own.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		srv.Stop()
		wg.Wait()
	})
	return u.String()
}

// A protocol of its own has an address together with gRPC, with TLS and without.
func TestApart(t *testing.T) {
	ca := newPKI(t)
	for scheme, f := range map[string]Files{"http": {}, "https": ca.issue("server", "127.0.0.1")} {
		t.Run(scheme, func(t *testing.T) {
			url := serveApart(t, scheme, f, false)
			wrapped := 0
			wrap := func(c net.Conn) net.Conn { wrapped++; return c }
			conn, err := DialApart(t.Context(), url, f, echoes, wrap)
			if err != nil {
				t.Fatal(err)
			}
			const said = "PRI * and what else there is"
			if _, err := io.WriteString(conn, said); err != nil {
				t.Fatal(err)
			}
			heard := make([]byte, len(said))
			if _, err := io.ReadFull(conn, heard); err != nil || string(heard) != said || wrapped != 1 {
				t.Errorf("%q, wrapped %d times: %v", heard, wrapped, err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			grpcConn, err := Dial(url, f)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = grpcConn.Close() }()
			if _, err := healthpb.NewHealthClient(grpcConn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Error(err)
			}
			ended := func(conn net.Conn, err error) bool {
				if err != nil {
					return true
				}
				defer func() { _ = conn.Close() }()
				if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
				_, err = conn.Read(make([]byte, 1))
				return err != nil && !strings.Contains(err.Error(), "timeout")
			}
			if !ended(DialApart(t.Context(), url, f, "echo-protocol/2", wrap)) {
				t.Error("another version of the protocol is served")
			}
			if !ended(DialApart(t.Context(), url, f, "GET / HTTP/1.1\r\n", wrap)) {
				t.Error("HTTP is served")
			}
		})
	}
	t.Run("other authority", func(t *testing.T) {
		url := serveApart(t, "https", ca.issue("server", "127.0.0.1"), true)
		if c, err := DialApart(t.Context(), url, newPKI(t).issue("other", "127.0.0.1"), echoes, func(c net.Conn) net.Conn { return c }); err == nil {
			_ = c.Close()
			t.Error("a certificate of another authority is taken")
		}
	})
}
