package node

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/replica"
)

// TestRequestsEnd: a request that nobody answers ends with its context, when
// patience is over, and when the member stops.
func TestRequestsEnd(t *testing.T) {
	newCore := func(patience time.Duration) *core {
		return &core{patience: patience, inbox: newQueue[func(*replica.Replica) error](), done: make(chan struct{})}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, ask := range map[string]func(*core, context.Context) error{
		"propose": func(c *core, ctx context.Context) error {
			_, err := c.Propose(ctx, envelope.Put, &pb.PutRequest{Key: []byte("k")})
			return err
		},
		"read": (*core).ReadIndex,
	} {
		c := newCore(time.Millisecond)
		if err := ask(c, t.Context()); !fault.Is(err, fault.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: without an answer: %v", name, err)
		}
		c.patience = time.Hour // of a timer that was used before
		if err := ask(c, cancelled); !fault.Is(err, fault.Timeout) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", name, err)
		}
		close(c.done)
		if err := ask(c, t.Context()); !fault.Is(err, fault.Unreachable) {
			t.Errorf("%s: of a member that stops: %v", name, err)
		}
	}
}
