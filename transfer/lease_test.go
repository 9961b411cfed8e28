package transfer

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

func TestPullLeaseLost(t *testing.T) {
	seed := seedSpec{sizes: []int{4 << 20}}.build(t)
	t.Run("source notices", func(t *testing.T) {
		src := startSource(t, nil, []*memSeed{seed})
		seed := seedSpec{sizes: []int{4 << 20}}.build(t)
		var once sync.Once
		seed.delay = func(context.Context) error {
			once.Do(src.leases.expireAll)
			return nil
		}
		src.provider.seeds = []Seed{seed}
		_, err := Pull(t.Context(), pullConfig(newMemDisk(), src.addr))
		wantCode(t, err, fault.LeaseLost)
		if fault.HintOf(err) == "" {
			t.Error("no hint")
		}
	})
	t.Run("renewal notices", func(t *testing.T) {
		leases := newFakeLeases()
		leases.ttl = 60 * time.Millisecond
		src := startSource(t, leases, []*memSeed{seed})
		seed := seedSpec{sizes: []int{4 << 20}}.build(t)
		seed.delay = func(ctx context.Context) error {
			leases.expireAll()
			<-ctx.Done()
			return ctx.Err()
		}
		src.provider.seeds = []Seed{seed}
		_, err := Pull(t.Context(), pullConfig(newMemDisk(), src.addr))
		wantCode(t, err, fault.LeaseLost)
	})
}
