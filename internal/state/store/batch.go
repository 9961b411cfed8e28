package store

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// pending is what a batch has written to one key.
type pending struct {
	key string // encoded prefix
	v   Version
}

// overlayKeep is the number of keys above which an overlay is not kept for
// the next entry.
const overlayKeep = 1024

// Batch is the effects of one applied entry. It reads its own writes. Commit
// leaves it empty, to be used for the next entry. It is not for concurrent
// use, and a store has one batch in use at a time.
//
// An error from the database is remembered: Err gives it, and Commit refuses.
type Batch struct {
	cursor
	b       *pebble.Batch
	over    map[string]*pending
	recent  recent
	sorted  []*pending // of over, nil when out of date
	next    head       // digest, conf and revisions as they will be
	base    head       // as they are
	hs      hasher
	enc     []byte
	prefix  []byte
	val     []byte
	headKey []byte
	err     error
}

var _ VersionReader = (*Batch)(nil)

// NewBatch gives an empty batch on top of the last commit.
func (s *Store) NewBatch() *Batch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Batch{
		// A batch reads the keys it is about to write, which are often new: there
		// the filters of the last level save a block. A view's keys mostly exist.
		cursor:  cursor{s: s, filters: true},
		b:       s.db.NewBatch(),
		over:    make(map[string]*pending),
		next:    s.head,
		base:    s.head,
		headKey: appendPrefix(nil, Meta, []byte(metaHead)),
	}
}

// Err is the first error of the database that any call on the batch met. An
// entry whose batch has an error was not refused: it could not be applied.
func (b *Batch) Err() error { return b.err }

func (b *Batch) note(err error) error {
	if err != nil && b.err == nil {
		b.err = err
	}
	return err
}

// Get implements Reader.
func (b *Batch) Get(t Table, key []byte) ([]byte, error) {
	value, found, err := b.peek(t, key)
	if err != nil || !found {
		return nil, err
	}
	return append([]byte{}, value...), nil
}

// peek reads an unversioned record without copying it. b.prefix is its key
// afterwards.
func (b *Batch) peek(t Table, key []byte) ([]byte, bool, error) {
	b.prefix = appendPrefix(b.prefix[:0], t, key)
	if p := b.over[string(b.prefix)]; p != nil {
		return p.v.Value, p.v.Live, nil
	}
	value, found, err := b.get(b.prefix)
	return value, found, b.note(err)
}

// Scan implements Reader. fn may write to the batch; the scan does not see it.
func (b *Batch) Scan(t Table, prefix []byte, fn func(key, value []byte) error) error {
	lower, upper := scanBounds(t, prefix, prefixEnd(prefix))
	return b.merged(lower, upper, math.MaxInt64, func(key []byte, v Version) error {
		return fn(key, v.Value)
	})
}

// Version implements VersionReader.
func (b *Batch) Version(t Table, key []byte, rev int64) (Version, error) {
	b.prefix = appendPrefix(b.prefix[:0], t, key)
	if p := b.over[string(b.prefix)]; p != nil && p.v.Revision <= rev {
		return p.v, nil
	}
	if v, found := b.recent.get(b.prefix); found && v.Revision <= rev {
		return v, nil
	}
	v, err := b.version(b.prefix, rev)
	return v, b.note(err)
}

// ScanVersions implements VersionReader. fn may write to the batch; the scan
// does not see it.
func (b *Batch) ScanVersions(t Table, lo, hi []byte, rev int64, fn func(key []byte, v Version) error) error {
	lower, upper := scanBounds(t, lo, hi)
	return b.merged(lower, upper, rev, fn)
}

// merged scans database and overlay and remembers errors of the database.
func (b *Batch) merged(lower, upper []byte, rev int64, fn func(key []byte, v Version) error) error {
	own, err := b.scan(lower, upper, rev, b.overlay(lower, upper, rev), fn)
	return first(own, b.note(err))
}

// overlay gives the written keys in [lower, upper) that are visible at rev,
// in order.
func (b *Batch) overlay(lower, upper []byte, rev int64) []*pending {
	if len(b.over) == 0 {
		return nil
	}
	if b.sorted == nil {
		b.sorted = make([]*pending, 0, len(b.over))
		for _, p := range b.over {
			b.sorted = append(b.sorted, p)
		}
		slices.SortFunc(b.sorted, func(x, y *pending) int { return strings.Compare(x.key, y.key) })
	}
	find := func(key []byte) int {
		i, _ := slices.BinarySearchFunc(b.sorted, string(key), func(p *pending, k string) int {
			return strings.Compare(p.key, k)
		})
		return i
	}
	in := b.sorted[find(lower):find(upper)]
	if len(in) > 0 && in[0].v.Revision > rev {
		// All writes of a batch have one revision.
		return nil
	}
	return in
}

// Set writes a record of an unversioned table; key and value are copied.
func (b *Batch) Set(t Table, key, value []byte) error {
	return b.replace(t, key, Version{Live: true, Value: value})
}

// Delete removes a record of an unversioned table; absent ones are no error.
func (b *Batch) Delete(t Table, key []byte) error {
	return b.replace(t, key, Version{})
}

