// Package ident holds the names of things that every layer shares: member and
// cluster IDs, nonces and log positions. It imports nothing of this module.
package ident

import (
	"fmt"
	"strconv"
)

// Position is the term and index of the last applied entry of a state
// (Raft paper, section 7: lastIncludedTerm, lastIncludedIndex). The zero value
// is the empty state.
type Position struct {
	Term, Index uint64
}

// String gives "term/index".
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Term, p.Index) }

// Nonce is 16 random bytes: of a cluster's genesis, of a data directory, of a
// start of a process. The zero value means "not known".
type Nonce [16]byte

// IsZero reports whether the nonce is not known.
func (n Nonce) IsZero() bool { return n == Nonce{} }

// String gives 32 hex digits.
func (n Nonce) String() string { return fmt.Sprintf("%x", n[:]) }

// Bytes gives the nonce as a new slice, nil when it is not known.
func (n Nonce) Bytes() []byte {
	if n.IsZero() {
		return nil
	}
	return append([]byte(nil), n[:]...)
}

// NonceFrom reads a nonce from the wire: empty means not known, any other
// length than 16 is an error.
func NonceFrom(b []byte) (Nonce, error) {
	var n Nonce
	switch len(b) {
	case 0:
		return n, nil
	case len(n):
		copy(n[:], b)
		return n, nil
	}
	return n, fmt.Errorf("nonce of %d bytes, want 16", len(b))
}

// Cluster names a cluster: the ID that members derive or are given, and the
// nonce its first leader committed, which tells two clusters formed with the
// same flags apart.
type Cluster struct {
	ID      uint64
	Genesis Nonce
}

// Same reports whether c and o can be the same cluster: IDs equal and, where
// both are known, the genesis nonces as well.
func (c Cluster) Same(o Cluster) bool {
	return c.ID == o.ID && (c.Genesis == o.Genesis || c.Genesis.IsZero() || o.Genesis.IsZero())
}

// FormatID gives the 16 hex digits by which people and scripts name an ID.
func FormatID(id uint64) string { return fmt.Sprintf("%016x", id) }

// ParseID reads what FormatID gives; shorter hex is accepted.
func ParseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not an ID of up to 16 hex digits", s)
	}
	return id, nil
}
