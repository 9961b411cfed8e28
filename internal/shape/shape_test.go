package shape

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for.
const patience = 20 * time.Second

// fountain is a server that sends the same bytes to everybody who connects and
// then ends the connection; it counts what it is sent.
type fountain struct {
	addr   string
	served atomic.Int64 // connections
	heard  atomic.Int64 // bytes
	wrote  atomic.Int64 // bytes that a connection took
}

func newFountain(t *testing.T, content []byte) *fountain {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fountain{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.served.Add(1)
			wg.Go(func() { f.serve(conn.(*net.TCPConn), content) })
		}
	})
	return f
}

func (f *fountain) serve(conn *net.TCPConn, content []byte) {
	for rest := content; len(rest) > 0; {
		n, err := conn.Write(rest[:min(len(rest), 8<<10)])
		f.wrote.Add(int64(n))
		if err != nil { // the line may be cut: that is what is tested
			break
		}
		rest = rest[n:]
	}
	_ = conn.CloseWrite()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		f.heard.Add(int64(n))
		if err != nil {
			break
		}
	}
	_ = conn.Close()
}

func newProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := New(target, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := tryDial(t, addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// tryDial may be refused, or reset at once.
func tryDial(t *testing.T, addr string) (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patience))
}

// drink says something to addr and reads to the end.
func drink(t *testing.T, addr, say string) ([]byte, error) {
	t.Helper()
	conn, err := tryDial(t, addr)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(say)); err != nil {
		return nil, err
	}
	if err := conn.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func content(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }

func TestCounts(t *testing.T) {
	want := content(320_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	got, err := drink(t, p.Addr(), "hello")
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, want %d; %v", len(got), len(want), err)
	}
	if down := p.Bytes(Down); down != int64(len(want)) {
		t.Errorf("%d bytes down, want %d", down, len(want))
	}
	eventually(t, "5 bytes up", func() bool { return p.Bytes(Up) == 5 && f.heard.Load() == 5 })
	eventually(t, "no connection", func() bool { return p.Connections() == 0 })
}

// TestSeesDoubleSend is the negative test of every test that counts bytes:
// whoever starts over is seen.
func TestSeesDoubleSend(t *testing.T) {
	want := content(320_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	cut := p.CutAfter(int64(len(want)) / 2)
	if _, err := drink(t, p.Addr(), ""); err == nil {
		t.Fatal("the cut was not noticed")
	}
	<-cut
	p.Resume()
	if _, err := drink(t, p.Addr(), ""); err != nil {
		t.Fatal(err)
	}
	if got := p.Bytes(Down); got != int64(len(want))*3/2 {
		t.Errorf("half of %d was sent twice, counted %d", len(want), got)
	}
}

func TestCuts(t *testing.T) {
	want := content(1 << 20)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	cut := p.CutAfter(300_001)
	got, err := drink(t, p.Addr(), "")
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a cut looks like %v", err)
	}
	<-cut
	if len(got) > 300_001 || p.Bytes(Down) != 300_001 {
		t.Errorf("%d bytes arrived, %d counted, want 300001", len(got), p.Bytes(Down))
	}
	before := f.served.Load()
	if _, err := drink(t, p.Addr(), "x"); err == nil {
		t.Error("a connection after the cut went through")
	}
	if f.served.Load() != before || p.Bytes(Down) != 300_001 || p.Refused() != 1 {
		t.Error("bytes passed after the cut")
	}
	p.Resume()
	if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
		t.Errorf("after resume: %d bytes, %v", len(got), err)
	}
}

// TestHolds: nothing comes out of a black hole, in either way or in one, nobody
// is told, and afterwards every byte comes.
func TestHolds(t *testing.T) {
	want := content(1 << 20)
	for name, ways := range map[string][]Way{"both": nil, "down": {Down}} {
		t.Run(name, func(t *testing.T) {
			f := newFountain(t, want)
			p := newProxy(t, f.addr)
			held := p.HoldAfter(200_000, ways...)
			conn := dial(t, p.Addr())
			if _, err := io.ReadFull(conn, make([]byte, 200_000)); err != nil {
				t.Fatal(err)
			}
			<-held
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the hole to take it all", func() bool { return f.wrote.Load() == int64(len(want)) })
			if name == "down" {
				eventually(t, "the other way", func() bool { return f.heard.Load() == 5 })
			} else if f.heard.Load() != 0 {
				t.Errorf("%d bytes came out of the hole", f.heard.Load())
			}
			if p.Bytes(Down) != 200_000 || p.Connections() != 1 {
				t.Errorf("%d bytes came out, %d connections stand", p.Bytes(Down), p.Connections())
			}
			p.Resume()
			rest, err := io.ReadAll(conn)
			if err != nil || len(rest) != len(want)-200_000 {
				t.Errorf("after resume: %d bytes, %v: bytes were lost in the hole", len(rest), err)
			}
			eventually(t, "what was said into the hole", func() bool { return f.heard.Load() == 5 })
		})
	}
}

