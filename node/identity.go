package node

import (
	"sync"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
)

// identityBox is the identity file and its copy in memory.
type identityBox struct {
	dir *datadir.Dir
	mu  sync.RWMutex
	id  datadir.Identity
}

func (b *identityBox) get() datadir.Identity {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.id
}

// update writes a changed identity, durably, before it is visible.
func (b *identityBox) update(change func(*datadir.Identity)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.id
	if b.id.Seed != nil {
		seed := *b.id.Seed
		next.Seed = &seed
	}
	change(&next)
	if err := b.dir.CommitIdentity(next); err != nil {
		return err
	}
	b.id = next
	return nil
}

// learnGenesis records the nonce that the cluster's first leader committed.
func (b *identityBox) learnGenesis(n ident.Nonce) error {
	if n.IsZero() || !b.get().Cluster.Genesis.IsZero() {
		return nil
	}
	return b.update(func(id *datadir.Identity) { id.Cluster.Genesis = n })
}
