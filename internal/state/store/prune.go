package store

import "github.com/cockroachdb/pebble/v2"

// Prune removes history, which no digest counts: versions that no readable
// revision shows, and rows of the Revisions table. Like a Batch it belongs to
// the one writing goroutine.
type Prune struct {
	s *Store
	b *pebble.Batch
}

// NewPrune gives an empty prune.
func (s *Store) NewPrune() *Prune { return &Prune{s: s, b: s.db.NewBatch()} }

// DropVersion removes one version of a key of the MVCC table.
func (p *Prune) DropVersion(key []byte, rev int64) error {
	return p.check(p.b.Delete(appendSuffix(appendPrefix(nil, MVCC, key), rev), nil))
}

// DropRevisions removes the rows of the Revisions table with keys in [lo, hi].
func (p *Prune) DropRevisions(lo, hi []byte) error {
	lower := appendPrefix(nil, Revisions, lo)
	upper := append(appendPrefix(nil, Revisions, hi), endPrefix)
	return p.check(p.b.DeleteRange(lower, upper, nil))
}

// Commit applies the prune, not synced.
func (p *Prune) Commit() error { return p.s.apply(p.b) }

// Close releases the prune.
func (p *Prune) Close() error { return p.b.Close() }

func (p *Prune) check(err error) error {
	if err != nil {
		return p.s.classify("prune state store", err)
	}
	return nil
}
