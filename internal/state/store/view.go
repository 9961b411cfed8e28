package store

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// View is a consistent view of everything committed when it was made. It is
// not for concurrent use; make one per goroutine. An open View keeps old
// files on disk, so close it soon.
type View struct {
	cursor
	head   *head
	err    error
	prefix []byte
}

var _ VersionReader = (*View)(nil)

// View opens a view. An error shows at its first read.
func (s *Store) View() *View {
	v := &View{cursor: cursor{s: s}}
	v.err = v.open()
	return v
}

// Close ends the view.
func (v *View) Close() error { return v.close() }

// Get implements Reader.
func (v *View) Get(t Table, key []byte) ([]byte, error) {
	if v.err != nil {
		return nil, v.err
	}
	v.prefix = appendPrefix(v.prefix[:0], t, key)
	value, found, err := v.get(v.prefix)
	if err != nil || !found {
		return nil, err
	}
	return append([]byte{}, value...), nil
}

// Scan implements Reader.
func (v *View) Scan(t Table, prefix []byte, fn func(key, value []byte) error) error {
	if v.err != nil {
		return v.err
	}
	lower, upper := scanBounds(t, prefix, prefixEnd(prefix))
	own, err := v.scan(lower, upper, math.MaxInt64, nil, func(key []byte, ver Version) error {
		return fn(key, ver.Value)
	})
	return first(own, err)
}

// Version implements VersionReader.
func (v *View) Version(t Table, key []byte, rev int64) (Version, error) {
	if v.err != nil {
		return Version{}, v.err
	}
	v.prefix = appendPrefix(v.prefix[:0], t, key)
	return v.version(v.prefix, rev)
}

// ScanVersions implements VersionReader.
func (v *View) ScanVersions(t Table, lo, hi []byte, rev int64, fn func(key []byte, ver Version) error) error {
	if v.err != nil {
		return v.err
	}
	lower, upper := scanBounds(t, lo, hi)
	own, err := v.scan(lower, upper, rev, nil, fn)
	return first(own, err)
}

// first prefers the caller's own error to the database's.
func first(own, err error) error {
	if own != nil {
		return own
	}
	return err
}

// Older gives the revisions of every version of key before rev, newest first.
func (v *View) Older(t Table, key []byte, rev int64) ([]int64, error) {
	if v.err != nil {
		return nil, v.err
	}
	var revs []int64
	v.prefix = appendPrefix(v.prefix[:0], t, key)
	for rev > 0 {
		ver, err := v.version(v.prefix, rev-1)
		if err != nil {
			return nil, err
		}
		if ver.Revision == 0 {
			break
		}
		rev = ver.Revision
		revs = append(revs, rev)
	}
	return revs, nil
}

// Revisions implements VersionReader.
func (v *View) Revisions() (current, compacted int64, err error) {
	h, err := v.readHead()
	if err != nil {
		return 0, 0, err
	}
	return h.revision, h.compact, nil
}

// Position is that of the last entry in the view.
func (v *View) Position() (ident.Position, error) {
	h, err := v.readHead()
	if err != nil {
		return ident.Position{}, err
	}
	return h.pos, nil
}

// ConfState is the Raft configuration in the view; a copy.
func (v *View) ConfState() (*entryv1.ConfState, error) {
	h, err := v.readHead()
	if err != nil {
		return nil, err
	}
	return sortedConf(h.conf), nil
}

// Digest is the running digest as recorded in the view.
func (v *View) Digest() ([16]byte, error) {
	h, err := v.readHead()
	if err != nil {
		return [16]byte{}, err
	}
	return h.digest.bytes(), nil
}

func (v *View) readHead() (*head, error) {
	if v.err != nil || v.head != nil {
		return v.head, v.err
	}
	v.prefix = appendPrefix(v.prefix[:0], Meta, []byte(metaHead))
	raw, found, err := v.get(v.prefix)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, v.s.damaged("read state store", errors.New("head record missing"))
	}
	h, err := decodeHead(raw)
	if err != nil {
		return nil, v.s.damaged("read state store", err)
	}
	v.head = &h
	return v.head, nil
}

// scanCheckEvery is the number of keys between looks at the context.
const scanCheckEvery = 4096

// ScanDigest computes the digest from all records, which must equal Digest.
// It reads the whole store.
func (v *View) ScanDigest(ctx context.Context) (digest [16]byte, err error) {
	h, err := v.readHead()
	if err != nil {
		return digest, err
	}
	hs := &hasher{}
	var d sum
	d.add(hashConf(hs, h.conf))
	d.add(hashRevisions(hs, h.revision, h.compact))
	it, err := v.it.Clone(pebble.CloneOptions{IterOptions: &pebble.IterOptions{LowerBound: []byte{byte(Cluster)}}})
	if err != nil {
		return digest, v.check(err)
	}
	defer func() { err = first(err, v.check(it.Close())) }()
	n := 0
	for valid := it.First(); valid; valid = it.NextPrefix() {
		if n++; n%scanCheckEvery == 0 && ctx.Err() != nil {
			return digest, ctx.Err()
		}
		counts, err := v.counts(it.Key())
		if err != nil {
			return digest, v.s.damaged("scan state store", err)
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return digest, v.check(err)
		}
		if counts && (Table(it.Key()[0]) != MVCC || len(value) > 0 && value[0] == flagLive) {
			d.add(hs.record(it.Key(), value))
		}
	}
	return d.bytes(), v.check(it.Error())
}

// counts reports whether records of this key belong to the digest.
func (v *View) counts(key []byte) (bool, error) {
	prefix, _, versioned, err := splitKey(key)
	if err != nil {
		return false, err
	}
	t := Table(prefix[0])
	if t > lastTable || versioned != (t == MVCC) {
		return false, fmt.Errorf("key %x does not belong to a table", key)
	}
	return t == MVCC || t.digested(), nil
}

// ScanFrom gives the records of an unversioned table with keys at or after lo,
// in order.
func (v *View) ScanFrom(t Table, lo []byte, fn func(key, value []byte) error) error {
	if v.err != nil {
		return v.err
	}
	lower, upper := scanBounds(t, lo, nil)
	own, err := v.scan(lower, upper, math.MaxInt64, nil, func(key []byte, ver Version) error {
		return fn(key, ver.Value)
	})
	return first(own, err)
}
