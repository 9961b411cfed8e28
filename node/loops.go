package node

import (
	"context"

	"github.com/chainfire/cfseed/internal/fault"
)

// loop is something that runs as long as its context.
type loop func(context.Context) error

// loops makes sure that none ends unnoticed. A test puts another loop in the
// place of the one with a name; nil leaves each as it is.
type loops func(name string, run loop) loop

// lasting gives the goroutine of a loop. One that ends before ctx does, though
// without an error, leaves half a node: that is an error, and the process ends (S7).
func (l loops) lasting(ctx context.Context, name string, run loop) func() error {
	if l != nil {
		run = l(name, run)
	}
	return func() error {
		if err := run(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return fault.Newf(fault.Internal, "node", "an internal loop has ended: %s", name)
	}
}
