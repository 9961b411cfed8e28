package member

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Reader is what the read functions need: one consistent view of the tables.
type Reader interface {
	// Get gives the value of key, nil when it is absent. The caller owns it.
	Get(t store.Table, key []byte) ([]byte, error)
	// Scan calls fn in key order; the slices are valid during the call.
	Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error
}

// Tables is the batch of one entry; it reads its own writes.
type Tables interface {
	Reader
	Set(t store.Table, key, value []byte) error
	Delete(t store.Table, key []byte) error
}

// clusterKey is the key of the one row of the cluster table. Part of the format.
const clusterKey = "cluster"

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// Cluster gives the cluster row, nil when it is not there yet.
func Cluster(r Reader) (*entryv1.ClusterRecord, error) {
	rec := new(entryv1.ClusterRecord)
	ok, err := get(r, store.Cluster, []byte(clusterKey), rec)
	if !ok || err != nil {
		return nil, err
	}
	return rec, nil
}

// Member gives the record of an ID in any state, nil when it was never used.
func Member(r Reader, id uint64) (*entryv1.MemberRecord, error) {
	rec := new(entryv1.MemberRecord)
	ok, err := get(r, store.Members, idKey(id), rec)
	if !ok || err != nil {
		return nil, err
	}
	if rec.GetId() != id {
		return nil, corrupt("member %016x stands under the key of %016x", rec.GetId(), id)
	}
	return rec, nil
}

// Members gives all records, removed ones included, ascending by ID.
func Members(r Reader) ([]*entryv1.MemberRecord, error) {
	var out []*entryv1.MemberRecord
	err := r.Scan(store.Members, nil, func(key, value []byte) error {
		rec := new(entryv1.MemberRecord)
		if err := proto.Unmarshal(value, rec); err != nil {
			return corrupt("member record %x: %w", key, err)
		}
		if !bytes.Equal(key, idKey(rec.GetId())) {
			return corrupt("member %016x stands under the key %x", rec.GetId(), key)
		}
		out = append(out, rec)
		return nil
	})
	return out, err
}

// SeedLease gives a live lease, nil when there is none with the ID.
func SeedLease(r Reader, id uint64) (*entryv1.SeedLease, error) {
	rec := new(entryv1.SeedLease)
	ok, err := get(r, store.SeedLeases, idKey(id), rec)
	if !ok || err != nil {
		return nil, err
	}
	if rec.GetId() != id {
		return nil, corrupt("seed lease %d stands under the key of %d", rec.GetId(), id)
	}
	return rec, nil
}

// SeedLeases gives the live leases, ascending by ID.
func SeedLeases(r Reader) ([]*entryv1.SeedLease, error) {
	var out []*entryv1.SeedLease
	err := r.Scan(store.SeedLeases, nil, func(key, value []byte) error {
		rec := new(entryv1.SeedLease)
		if err := proto.Unmarshal(value, rec); err != nil {
			return corrupt("seed lease record %x: %w", key, err)
		}
		if !bytes.Equal(key, idKey(rec.GetId())) {
			return corrupt("seed lease %d stands under the key %x", rec.GetId(), key)
		}
		out = append(out, rec)
		return nil
	})
	return out, err
}

func get(r Reader, t store.Table, key []byte, into proto.Message) (bool, error) {
	value, err := r.Get(t, key)
	if err != nil || value == nil {
		return false, err
	}
	if err := proto.Unmarshal(value, into); err != nil {
		return false, corrupt("record %x: %w", key, err)
	}
	return true, nil
}

func put(b Tables, t store.Table, key []byte, rec proto.Message) error {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		return fmt.Errorf("marshal record %x: %w", key, err)
	}
	return b.Set(t, key, value)
}

func putMember(b Tables, rec *entryv1.MemberRecord) error {
	return put(b, store.Members, idKey(rec.GetId()), rec)
}

func putLease(b Tables, rec *entryv1.SeedLease) error {
	return put(b, store.SeedLeases, idKey(rec.GetId()), rec)
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "read member tables", format, args...)
}
