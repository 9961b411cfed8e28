package snapshot

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Files are read back one at a time; the owner waits for all of them, or ends
// them, and nothing begins after that.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		defer c.close()
		var now, most, done atomic.Int64
		for range 5 {
			c.start(func(context.Context) {
				most.Store(max(most.Load(), now.Add(1)))
				<-time.After(time.Second)
				now.Add(-1)
				done.Add(1)
			})
		}
		c.wait(t.Context())
		if most.Load() != 1 || done.Load() != 5 {
			t.Errorf("%d at a time, %d done; want 1, 5", most.Load(), done.Load())
		}

		// The first ends with what ended, the others do not begin.
		var began, ended atomic.Int64
		for range 3 {
			c.start(func(ctx context.Context) {
				began.Add(1)
				<-ctx.Done()
				ended.Add(1)
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c.wait(ctx)
		if began.Load() != 1 || ended.Load() != 1 {
			t.Errorf("%d began and %d ended, want 1 and 1", began.Load(), ended.Load())
		}
		c.start(func(context.Context) { t.Error("a read began after the end") })
		c.close()
	})
}

// What is read keeps step with what is written, is not held up where nothing comes,
// and is free at the end.
func TestReadsKeepStep(t *testing.T) {
	const piece = 256 << 10
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		defer c.close()
		began := time.Now()
		leave := func(n int) time.Duration {
			if err := c.leave(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			d := time.Since(began)
			began = time.Now()
			return d
		}
		if d := leave(piece); d != readWait {
			t.Errorf("nothing comes, and a read waited %s", d)
		}
		for range 100 {
			c.wrote(piece)
		}
		for range readMost / piece {
			if d := leave(piece); d != 0 {
				t.Errorf("a read waited %s for what is there", d)
			}
		}
		var writing sync.WaitGroup
		writing.Go(func() {
			for range 4 {
				<-time.After(10 * time.Millisecond)
				c.wrote(piece)
			}
		})
		for i := range 8 {
			if d, want := leave(piece), time.Duration(1-i%readEach)*10*time.Millisecond; d != want {
				t.Errorf("read %d waited %s, want %s", i, d, want)
			}
		}
		writing.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.leave(ctx, piece); err == nil {
			t.Error("a read may go on after its context has ended")
		}
		c.wait(t.Context())
		for range 100 {
			if d := leave(readMost); d != 0 {
				t.Errorf("a read at the end waited %s", d)
			}
		}
	})
}

// Pieces are small while chunks come one by one.
func TestPiece(t *testing.T) {
	var s Stage
	for writers, want := range []int{atOnce, atOnce, atOnceMost, atOnceMost} {
		s.writers.Store(int32(writers))
		if got := s.piece(); got != want {
			t.Errorf("%d writers: %d bytes at once, want %d", writers, got, want)
		}
	}
	// A chunk every 3 ms is 333 MiB a second, every 2 ms it is 500.
	now := time.Unix(1000, 0)
	comes := func(chunks int, every time.Duration, want int) {
		t.Helper()
		for range chunks {
			now = now.Add(every)
			s.tempo.came(1<<20, now)
		}
		s.writers.Store(1)
		if got := s.piece(); got != want {
			t.Errorf("after a chunk every %s: %d bytes at once, want %d", every, got, want)
		}
	}
	comes(49, 3*time.Millisecond, atOnce)
	comes(15, 2*time.Millisecond, atOnce)
	comes(1, 2*time.Millisecond, atOnceMost)
	comes(40, 3*time.Millisecond, atOnce)
	comes(40, time.Millisecond, atOnceMost)
	comes(1, time.Second, atOnce)
}
