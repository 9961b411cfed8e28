package mvcc

import (
	"fmt"

	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/store"
)

// LeaseReader is what LeaseDifferences needs: a store.View.
type LeaseReader interface {
	Reader
	Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error
}

// LeaseDifferences compares the tables of package lease with each other and with
// the keys, as of one view. A healthy state has none; each line names the lease
// or key concerned. The properties:
//
//  1. every row of both tables can be read;
//  2. a key is attached to a lease that exists;
//  3. the live version of an attached key names that lease.
//
// It also gives the number of leases and of attached keys. Keys that name a
// lease and are not attached are not looked for: that would read every key.
func LeaseDifferences(r LeaseReader) (found []string, leases, keys int, err error) {
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	all, err := lease.All(r)
	if err != nil {
		return nil, 0, 0, err
	}
	known := make(map[int64]bool, len(all))
	for _, l := range all {
		known[l.ID] = true
	}
	current, _, err := r.Revisions()
	if err != nil {
		return nil, 0, 0, err
	}
	err = lease.Attachments(r, func(id int64, key []byte) error {
		keys++
		if !known[id] {
			add("key %q is attached to lease %d, which does not exist", key, id)
		}
		v, err := r.Version(store.MVCC, key, current)
		if err != nil {
			return err
		}
		if v.Revision == 0 || !v.Live {
			add("key %q is attached to lease %d and does not exist", key, id)
			return nil
		}
		rec, err := decodeRecord(v.Value)
		if err != nil {
			return damaged(key, err)
		}
		if rec.lease != id {
			add("key %q is attached to lease %d and names lease %d", key, id, rec.lease)
		}
		return nil
	})
	return found, len(all), keys, err
}
