package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestLoopThatEndsEndsTheNode: each loop of a member, told alone that it is
// over, ends without an error of its own. The node does not go on without it.
func TestLoopThatEndsEndsTheNode(t *testing.T) {
	for _, name := range []string{"ready", "append", "apply", "transport", "peer service", "client service", "membership", "flusher", "seeds", "sums",
		"client door", "peer door"} {
		t.Run(name, func(t *testing.T) {
			over, ended := make(chan struct{}), make(chan error, 1)
			n := start(t, "n1", Config{loops: func(which string, run loop) loop {
				if which != name {
					return run
				}
				return func(ctx context.Context) error {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					go func() {
						select {
						case <-over:
							cancel()
						case <-ctx.Done():
						}
					}()
					err := run(ctx)
					ended <- err
					return err
				}
			}}).ready()
			close(over)
			select {
			case <-n.ended:
			case <-time.After(patience):
				t.Fatalf("the node goes on; its loop has ended: %v", len(ended) == 1)
			}
			if err := <-ended; err != nil {
				t.Fatalf("the loop itself has failed: %v", err)
			}
			if !fault.Is(n.err, fault.Internal) || fault.CodeOf(n.err).Exit() != 1 || !strings.Contains(n.err.Error(), "an internal loop has ended: "+name) {
				t.Errorf("the node ended with %v", n.err)
			}
		})
	}
}
