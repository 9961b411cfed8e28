package node

import (
	"context"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/mvcc"
)

// history is the member's state as watches read it (watch.Source).
type history struct{ state *stateBox }

func (h history) Revision() int64 { return h.state.machine().Revision() }

func (h history) History(ctx context.Context, want mvcc.History) (at mvcc.Bounds, err error) {
	err = h.state.read(func(m *state.Machine) (err error) { at, err = m.History(ctx, want); return err })
	return at, err
}
