package store

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
)

// merge is one scan: the keys of an iterator and those of an overlay, which
// win, in one order.
type merge struct {
	c      *cursor
	it     *pebble.Iterator
	rev    int64
	over   []*pending
	emit   func(key []byte, v Version) error
	own    error  // what emit returned; ends the scan
	prefix []byte // of the key the iterator stands on
	seek   []byte
}

func (m *merge) run() error {
	for valid := m.it.First(); (valid || len(m.over) > 0) && m.own == nil; {
		order := -1
		if valid {
			k := m.it.Key()
			m.prefix = append(m.prefix[:0], k[:split(k)]...)
		} else {
			order = 1
		}
		if valid && len(m.over) > 0 {
			order = compareString(m.prefix, m.over[0].key)
		}
		if order < 0 {
			var err error
			if valid, err = m.stored(); err != nil {
				return err
			}
			continue
		}
		p := m.over[0]
		m.over = m.over[1:]
		if p.v.Live {
			m.own = m.emit(userKey([]byte(p.key)), p.v)
		}
		if order == 0 {
			valid = m.it.NextPrefix()
		}
	}
	return nil
}

func compareString(a []byte, b string) int {
	switch {
	case string(a) < b:
		return -1
	case string(a) > b:
		return 1
	}
	return 0
}

// stepsBeforeSeek is the number of newer versions of a key that are stepped
// over before seeking to the one wanted.
const stepsBeforeSeek = 3

// stored emits the version at rev of the key the iterator stands on and moves
// to the next key.
func (m *merge) stored() (valid bool, err error) {
	for steps := 0; ; steps++ {
		v, err := m.c.decode(m.it)
		if err != nil {
			return false, err
		}
		if v.Revision <= m.rev {
			if v.Live {
				m.own = m.emit(userKey(m.prefix), v)
			}
			return m.it.NextPrefix(), nil
		}
		if steps < stepsBeforeSeek {
			valid = m.it.Next()
		} else {
			m.seek = appendSuffix(append(m.seek[:0], m.prefix...), m.rev)
			valid = m.it.SeekGE(m.seek)
		}
		if !valid {
			return false, nil
		}
		if k := m.it.Key(); !bytes.Equal(k[:split(k)], m.prefix) {
			return true, nil
		}
	}
}
