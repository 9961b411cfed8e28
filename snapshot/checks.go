package snapshot

import (
	"context"
	"sync"

	"github.com/chainfire/cfseed/internal/background"
)

// checks reads whole files back while others are on their way, one at a time. It
// owns the goroutines that do.
type checks struct {
	ctx  context.Context
	stop context.CancelFunc
	turn chan struct{} // holds one while a file is read
	all  sync.WaitGroup
}

func newChecks() *checks {
	ctx, stop := context.WithCancel(context.Background())
	return &checks{ctx: ctx, stop: stop, turn: make(chan struct{}, 1)}
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

// wait waits for the reads that were started; when ctx ends, they end as well.
func (c *checks) wait(ctx context.Context) {
	defer context.AfterFunc(ctx, c.stop)()
	c.all.Wait()
}

// close ends them.
func (c *checks) close() {
	c.stop()
	c.all.Wait()
}
