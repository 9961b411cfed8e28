package snapshot

import (
	"context"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/background"
)

// checks reads whole files back while others are on their way, one at a time. It
// owns the goroutines that do.
type checks struct {
	ctx  context.Context
	stop context.CancelFunc
	turn chan struct{} // holds one while a file is read
	all  sync.WaitGroup

	mu    sync.Mutex
	left  int           // bytes that may be read
	ended bool          // somebody waits: all may be
	more  chan struct{} // holds one when either has changed
}

func newChecks() *checks {
	ctx, stop := context.WithCancel(context.Background())
	return &checks{ctx: ctx, stop: stop, turn: make(chan struct{}, 1), more: make(chan struct{}, 1)}
}

// What is read keeps step with what is written, or several targets that are sent
// the same files in the same order would read at the same time what the disk can
// give, and whoever else syncs there would wait for all of them.
const (
	readEach = 2                     // bytes for each that was written, to catch up
	readMost = 4 << 20               // bytes that may be saved up
	readWait = 50 * time.Millisecond // for what is written next
)

// wrote says that n bytes more are on the disk.
func (c *checks) wrote(n int) {
	c.mu.Lock()
	c.left = min(c.left+readEach*n, readMost)
	c.mu.Unlock()
	c.wake()
}

func (c *checks) wake() {
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// leave waits until n bytes, at most readMost, may be read, but not for long where
// nothing comes.
func (c *checks) leave(ctx context.Context, n int) error {
	if c.take(n) {
		return ctx.Err()
	}
	timer := time.NewTimer(readWait)
	defer timer.Stop()
	for {
		select {
		case <-c.more:
			if c.take(n) {
				return ctx.Err()
			}
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *checks) take(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && c.left < n {
		return false
	}
	c.left -= n
	return true
}

// start reads one more file, after those before it.
func (c *checks) start(read func(context.Context)) {
	c.all.Go(func() {
		select {
		case c.turn <- struct{}{}:
			defer func() { <-c.turn }()
			if c.ctx.Err() == nil {
				background.Lower() // a thread for the one that reads, not for those that wait
				read(c.ctx)
			}
		case <-c.ctx.Done():
		}
	})
}

// wait waits for the reads that were started, when all is written; when ctx ends,
// they end as well.
func (c *checks) wait(ctx context.Context) {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.wake()
	defer context.AfterFunc(ctx, c.stop)()
	c.all.Wait()
}

// close ends them.
func (c *checks) close() {
	c.stop()
	c.all.Wait()
}
