package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// fakeLeases keeps leases in memory.
type fakeLeases struct {
	mu     sync.Mutex
	next   uint64
	ttl    time.Duration
	live   map[uint64]bool
	opens  int
	renews int
}

func newFakeLeases() *fakeLeases {
	return &fakeLeases{next: 7, ttl: time.Minute, live: make(map[uint64]bool)}
}

func (f *fakeLeases) Open(_ context.Context, r LeaseRequest) (Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens++
	id := r.LeaseID
	if id == 0 {
		f.next++
		id = f.next
		f.live[id] = true
	} else if !f.live[id] {
		return Lease{}, leaseLost(id)
	}
	return Lease{ID: id, Hold: id, TTL: f.ttl, Target: r.Target, SourceID: 1}, nil
}

func (f *fakeLeases) Renew(_ context.Context, id uint64, _ time.Duration, _ uint64) (Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renews++
	if !f.live[id] {
		return Lease{}, leaseLost(id)
	}
	return Lease{ID: id, TTL: f.ttl}, nil
}

func (f *fakeLeases) Close(_ context.Context, id uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, id)
	return nil
}

func (f *fakeLeases) Alive(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live[id]
}

func (f *fakeLeases) expireAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.live)
}

func (f *fakeLeases) alive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.live)
}

// calls returns how often a lease was opened and renewed.
func (f *fakeLeases) calls() (opens, renews int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opens, f.renews
}

// fakeProvider serves seeds from memory, the last one unless another is wanted.
type fakeProvider struct {
	mu       sync.Mutex
	seeds    []Seed
	acquired int
	held     int
	wait     func(ctx context.Context) error
	release  func() // before each seed is given back; may be nil
}

func (p *fakeProvider) Acquire(ctx context.Context, _ Lease, want []byte, _ ident.Position) (Seed, func(), error) {
	if p.wait != nil {
		if err := p.wait(ctx); err != nil {
			return nil, nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acquired++
	p.held++
	seed := p.seeds[len(p.seeds)-1]
	for _, s := range p.seeds {
		if root := manifest.RootOf(s.ManifestBytes()); string(root[:]) == string(want) {
			seed = s
		}
	}
	return seed, func() {
		if p.release != nil {
			p.release()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held--
	}, nil
}

// counts returns how often a seed was acquired, and how many are held now.
func (p *fakeProvider) counts() (acquired, held int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acquired, p.held
}

type fakeAuth struct {
	deny  func(rpc string) bool
	asked sync.Map
}

func (a *fakeAuth) AuthorizeSeed(_ context.Context, rpc string) error {
	a.asked.Store(rpc, true)
	if a.deny != nil && a.deny(rpc) {
		return fault.Newf(fault.Permission, "authorise", "no")
	}
	return nil
}

type fakeDigests struct{}

func (fakeDigests) DigestAt(_ context.Context, index uint64) (uint64, [16]byte, int64, error) {
	return max(index, 100), [16]byte{1}, 5, nil
}
