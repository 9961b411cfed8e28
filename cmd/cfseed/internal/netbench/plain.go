package netbench

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/shape"
)

// plainConns is how many connections share what is sent plainly: as many as a
// pull has on a long line.
const plainConns = 4

// plain sends size bytes over the line by TCP alone, which nobody stores, and
// gives the share of the line that it uses: what there is to be had on this
// machine at this moment.
func (b *bench) plain(ctx context.Context, rate, size int64) (use float64, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fault.New(fault.Internal, "bench net", err)
	}
	b.line.Target(ln.Addr().String())
	defer b.line.Target(b.direct)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer func() { err = errors.Join(err, ln.Close()) }()
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // that is how it ends
			}
			serving.Go(func() { pour(conn, size/plainConns) })
		}
	})
	b.line.Recount()
	seen, stop := b.follow()
	group, ctx := errgroup.WithContext(ctx)
	for range plainConns {
		group.Go(func() error { return drink(ctx, b.line.Addr(), size/plainConns) })
	}
	err = group.Wait()
	stop()
	s := pulled{began: seen.counts[0].at, ended: time.Now(), counts: seen.counts}.sample(rate)
	return s.LineUse, err
}

// pour sends n bytes; whether they arrive the other side knows.
func pour(conn net.Conn, n int64) {
	buf := make([]byte, 1<<20)
	for n > 0 {
		k, err := conn.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			break
		}
		n -= int64(k)
	}
	_ = conn.Close()
}

func drink(ctx context.Context, addr string, want int64) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fault.New(fault.Internal, "bench net", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	got, err := io.Copy(io.Discard, conn)
	if err = errors.Join(err, conn.Close()); err == nil && got != want {
		err = fault.Newf(fault.Internal, "bench net", "%d of %d bytes came", got, want)
	}
	return err
}

// seen is what came down the line while it was followed.
type seen struct{ counts []count }

// follow reads the line every so often until stop is called, which waits.
func (b *bench) follow() (s *seen, stop func()) {
	s = &seen{counts: []count{{time.Now(), b.line.Bytes(shape.Down)}}}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.counts = append(s.counts, count{time.Now(), b.line.Bytes(shape.Down)})
			case <-done:
				s.counts = append(s.counts, count{time.Now(), b.line.Bytes(shape.Down)})
				return
			}
		}
	})
	return s, func() { close(done); wg.Wait() }
}
