package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
)

// record is a live version without its key and mod revision.
type record struct {
	create  int64
	version int64
	lease   int64
	value   []byte
}

func (r record) encode() []byte {
	b := make([]byte, 0, 3*binary.MaxVarintLen64+len(r.value))
	b = binary.AppendUvarint(b, uint64(r.create))
	b = binary.AppendUvarint(b, uint64(r.version))
	b = binary.AppendUvarint(b, uint64(r.lease))
	return append(b, r.value...)
}

// decodeRecord reads a record; the value aliases b.
func decodeRecord(b []byte) (r record, err error) {
	for _, f := range []*int64{&r.create, &r.version, &r.lease} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return record{}, errors.New("truncated version record")
		}
		*f, b = int64(v), b[n:]
	}
	if r.create <= 0 || r.version <= 0 {
		return record{}, fmt.Errorf("version record with create revision %d, version %d", r.create, r.version)
	}
	r.value = b
	return r, nil
}

func damaged(key []byte, err error) error {
	return fault.Newf(fault.Corrupt, "read key-value table", "key %q: %w", key, err)
}

// keyValue makes the API's form of a live version. It copies. Without the value
// there is no lease either: etcd then answers from its index of keys, which
// knows of none.
func keyValue(key []byte, v store.Version, withValue bool) (*mvccpb.KeyValue, error) {
	r, err := decodeRecord(v.Value)
	if err != nil {
		return nil, damaged(key, err)
	}
	kv := &mvccpb.KeyValue{
		Key:            append([]byte(nil), key...),
		CreateRevision: r.create,
		ModRevision:    v.Revision,
		Version:        r.version,
	}
	if !withValue {
		return kv, nil
	}
	kv.Lease = r.lease
	if len(r.value) > 0 {
		kv.Value = append([]byte(nil), r.value...)
	}
	return kv, nil
}

const revisionKeyLen = 12

func revisionKey(main int64, sub uint32) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, revisionKeyLen), uint64(main))
	return binary.BigEndian.AppendUint32(b, sub)
}

func decodeRevisionKey(b []byte) (main int64, sub uint32, err error) {
	if len(b) != revisionKeyLen {
		return 0, 0, damaged(b, errors.New("malformed row of the revisions table"))
	}
	m := binary.BigEndian.Uint64(b)
	if m > math.MaxInt64 {
		return 0, 0, damaged(b, errors.New("malformed revision"))
	}
	return int64(m), binary.BigEndian.Uint32(b[8:]), nil
}
