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
	t.Run("kept alive", func(t *testing.T) {
		leases := newFakeLeases()
		leases.ttl = 40 * time.Millisecond
		seed := seedSpec{sizes: []int{40_000}}.build(t)
		seed.delay = func(ctx context.Context) error { return sleep(ctx, 10*time.Millisecond) }
		src := startSource(t, leases, []*memSeed{seed})
		cfg := pullConfig(newMemDisk(), src.addr)
		cfg.Parallel = 1
		res, err := Pull(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if least := int(res.Seconds * 1000 / 40); leases.renews < least {
			t.Errorf("%d renewals in %.2f s with a TTL of 40 ms", leases.renews, res.Seconds)
		}
	})
}
