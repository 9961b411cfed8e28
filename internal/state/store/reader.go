package store

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// ErrStop ends a scan early when its callback returns it; the scan returns nil.
var ErrStop = errors.New("stop scan")

// Reader reads the tables as of one moment. Get gives nil, nil for an absent
// key and the caller owns what it gets; a record that is present but empty is
// a non-nil slice. Scan gives the records whose keys start with prefix, in key
// order; its slices are valid during fn.
type Reader interface {
	Get(t Table, key []byte) ([]byte, error)
	Scan(t Table, prefix []byte, fn func(key, value []byte) error) error
}

// Version is one version of a key of a versioned table.
type Version struct {
	Revision int64 // 0: there is none
	Live     bool  // not a tombstone
	Value    []byte
}

// VersionReader reads versioned tables (MVCC) and the revision counters.
// Slices it gives are valid until the next call, those of a scan during fn.
type VersionReader interface {
	Reader
	// Version gives the newest version of key at or before rev.
	Version(t Table, key []byte, rev int64) (Version, error)
	// ScanVersions gives, for each key in [lo, hi) that is live at rev, its
	// version then. hi nil is the end of the table.
	ScanVersions(t Table, lo, hi []byte, rev int64, fn func(key []byte, v Version) error) error
	// Revisions are the current and the compact revision (-1: never compacted).
	Revisions() (current, compacted int64, err error)
}

// cursor reads through one Pebble iterator, opened at the first read. It is
// one consistent view and not for concurrent use.
type cursor struct {
	s       *Store
	it      *pebble.Iterator
	key     []byte
	filters bool // look at the filters of the last level too
}

func (c *cursor) open() error {
	if err := c.s.broken(); err != nil {
		return err
	}
	if c.it != nil {
		return nil
	}
	it, err := c.s.db.NewIter(&pebble.IterOptions{UseL6Filters: c.filters})
	if err != nil {
		return c.s.classify("read state store", err)
	}
	c.it = it
	return nil
}

func (c *cursor) close() error {
	if c.it == nil {
		return nil
	}
	err := c.it.Close()
	c.it = nil
	if err != nil {
		return c.s.classify("read state store", err)
	}
	return nil
}

// get gives the value of an encoded key without suffix, valid until the next
// use of the cursor.
func (c *cursor) get(key []byte) (value []byte, found bool, err error) {
	if err := c.open(); err != nil {
		return nil, false, err
	}
	if !c.it.SeekPrefixGE(key) {
		return nil, false, c.check(c.it.Error())
	}
	if !bytes.Equal(c.it.Key(), key) {
		return nil, false, c.s.damaged("read state store", errors.New("version in an unversioned table"))
	}
	value, err = c.it.ValueAndErr()
	return value, true, c.check(err)
}

// version gives the newest version at or before rev of an encoded prefix.
func (c *cursor) version(prefix []byte, rev int64) (Version, error) {
	if err := c.open(); err != nil {
		return Version{}, err
	}
	c.key = appendSuffix(append(c.key[:0], prefix...), rev)
	if !c.it.SeekPrefixGE(c.key) {
		return Version{}, c.check(c.it.Error())
	}
	v, err := c.decode(c.it)
	return v, c.check(err)
}

func (c *cursor) decode(it *pebble.Iterator) (Version, error) {
	_, rev, versioned, err := splitKey(it.Key())
	if err != nil {
		return Version{}, c.s.damaged("read state store", err)
	}
	value, err := it.ValueAndErr()
	if err != nil || !versioned {
		return Version{Live: true, Value: value}, err
	}
	v, err := decodeVersion(value)
	if err != nil {
		return Version{}, c.s.damaged("read state store", err)
	}
	v.Revision = rev
	return v, nil
}

func (c *cursor) check(err error) error {
	if err != nil {
		return c.s.classify("read state store", err)
	}
	return c.s.broken()
}

// The first byte of a version.
const (
	flagTombstone = 0x00
	flagLive      = 0x01
)

func decodeVersion(value []byte) (Version, error) {
	if len(value) == 0 || value[0] > flagLive {
		return Version{}, errors.New("malformed version")
	}
	if value[0] == flagTombstone && len(value) != 1 {
		return Version{}, errors.New("tombstone with a value")
	}
	return Version{Live: value[0] == flagLive, Value: value[1:]}, nil
}

// scan merges the database with the sorted overlay over [lower, upper) and
// gives what is live at rev. emit's slices are valid during the call. own is
// emit's error (nil for ErrStop), err the database's.
func (c *cursor) scan(lower, upper []byte, rev int64, over []*pending, emit func(key []byte, v Version) error) (own, err error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	it, err := c.it.Clone(pebble.CloneOptions{IterOptions: &pebble.IterOptions{LowerBound: lower, UpperBound: upper}})
	if err != nil {
		return nil, c.check(err)
	}
	m := merge{c: c, it: it, rev: rev, over: over, emit: emit}
	err = m.run()
	err = c.check(errors.Join(err, it.Error(), it.Close()))
	if errors.Is(m.own, ErrStop) {
		m.own = nil
	}
	return m.own, err
}
