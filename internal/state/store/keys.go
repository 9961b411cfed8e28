package store

import (
	"encoding/binary"
	"fmt"
)

// Table is the first byte of every key. The numbers are part of the format.
type Table byte

// The tables.
const (
	Meta       Table = 0x01
	Cluster    Table = 0x02
	MVCC       Table = 0x03
	Revisions  Table = 0x04
	Lease      Table = 0x05
	LeaseKeys  Table = 0x06
	AuthUsers  Table = 0x07
	AuthRoles  Table = 0x08
	AuthMeta   Table = 0x09
	Alarms     Table = 0x0a
	Members    Table = 0x0b
	SeedLeases Table = 0x0c

	lastTable = SeedLeases
)

// String gives the table's name, as in messages.
func (t Table) String() string {
	names := [...]string{"", "meta", "cluster", "mvcc", "revisions", "lease", "lease_keys",
		"auth_users", "auth_roles", "auth_meta", "alarms", "members", "seed_leases"}
	if t == 0 || int(t) >= len(names) {
		return fmt.Sprintf("table(%#02x)", byte(t))
	}
	return names[t]
}

// plain reports whether Set and Delete may write the table.
func (t Table) plain() bool { return t > Meta && t <= lastTable && t != MVCC }

// digested reports whether every record of the table counts in the digest.
func (t Table) digested() bool { return t.plain() && t != Revisions }

// The bytes that end a key: the length of its suffix.
const (
	endPrefix  = 0x00
	suffixLen  = 9 // ^revision and the length itself
	endVersion = suffixLen
)

// appendPrefix appends the encoding of a key without a revision.
func appendPrefix(dst []byte, t Table, key []byte) []byte {
	dst = append(dst, byte(t))
	dst = append(dst, key...)
	return append(dst, endPrefix)
}

// appendSuffix appends the suffix of a revision to an encoded prefix.
func appendSuffix(prefix []byte, rev int64) []byte {
	prefix = binary.BigEndian.AppendUint64(prefix, ^uint64(rev))
	return append(prefix, endVersion)
}

// tableEnd is the exclusive upper bound of a table's keys.
func tableEnd(t Table) []byte { return []byte{byte(t) + 1} }

// scanBounds gives the bounds of the keys of t in [lo, hi); hi nil is the end
// of the table.
func scanBounds(t Table, lo, hi []byte) (lower, upper []byte) {
	lower = appendPrefix(make([]byte, 0, len(lo)+2), t, lo)
	if len(lo) == 0 {
		lower = []byte{byte(t)}
	}
	if hi == nil {
		return lower, tableEnd(t)
	}
	return lower, appendPrefix(make([]byte, 0, len(hi)+2), t, hi)
}

// prefixEnd is the smallest key after every key that starts with prefix, nil
// when there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// splitKey takes an encoded key apart. rev is 0 and versioned false when it
// has no suffix.
func splitKey(k []byte) (prefix []byte, rev int64, versioned bool, err error) {
	n := split(k)
	prefix = k[:n]
	if n < 2 || prefix[n-1] != endPrefix {
		return nil, 0, false, fmt.Errorf("malformed key %x", k)
	}
	switch len(k) - n {
	case 0:
		return prefix, 0, false, nil
	case suffixLen:
		rev = int64(^binary.BigEndian.Uint64(k[n:]))
		if rev < 0 {
			return nil, 0, false, fmt.Errorf("malformed revision in key %x", k)
		}
		return prefix, rev, true, nil
	}
	return nil, 0, false, fmt.Errorf("malformed suffix in key %x", k)
}

// userKey is the part of an encoded prefix that the table's owner chose.
func userKey(prefix []byte) []byte { return prefix[1 : len(prefix)-1] }