// TestStrand: connections from before the hole, or of its time, stay in it; new
// ones pass.
func TestStrand(t *testing.T) {
	want := content(200_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	held := p.HoldAfter(1000)
	conn := dial(t, p.Addr())
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	<-held
	p.Strand()
	p.Resume()
	if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
		t.Errorf("a new connection: %d bytes, %v", len(got), err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() || p.Bytes(Down) != 1000+int64(len(want)) {
		t.Errorf("%d bytes came out of the hole, %v", n, err)
	}
}

// TestStrandAfter: the connection that has carried most falls silent, another goes
// on.
func TestStrandAfter(t *testing.T) {
	want := content(200_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	held := p.HoldAfter(150_000)
	busy := dial(t, p.Addr())
	if _, err := io.ReadFull(busy, make([]byte, 150_000)); err != nil {
		t.Fatal(err)
	}
	<-held
	idle := dial(t, p.Addr())
	eventually(t, "the other connection", func() bool { return f.served.Load() == 2 })
	<-p.StrandAfter(0)
	p.Resume()
	if got, err := io.ReadAll(io.LimitReader(idle, int64(len(want)))); err != nil || len(got) != len(want) {
		t.Errorf("%d bytes by the other connection, %v", len(got), err)
	}
	if err := busy.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := busy.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes out of the hole, %v", n, err)
	}
}

// TestHoldUp cuts the way up alone: what comes down still comes.
func TestHoldUp(t *testing.T) {
	want := content(200_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.Hold(Up)
	got, err := drink(t, p.Addr(), "hello")
	if err != nil || len(got) != len(want) || f.heard.Load() != 0 {
		t.Errorf("%d bytes, %v; %d went up", len(got), err, f.heard.Load())
	}
}

func TestResets(t *testing.T) {
	f := newFountain(t, nil)
	p := newProxy(t, f.addr)
	p.Hold()
	conn := dial(t, p.Addr())
	eventually(t, "the connection", func() bool { return f.served.Load() == 1 })
	p.Reset()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a reset looks like %v", err)
	}
}

// TestResetEach: every connection lasts for so many bytes.
func TestResetEach(t *testing.T) {
	want := content(1 << 20)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.ResetEach(300_000)
	for i := range 3 {
		before := p.Bytes(Down)
		if _, err := drink(t, p.Addr(), ""); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("connection %d: %v", i, err)
		}
		if got := p.Bytes(Down) - before; got != 300_000 {
			t.Errorf("connection %d carried %d bytes", i, got)
		}
	}
	p.ResetEach(0)
	if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
		t.Errorf("without: %d bytes, %v", len(got), err)
	}
}

// The bounds of time below are lower ones: a busy machine makes nothing faster.

