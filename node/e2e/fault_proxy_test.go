//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// fountain is a server that sends the same bytes to everybody who connects and
// then ends the connection; it counts what it is sent.
type fountain struct {
	ln     net.Listener
	served atomic.Int64 // connections
	heard  atomic.Int64 // bytes
}

func newFountain(t *testing.T, content []byte) *fountain {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fountain{ln: ln}
	done := make(chan struct{})
	t.Cleanup(func() { _ = ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.served.Add(1)
			go func() {
				_, _ = conn.Write(content) // the line may be cut: that is what is tested
				_ = conn.(*net.TCPConn).CloseWrite()
				n, _ := io.Copy(io.Discard, conn)
				f.heard.Add(n)
				_ = conn.Close()
			}()
		}
	}()
	return f
}

// drink reads from addr to the end.
func drink(t *testing.T, addr string, say string) ([]byte, error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // read to its end, or broken
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(say)); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

func TestProxyCounts(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	f := newFountain(t, content)
	p := newProxy(t, f.ln.Addr().String())
	got, err := drink(t, p.addr(), "hello")
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("got %d bytes, want %d; %v", len(got), len(content), err)
	}
	if down := p.down.Load(); down != int64(len(content)) {
		t.Errorf("%d bytes down, want %d", down, len(content))
	}
	for deadline := time.Now().Add(10 * time.Second); p.up.Load() < 5 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // the answer does not wait for the question
	}
	if up := p.up.Load(); up != 5 {
		t.Errorf("%d bytes up, want 5", up)
	}
	if r := resentPercent(p.down.Load(), uint64(len(content))); r != 0 {
		t.Errorf("%.1f %% sent twice of what was sent once", r)
	}
}

// TestProxySeesDoubleSend is the negative test of the oracle of all tests that
// count bytes: whoever starts over is caught.
func TestProxySeesDoubleSend(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	f := newFountain(t, content)
	p := newProxy(t, f.ln.Addr().String())
	cut := p.cutAfter(int64(len(content)) / 2)
	if _, err := drink(t, p.addr(), ""); err == nil {
		t.Fatal("the cut was not noticed")
	}
	<-cut
	p.resume()
	if _, err := drink(t, p.addr(), ""); err != nil {
		t.Fatal(err)
	}
	if r := resentPercent(p.down.Load(), uint64(len(content))); r != 50 {
		t.Errorf("half of it was sent twice, counted as %.1f %%", r)
	}
}

func TestProxyCuts(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 1<<20)
	f := newFountain(t, content)
	p := newProxy(t, f.ln.Addr().String())
	cut := p.cutAfter(300_001)
	got, err := drink(t, p.addr(), "")
	if err == nil {
		t.Error("no error after a cut")
	}
	<-cut
	if len(got) > 300_001 || p.down.Load() != 300_001 {
		t.Errorf("%d bytes arrived, %d counted, want 300001", len(got), p.down.Load())
	}
	before := f.served.Load()
	if _, err := drink(t, p.addr(), ""); err == nil {
		t.Error("a connection after the cut went through")
	}
	if f.served.Load() > before+1 || p.down.Load() != 300_001 {
		t.Error("bytes passed after the cut")
	}
	p.resume()
	if got, err := drink(t, p.addr(), ""); err != nil || len(got) != len(content) {
		t.Errorf("after resume: %d bytes, %v", len(got), err)
	}
}

func TestProxyHolds(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 1<<20)
	f := newFountain(t, content)
	p := newProxy(t, f.ln.Addr().String())
	held := p.holdAfter(200_000)
	conn, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // of no interest at the end
	if _, err := io.ReadFull(conn, make([]byte, 200_000)); err != nil {
		t.Fatal(err)
	}
	<-held
	var timeout net.Error
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("%d bytes came out of the hole, %v", n, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p.resume()
	rest, err := io.ReadAll(conn)
	if err != nil || len(rest) != len(content)-200_000 {
		t.Errorf("after resume: %d bytes, %v: bytes were lost in the hole", len(rest), err)
	}
}

func TestProxyResets(t *testing.T) {
	f := newFountain(t, nil)
	p := newProxy(t, f.ln.Addr().String())
	held := p.holdAfter(0)
	<-held
	conn, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // broken
	for f.served.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	p.reset()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a reset looks like %v", err)
	}
}

func TestProxyLimits(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 200_000)
	f := newFountain(t, content)
	p := newProxy(t, f.ln.Addr().String())
	p.limit(1 << 20)
	began := time.Now()
	if _, err := drink(t, p.addr(), ""); err != nil {
		t.Fatal(err)
	}
	// The first piece is free. A lower bound: a busy machine makes it no shorter.
	if took, least := time.Since(began), time.Duration(len(content)-pieceSize)*time.Second/(1<<20); took < least*9/10 {
		t.Errorf("%d bytes took %s, at 1 MiB/s they take %s", len(content), took, least)
	}
	p.limit(0)
	if got, err := drink(t, p.addr(), ""); err != nil || len(got) != len(content) {
		t.Errorf("without a limit: %d bytes, %v", len(got), err)
	}
}
