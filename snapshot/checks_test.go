package snapshot

import (
	"context"
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