func (b *Batch) replace(t Table, key []byte, v Version) error {
	if !t.plain() {
		return fault.Newf(fault.Internal, "write state store", "table %s is not written record by record", t)
	}
	if t.digested() {
		old, found, err := b.peek(t, key)
		if err != nil {
			return err
		}
		if found {
			b.next.digest.sub(b.hs.record(b.prefix, old))
		}
		if v.Live {
			b.next.digest.add(b.hs.record(b.prefix, v.Value))
		}
	} else {
		b.prefix = appendPrefix(b.prefix[:0], t, key)
	}
	if !v.Live {
		b.remember(v)
		return b.note(b.b.Delete(b.prefix, nil))
	}
	v.Value = append([]byte{}, v.Value...)
	b.remember(v)
	return b.note(b.b.Set(b.prefix, v.Value, nil))
}

// remember puts v into the overlay under b.prefix.
func (b *Batch) remember(v Version) {
	if p := b.over[string(b.prefix)]; p != nil {
		p.v = v
		return
	}
	key := string(b.prefix)
	b.over[key] = &pending{key: key, v: v}
	b.sorted = nil
}

// SetVersion writes a version of a key of the MVCC table. v.Value is kept
// and must not change. old is the newest version of the key as
// Version or ScanVersions gave it, zero when there is none. A key has at most
// one version per revision: a second write replaces the first.
func (b *Batch) SetVersion(key []byte, v, old Version) error {
	b.prefix = appendPrefix(b.prefix[:0], MVCC, key)
	if old.Revision != 0 && old.Live {
		b.val = append(append(b.val[:0], flagLive), old.Value...)
		b.enc = appendSuffix(append(b.enc[:0], b.prefix...), old.Revision)
		b.next.digest.sub(b.hs.record(b.enc, b.val))
	}
	flag := byte(flagTombstone)
	if v.Live {
		flag = flagLive
	}
	b.val = append(append(b.val[:0], flag), v.Value...)
	b.enc = appendSuffix(append(b.enc[:0], b.prefix...), v.Revision)
	if v.Live {
		b.next.digest.add(b.hs.record(b.enc, b.val))
	}
	b.remember(v)
	return b.note(b.b.Set(b.enc, b.val, nil))
}

// SetRevision sets the current revision.
func (b *Batch) SetRevision(rev int64) { b.setRevisions(rev, b.next.compact) }

// SetCompactRevision sets the compact revision.
func (b *Batch) SetCompactRevision(rev int64) { b.setRevisions(b.next.revision, rev) }

func (b *Batch) setRevisions(revision, compact int64) {
	b.next.digest.sub(hashRevisions(&b.hs, b.next.revision, b.next.compact))
	b.next.revision, b.next.compact = revision, compact
	b.next.digest.add(hashRevisions(&b.hs, revision, compact))
}

// Revisions implements VersionReader.
func (b *Batch) Revisions() (current, compacted int64, err error) {
	return b.next.revision, b.next.compact, nil
}

// SetConfState sets the Raft configuration; cs is copied.
func (b *Batch) SetConfState(cs *entryv1.ConfState) {
	b.next.digest.sub(hashConf(&b.hs, b.next.conf))
	b.next.conf = sortedConf(cs)
	b.next.digest.add(hashConf(&b.hs, b.next.conf))
}

// ConfState is the Raft configuration as the batch leaves it; a copy.
func (b *Batch) ConfState() *entryv1.ConfState { return sortedConf(b.next.conf) }

// Digest is the digest as the batch leaves it.
func (b *Batch) Digest() [16]byte { return b.next.digest.bytes() }

// Commit writes the effects, pos, the digest and the configuration in one
// Pebble batch, not synced: the Raft log is what makes it durable. pos must
// come after the last one. An error is final for the store's owner: what the
// batch held may or may not be there.
func (b *Batch) Commit(pos ident.Position) error {
	if b.err != nil {
		return b.err
	}
	if pos.Index <= b.base.pos.Index || pos.Term < b.base.pos.Term {
		return fault.Newf(fault.Internal, "commit to state store", "position %s after %s", pos, b.base.pos)
	}
	b.next.pos = pos
	b.enc = b.next.append(b.enc[:0])
	if err := b.b.Set(b.headKey, b.enc, nil); err != nil {
		return b.note(b.s.classify("commit to state store", err))
	}
	if err := b.close(); err != nil {
		return b.note(err)
	}
	if err := b.s.apply(b.b); err != nil {
		return b.note(err)
	}
	b.s.mu.Lock()
	b.s.head = b.next
	b.s.mu.Unlock()
	b.base = b.next
	for key, p := range b.over { // in any order: what is kept shows in nothing but speed
		if p.v.Revision != 0 {
			b.recent.put(key, p.v)
		}
	}
	return b.reset()
}

// Rollback forgets everything written since the last commit.
func (b *Batch) Rollback() error {
	b.next = b.base
	return b.reset()
}

// batchKeep is the size above which a Pebble batch is not used again.
const batchKeep = 1 << 20

func (b *Batch) reset() error {
	if len(b.over) > overlayKeep {
		b.over = make(map[string]*pending)
	}
	clear(b.over)
	b.sorted = nil
	if cap(b.val) > batchKeep {
		b.val = nil
	}
	err := b.b.Close()
	b.b = b.s.db.NewBatch()
	return b.note(errors.Join(err, b.close()))
}

// Close releases the batch; what was not committed is lost.
func (b *Batch) Close() error {
	return errors.Join(b.close(), b.b.Close())
}
