package join

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// defaultLeaseTTL is how often a lease of unknown TTL is taken to need renewal.
const defaultLeaseTTL = 10 * time.Minute

// holdLease renews the seed's lease from the end of the transfer to the end of
// the admission: reading a large seed back, or waiting for one's turn, can take
// longer than the lease lives. It ends with ctx or dropLease.
func (n *Newcomer) holdLease(ctx context.Context, lease uint64) {
	n.dropLease()
	if lease == 0 {
		return
	}
	ttl := n.cfg.LeaseTTL
	if ttl <= 0 {
		ttl = defaultLeaseTTL
	}
	every := max(ttl/3, 10*time.Millisecond)
	req := &chainfirev1.RenewLeaseRequest{LeaseId: lease, TtlMs: uint64(n.cfg.LeaseTTL.Milliseconds()), CapBytes: n.cfg.LeaseBytes}
	ctx, cancel := context.WithCancel(ctx)
	members := newClient(n.cfg.Dial, n.cluster.endpoints) // the other client belongs to another goroutine
	var done sync.WaitGroup
	done.Go(func() {
		defer members.Close() //nolint:errcheck // an idle connection
		for sleep(ctx, every) == nil {
			err := members.call(ctx, "renew lease", every, func(ctx context.Context, c *grpc.ClientConn) error {
				_, err := chainfirev1.NewSeedClient(c).RenewLease(ctx, req)
				return err
			})
			if fault.Is(err, fault.LeaseLost) {
				return // the admission will say so
			}
		}
	})
	n.letGo = func() { cancel(); done.Wait() }
}

func (n *Newcomer) dropLease() {
	if n.letGo != nil {
		n.letGo()
		n.letGo = nil
	}
}

// sayEvery is how often a phase that takes long is mentioned again: whoever
// follows a join takes silence for its end.
const sayEvery = 10 * time.Second

func (n *Newcomer) say() {
	if n.cfg.Started != nil && n.current != "" {
		n.cfg.Started(n.current)
	}
}

// alive runs a step of the current phase that tells nothing by itself.
func (n *Newcomer) alive(fn func() error) error {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for sleep(ctx, sayEvery) == nil {
			n.say()
		}
	})
	err := fn()
	cancel()
	done.Wait()
	return err
}
