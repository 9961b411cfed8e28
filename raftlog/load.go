package raftlog

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/chainfire/cfseed/internal/fault"
)

// maxFindings bounds what is reported of a log that is damaged all over.
const maxFindings = 100

// loader reads a whole log. What contradicts itself is a finding; an error
// means that the store could not be read, or is in a newer format. With
// findings the shape is only as good as they allow.
type loader struct {
	db    *pebble.DB
	s     shape
	fresh bool // the store holds nothing at all
	found []Finding
}

// load runs the loader. Pebble panics on some damage; that is an error here.
func load(db *pebble.DB, o Options) (ld *loader, err error) {
	ld = &loader{db: db, s: shape{recentMax: o.recent()}}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: panic: %v", pebble.ErrCorruption, r)
		}
	}()
	if ld.fresh, err = ld.empty(); err != nil || ld.fresh {
		return ld, err
	}
	if err := ld.meta(); err != nil {
		return ld, err
	}
	if err := ld.entries(); err != nil {
		return ld, err
	}
	ld.contradictions()
	return ld, nil
}

func (ld *loader) finding(format string, args ...any) {
	if len(ld.found) < maxFindings {
		ld.found = append(ld.found, Finding{Code: fault.Corrupt, Detail: fmt.Sprintf(format, args...)})
	}
}

func (ld *loader) empty() (bool, error) {
	it, err := ld.db.NewIter(nil)
	if err != nil {
		return false, err
	}
	some := it.First()
	return !some, errors.Join(it.Error(), it.Close())
}

// meta reads the records beside the entries; each must be there.
func (ld *loader) meta() error {
	records := []struct {
		key    byte
		decode func([]byte) error
	}{
		{keyFormat, decodeFormat},
		{keyHard, func(b []byte) (err error) { ld.s.hard, err = decodeHard(b); return err }},
		{keyTrunc, func(b []byte) (err error) { ld.s.trunc, err = decodeTrunc(b); return err }},
		{keyState, func(b []byte) (err error) { ld.s.state, err = decodeState(b); return err }},
	}
	for _, r := range records {
		v, closer, err := ld.db.Get([]byte{r.key})
		if errors.Is(err, pebble.ErrNotFound) {
			ld.finding("record %02x is missing", r.key)
			continue
		}
		if err != nil {
			return err
		}
		derr := r.decode(v)
		if err := closer.Close(); err != nil {
			return err
		}
		if errors.Is(derr, errNewer) {
			return derr
		}
		if derr != nil {
			ld.finding("%v", derr)
		}
	}
	return nil
}

// entries walks the log: contiguous indices from the truncation point, terms
// that do not fall.
func (ld *loader) entries() error {
	// Bounds from the least key above the records, so that a stray key is seen.
	it, err := ld.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyState, 0}})
	if err != nil {
		return err
	}
	broken := false // after a gap the shape can not be continued; only look
	next, term := ld.s.first(), ld.s.trunc.Term
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		e, err := decodeEntry(it.Key(), value)
		if err != nil {
			ld.finding("%v", err)
			if index, kerr := decodeEntryKey(it.Key()); kerr == nil {
				next = index + 1
			}
			broken = true
			continue
		}
		if e.GetIndex() != next {
			ld.finding("entry %d where %d should be", e.GetIndex(), next)
			broken = true
		}
		if e.GetTerm() < term {
			ld.finding("entry %d has term %d after term %d", e.GetIndex(), e.GetTerm(), term)
			broken = true
		}
		next, term = e.GetIndex()+1, e.GetTerm()
		if !broken {
			ld.s.push(e.GetTerm(), uint64(len(value)), e)
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// contradictions compares the records with the entries. After an earlier
// finding the answers would only repeat it.
func (ld *loader) contradictions() {
	if len(ld.found) > 0 {
		return
	}
	for _, detail := range ld.s.contradictions() {
		ld.finding("%s", detail)
	}
}

// contradictions lists what is impossible in a log of ours.
func (s *shape) contradictions() []string {
	var out []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(s.hard.commit > s.last(), "committed up to %d, but the log ends at %d", s.hard.commit, s.last())
	add(s.hard.commit < s.trunc.Index, "truncated to %d, but committed only up to %d", s.trunc.Index, s.hard.commit)
	add(s.hard.term < s.lastTerm(), "HardState of term %d behind an entry of term %d", s.hard.term, s.lastTerm())
	add((s.trunc.Index == 0) != (s.trunc.Term == 0), "truncation point %v", s.trunc)
	return out
}
