package store

import (
	"bytes"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// rawCacheBytes is the block cache of a Raw: scans gain nothing from a large one.
const rawCacheBytes = 4 << 20

// rawBatchBytes is the size at which Raw's changes are applied.
const rawBatchBytes = 1 << 20

// Raw is a store as its records, keys and values as they are on disk, without
// what they mean. It is for copying a state, not for running one: what it writes
// moves position and digest only as far as it writes the records that hold them.
// One goroutine writes; iterators may be used by others.
type Raw struct {
	s *Store
	b *pebble.Batch
}

// OpenRaw opens the store in dir, which must exist. Without ReadOnly its
// write-ahead log becomes tables, and it is not compacted while it is open.
func OpenRaw(dir string, o Options) (*Raw, error) {
	cache := pebble.NewCache(rawCacheBytes)
	defer cache.Unref() // the database holds it
	o.Cache, o.Brief = cache, true
	if d, err := pebble.Peek(dir, o.withDefaults().FS); err != nil || !d.Exists {
		o.ReadOnly = true // Open says what is missing, and makes nothing
	}
	s, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	if !o.ReadOnly {
		if err := s.Flush(); err != nil {
			return nil, errors.Join(err, s.db.Close())
		}
	}
	return &Raw{s: s}, nil
}

// Close drops changes that were not applied. No iterator may be open.
func (r *Raw) Close() error {
	var err error
	if r.b != nil {
		err = r.b.Close()
	}
	return errors.Join(err, r.s.Close())
}

// Set writes a record, once Apply is called or much is to be written.
func (r *Raw) Set(key, value []byte) error {
	return r.change(func(b *pebble.Batch) error { return b.Set(key, value, nil) })
}

// Delete removes a record, as Set writes one.
func (r *Raw) Delete(key []byte) error {
	return r.change(func(b *pebble.Batch) error { return b.Delete(key, nil) })
}

func (r *Raw) change(fn func(*pebble.Batch) error) error {
	if r.b == nil {
		r.b = r.s.db.NewBatch()
	}
	if err := fn(r.b); err != nil {
		return r.s.classify("write state store", err)
	}
	if r.b.Len() < rawBatchBytes {
		return nil
	}
	return r.Apply()
}

// Apply makes the changes so far seen by iterators opened from now on. They are
// durable with the next Checkpoint.
func (r *Raw) Apply() error {
	if r.b == nil {
		return nil
	}
	err := r.s.apply(r.b)
	if cerr := r.b.Close(); err == nil && cerr != nil {
		err = r.s.classify("write state store", cerr)
	}
	r.b = nil
	return err
}

// Checkpoint is Store.Checkpoint, of what was applied.
func (r *Raw) Checkpoint(dir string) error { return r.s.Checkpoint(dir) }

// RawExtent says about how much a store holds.
type RawExtent struct {
	Records   uint64   // with what was overwritten and not compacted yet
	Bytes     uint64   // of their keys and values
	DiskBytes uint64   // of tables
	Firsts    [][]byte // first keys of tables, in order: places to begin at, about evenly spread
}

// Extent reads the extent from the properties of the tables.
func (r *Raw) Extent() (RawExtent, error) {
	var e RawExtent
	levels, err := r.s.db.SSTables(pebble.WithProperties())
	if err != nil {
		return e, r.s.classify("read tables", err)
	}
	for _, level := range levels {
		for _, t := range level {
			e.DiskBytes += t.Size
			if t.Properties != nil {
				e.Records += t.Properties.NumEntries
				e.Bytes += t.Properties.RawKeySize + t.Properties.RawValueSize
			}
			e.Firsts = append(e.Firsts, bytes.Clone(t.Smallest.UserKey))
		}
	}
	slices.SortFunc(e.Firsts, compare)
	return e, r.s.broken()
}

// Iterate gives an iterator over what is applied, to be closed before the Raw.
func (r *Raw) Iterate() (*RawIterator, error) {
	it, err := r.s.db.NewIter(nil)
	if err != nil {
		return nil, r.s.classify("read state store", err)
	}
	return &RawIterator{s: r.s, it: it}, nil
}

// RawIterator gives every record in the order of keys, as of when it was opened.
// It is for one goroutine; what Key and Value give is valid until the next move.
type RawIterator struct {
	s  *Store
	it *pebble.Iterator
}

// SeekAfter moves to the first record after key, to the first of all when key is
// empty. False: there is none, or Err tells why.
func (i *RawIterator) SeekAfter(key []byte) bool {
	if len(key) == 0 {
		return i.it.First()
	}
	valid := i.it.SeekGE(key)
	if valid && bytes.Equal(i.it.Key(), key) {
		return i.it.Next()
	}
	return valid
}

// Next moves to the next record.
func (i *RawIterator) Next() bool { return i.it.Next() }

// Key is the key of the record.
func (i *RawIterator) Key() []byte { return i.it.Key() }

// Value is its value.
func (i *RawIterator) Value() ([]byte, error) {
	v, err := i.it.ValueAndErr()
	if err != nil {
		return nil, i.s.classify("read state store", err)
	}
	return v, nil
}

// Compare orders keys.
func (i *RawIterator) Compare(a, b []byte) int { return compare(a, b) }

// Err says why there was no next record, nil at the end.
func (i *RawIterator) Err() error {
	if err := i.it.Error(); err != nil {
		return i.s.classify("read state store", err)
	}
	return i.s.broken()
}

// Close ends the iterator.
func (i *RawIterator) Close() error {
	if err := i.it.Close(); err != nil {
		return i.s.classify("read state store", err)
	}
	return nil
}
