package lease

import (
	"bytes"

	"github.com/chainfire/cfseed/internal/state/store"
)

// Getter reads single rows: a store.View, or the store.Batch of an entry.
type Getter interface {
	Get(t store.Table, key []byte) ([]byte, error)
}

// Reader is what the read functions need: one consistent view of the tables.
type Reader interface {
	Getter
	Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error
}

// Writer is what attaching and detaching need: the store.Batch of an entry.
type Writer interface {
	Set(t store.Table, key, value []byte) error
	Delete(t store.Table, key []byte) error
}

// Find gives the lease with an ID.
func Find(r Getter, id int64) (l Lease, found bool, err error) {
	key := idKey(id)
	value, err := r.Get(store.Lease, key)
	if err != nil || value == nil {
		return Lease{}, false, err
	}
	if l, err = decodeLease(key, value); err != nil {
		return Lease{}, false, damaged(store.Lease, key, err)
	}
	return l, true, nil
}

// All gives every lease, negative IDs after the others.
func All(r Reader) ([]Lease, error) {
	var out []Lease
	err := r.Scan(store.Lease, nil, func(key, value []byte) error {
		l, err := decodeLease(key, value)
		if err != nil {
			return damaged(store.Lease, key, err)
		}
		out = append(out, l)
		return nil
	})
	return out, err
}

// Keys gives the keys attached to a lease, in order.
func Keys(r Reader, id int64) ([][]byte, error) {
	var out [][]byte
	err := EachKey(r, id, func(key []byte) error {
		out = append(out, bytes.Clone(key))
		return nil
	})
	return out, err
}

// EachKey gives the keys attached to a lease one by one, in order, until fn has an
// error, which it returns; key is valid during the call.
func EachKey(r Reader, id int64, fn func(key []byte) error) error {
	return attachments(r, idKey(id), func(_ int64, key []byte) error { return fn(key) })
}

// Attachments gives every key that is attached to a lease, by lease and in
// order; key is valid during the call.
func Attachments(r Reader, fn func(id int64, key []byte) error) error { return attachments(r, nil, fn) }

func attachments(r Reader, prefix []byte, fn func(id int64, key []byte) error) error {
	return r.Scan(store.LeaseKeys, prefix, func(row, value []byte) error {
		id, key, err := decodeAttachment(row, value)
		if err != nil {
			return damaged(store.LeaseKeys, row, err)
		}
		return fn(id, key)
	})
}

// Attach notes that a key now belongs to a lease, which must exist.
func Attach(w Writer, id int64, key []byte) error {
	return w.Set(store.LeaseKeys, attachment(id, key), nil)
}

// Detach notes that a key no longer belongs to a lease.
func Detach(w Writer, id int64, key []byte) error {
	return w.Delete(store.LeaseKeys, attachment(id, key))
}

// Move detaches a key from one lease and attaches it to another; 0 is none.
func Move(w Writer, from, to int64, key []byte) error {
	if from == to {
		return nil
	}
	if from != 0 {
		if err := Detach(w, from, key); err != nil {
			return err
		}
	}
	if to != 0 {
		return Attach(w, to, key)
	}
	return nil
}
