package state

import (
	"errors"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Founding is what a new cluster that takes over the data of another begins
// with.
type Founding struct {
	Voters []*entryv1.BootstrapVoter
	// Bump, when it is not 0, passes over so many revisions and compacts all
	// before.
	Bump uint64
}

// Found makes the state in s that of a new cluster and gives its position. Keys
// and their history, leases, users, roles and alarms stay; who the cluster was
// goes, see member.Found. It is one batch, durable once Found returns, at the
// index and the term after the last ones: no entry of the old cluster's has that
// position in this state, and a log that begins there has none at all. What
// comes of it depends on the state and f alone. No machine may have s open.
func Found(s *store.Store, f Founding) (pos ident.Position, err error) {
	b := s.NewBatch()
	last := s.Position()
	pos = ident.Position{Term: last.Term + 1, Index: last.Index + 1}
	if err := errors.Join(found(b, pos, f), b.Close()); err != nil {
		return ident.Position{}, fault.New(fault.CodeOf(err), "found cluster", err).At(s.Dir())
	}
	return pos, s.Flush()
}

func found(b *store.Batch, pos ident.Position, f Founding) error {
	conf, err := member.Found(b, pos.Index, f.Voters)
	if err != nil {
		return err
	}
	b.SetConfState(conf)
	if f.Bump > 0 {
		if err := mvcc.Bump(b, f.Bump); err != nil {
			return err
		}
	}
	return b.Commit(pos)
}
