package join

import (
	"context"
	"errors"

	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/record"
	"github.com/chainfire/cfseed/transfer"
)

// The ways in which a pull uses a base beside the files that the seed shares with
// it.
const (
	DeltaAuto   = transfer.DeltaAuto   // a table is made of records where that is sooner
	DeltaFiles  = transfer.DeltaFiles  // none is
	DeltaRanges = transfer.DeltaRanges // all are that can be
)

// base is the old directory of a pull, opened when the first stage is. It is used
// by one goroutine.
type base struct {
	cfg  Config
	open *snapshot.Base // nil: not yet
}

// match compares the base with the seed of a stage.
func (b *base) match(ctx context.Context, s *snapshot.Stage) (_ *snapshot.Match, err error) {
	if b.open == nil {
		b.open, err = snapshot.OpenBase(ctx, b.cfg.Dir.FS(), b.cfg.Base, s.Manifest().Cluster)
		if err != nil {
			return nil, err
		}
	}
	return s.Match(ctx, b.open)
}

// adopt stages the files that the base shares with the seed, where there is one.
func (b *base) adopt(ctx context.Context, s *snapshot.Stage) error {
	if b.cfg.Base == "" {
		return nil
	}
	m, err := b.match(ctx, s)
	if err == nil {
		_, err = m.Adopt(ctx)
	}
	return err
}

// close gives the directory free.
func (b *base) close() error {
	if b.open == nil {
		return nil
	}
	return b.open.Close()
}

// Matched is a snapshot.Match as transfer wants it.
type Matched struct{ *snapshot.Match }

// Make implements transfer.Delta.
func (m Matched) Make(ctx context.Context, t record.Table, src *transfer.RecordSource, stored func(n int)) (uint64, error) {
	made, err := m.Match.Make(ctx, t, src, stored)
	switch {
	case errors.Is(err, snapshot.ErrNotAlike):
		err = errors.Join(transfer.ErrNotAlike, err)
	case err != nil && m.Broken() != nil:
		err = errors.Join(transfer.ErrStage, err)
	}
	return made, err
}

// wayOf says in which way a pull used its base; "" without one.
func wayOf(cfg Config, made transfer.Made) string {
	switch {
	case cfg.Base == "":
		return ""
	case cfg.DeltaBy == DeltaRanges || made.Tables > 0:
		return DeltaRanges
	}
	return DeltaFiles
}