func TestRate(t *testing.T) {
	want := content(320_000)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	const rate = 1 << 20
	p.Rate(Down, rate)
	began := time.Now()
	var wg sync.WaitGroup
	for range 2 { // they share it
		wg.Go(func() {
			if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	// What was booked last need not be waited for, on either connection.
	least := time.Duration(2*(len(want)-PieceBytes))*time.Second/rate - bucket
	if took := time.Since(began); took < least {
		t.Errorf("2 times %d bytes took %s, at 1 MiB/s they take %s", len(want), took, least)
	}
	p.Rate(Down, 0)
	if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
		t.Errorf("without a limit: %d bytes, %v", len(got), err)
	}
}

// TestDelay: the handshake takes a round trip, and so do a question and its
// answer; the delay does not limit how much is on its way.
func TestDelay(t *testing.T) {
	const up, down = 40 * time.Millisecond, 60 * time.Millisecond
	want := content(4 << 20)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.Shape(Up, Shape{Delay: up})
	p.Shape(Down, Shape{Delay: down})
	began := time.Now()
	got, err := drink(t, p.Addr(), "hello")
	took := time.Since(began)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if least := 2 * (up + down); took < least {
		t.Errorf("took %s, two round trips are %s", took, least)
	}
	if pieces := len(want) / PieceBytes; took > time.Duration(pieces)*down/2 {
		t.Errorf("took %s: one piece at a time is on its way", took)
	}
}

// TestWindow: a connection has at most a window on its way, and begins with
// less.
func TestWindow(t *testing.T) {
	const delay, window = 20 * time.Millisecond, 64 << 10
	want := content(512 << 10)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.Shape(Up, Shape{Delay: delay})
	p.Shape(Down, Shape{Delay: delay, Window: window})
	began := time.Now()
	if got, err := drink(t, p.Addr(), ""); err != nil || len(got) != len(want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// 512 KiB are 8 windows, of which the last need not be acknowledged.
	if took, least := time.Since(began), 7*2*delay; took < least {
		t.Errorf("took %s, want at least %s", took, least)
	}
}

// TestFlight follows a window on a clock of its own.
func TestFlight(t *testing.T) {
	f := flight{cwnd: firstWindow}
	past := time.Now().Add(-time.Hour)
	for _, want := range []int{firstWindow, 2 * firstWindow, 3 * firstWindow, 3 * firstWindow} {
		room, err := f.room(t.Context(), 3*firstWindow)
		if err != nil || room != want {
			t.Errorf("room for %d bytes, %v, want %d", room, err, want)
		}
		f.sent(room, past)
	}
	f.sends, f.bytes = nil, 0
	f.sent(firstWindow, time.Now().Add(time.Hour))
	if room, err := f.room(t.Context(), 3*firstWindow); err != nil || room != 2*firstWindow {
		t.Errorf("room for %d bytes, %v, with one of three taken", room, err)
	}
}

func TestStalls(t *testing.T) {
	const stall = 30 * time.Millisecond
	want := content(512 << 10)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.Shape(Down, Shape{StallEach: 1, Stall: stall}) // at every piece
	began := time.Now()
	if got, err := drink(t, p.Addr(), ""); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took < stall {
		t.Errorf("took %s", took)
	}
}

// TestQueueIsBounded: a side that takes nothing is not sent for without end,
// and nothing is lost.
func TestQueueIsBounded(t *testing.T) {
	const kernel = 64 << 20 // more than sockets on both sides hold
	want := content(2*QueueBytes + kernel)
	f := newFountain(t, want)
	p := newProxy(t, f.addr)
	p.Hold(Down)
	conn := dial(t, p.Addr())
	var last int64
	eventually(t, "the fountain to stand still", func() bool {
		before := last
		last = f.wrote.Load()
		if last == 0 || last != before {
			return false
		}
		select {
		case <-time.After(200 * time.Millisecond):
			return f.wrote.Load() == last
		case <-t.Context().Done():
			return true
		}
	})
	if last < QueueBytes/2 || last > QueueBytes+kernel {
		t.Errorf("%d bytes were taken, the queue holds %d", last, QueueBytes)
	}
	p.Resume()
	if got, err := io.Copy(io.Discard, conn); err != nil || got != int64(len(want)) {
		t.Errorf("%d of %d bytes, %v", got, len(want), err)
	}
}

// TestTargetIsAway: as a port that nobody listens on, and found once somebody
// does.
func TestTargetIsAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, ln.Addr().String())
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := drink(t, p.Addr(), "x"); err == nil {
		t.Error("nobody answered, and nobody said so")
	}
	f := newFountain(t, content(1600))
	p.Target(f.addr)
	if got, err := drink(t, p.Addr(), "x"); err != nil || len(got) != 1600 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestBook: a link makes up for what its own process slept too long while bytes
// waited, within bounds, and for next to nothing otherwise.
func TestBook(t *testing.T) {
	p := &Proxy{}
	p.Rate(Down, 1000) // a byte each millisecond
	now := time.Now()
	at := func(after time.Duration, n int, waited bool, want time.Duration) {
		t.Helper()
		if got := p.book(now.Add(after), Down, n, waited).Sub(now); got != want {
			t.Errorf("%d bytes at %s have left at %s, want %s", n, after, got, want)
		}
	}
	at(0, 110, false, 100*time.Millisecond)
	at(100*time.Millisecond, 100, true, 200*time.Millisecond)
	at(260*time.Millisecond, 100, true, 300*time.Millisecond)        // 60 ms late: made up for
	at(400*time.Millisecond, 100, false, 490*time.Millisecond)       // nothing was there
	at(2*time.Second, 100, true, 2*time.Second-150*time.Millisecond) // too late
	p.Rate(Down, 0)
	at(3*time.Second, 1000, true, 3*time.Second)
}
