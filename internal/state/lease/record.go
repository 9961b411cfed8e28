package lease

import (
	"encoding/binary"
	"fmt"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
)

// MaxTTL is the longest time to live in seconds: etcd's.
const MaxTTL = 9_000_000_000

// Lease is a lease without its keys. Times are in seconds.
type Lease struct {
	ID  int64
	TTL int64 // granted
	// Remaining is what was left at the last checkpoint, 0 when there is none.
	Remaining int64
}

// Left is the time to live that a new leader gives the lease, in seconds.
func (l Lease) Left() int64 {
	if l.Remaining > 0 {
		return l.Remaining
	}
	return l.TTL
}

const (
	idLen    = 8
	valueLen = 16
)

func idKey(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

func (l Lease) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, valueLen), uint64(l.TTL))
	return binary.BigEndian.AppendUint64(b, uint64(l.Remaining))
}

// decodeLease reads a row of the Lease table.
func decodeLease(key, value []byte) (Lease, error) {
	if len(key) != idLen || len(value) != valueLen {
		return Lease{}, fmt.Errorf("row of %d and %d bytes", len(key), len(value))
	}
	l := Lease{
		ID:        int64(binary.BigEndian.Uint64(key)),
		TTL:       int64(binary.BigEndian.Uint64(value)),
		Remaining: int64(binary.BigEndian.Uint64(value[8:])),
	}
	if l.ID == 0 || l.TTL < 1 || l.TTL > MaxTTL || l.Remaining < 0 || l.Remaining > l.TTL {
		return Lease{}, fmt.Errorf("lease %x with %d of %d seconds left", uint64(l.ID), l.Remaining, l.TTL)
	}
	return l, nil
}

func attachment(id int64, key []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, idLen+len(key)), uint64(id))
	return append(b, key...)
}

// decodeAttachment reads the key of a row of the LeaseKeys table; key aliases b.
func decodeAttachment(b, value []byte) (id int64, key []byte, err error) {
	if len(b) <= idLen || len(value) != 0 {
		return 0, nil, fmt.Errorf("row of %d and %d bytes", len(b), len(value))
	}
	if id = int64(binary.BigEndian.Uint64(b)); id == 0 {
		return 0, nil, fmt.Errorf("key %q of lease 0", b[idLen:])
	}
	return id, b[idLen:], nil
}

func damaged(t store.Table, key []byte, err error) error {
	return fault.Newf(fault.Corrupt, "read leases", "row %x of table %s: %w", key, t, err)
}
