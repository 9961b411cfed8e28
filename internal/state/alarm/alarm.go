package alarm

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
)

// Reader is what All needs: one consistent view of the tables.
type Reader interface {
	Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error
}

// Batch is what entries need: the store.Batch of one of them.
type Batch interface {
	Reader
	Get(t store.Table, key []byte) ([]byte, error)
	Set(t store.Table, key, value []byte) error
	Delete(t store.Table, key []byte) error
	Revisions() (current, compacted int64, err error)
}

var _ Batch = (*store.Batch)(nil)

const keyLen = 12

func encodeKey(a *pb.AlarmMember) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, keyLen), a.GetMemberID())
	return binary.BigEndian.AppendUint32(b, uint32(a.GetAlarm()))
}

// decode reads a row of the Alarms table.
func decode(key, value []byte) (*pb.AlarmMember, error) {
	if len(key) != keyLen || len(value) != 0 {
		return nil, fmt.Errorf("row of %d and %d bytes", len(key), len(value))
	}
	t := binary.BigEndian.Uint32(key[8:])
	a := &pb.AlarmMember{MemberID: binary.BigEndian.Uint64(key), Alarm: pb.AlarmType(t)}
	if !known(a.GetAlarm()) {
		return nil, fmt.Errorf("alarm of type %d", t)
	}
	return a, nil
}

// known reports whether the type is an alarm; NONE is none.
func known(t pb.AlarmType) bool { return t == pb.AlarmType_NOSPACE || t == pb.AlarmType_CORRUPT }

// All gives the alarms that stand, by member ID.
func All(r Reader) ([]*pb.AlarmMember, error) {
	var out []*pb.AlarmMember
	err := r.Scan(store.Alarms, nil, func(key, value []byte) error {
		a, err := decode(key, value)
		if err != nil {
			return fault.Newf(fault.Corrupt, "read alarms", "row %x of table %s: %w", key, store.Alarms, err)
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

// Apply carries out a request. It answers, as etcd does, with the alarm that
// stands or was disarmed, with all of a type for GET (all there are for NONE),
// and with nothing where nothing is to be done: an alarm that does not stand, a
// type that is no alarm.
func Apply(b Batch, req *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	current, _, err := b.Revisions()
	if err != nil {
		return nil, err
	}
	resp := &pb.AlarmResponse{Header: &pb.ResponseHeader{Revision: current}}
	if req.GetAction() == pb.AlarmRequest_GET {
		all, err := All(b)
		resp.Alarms = OfType(all, req.GetAlarm())
		return resp, err
	}
	a := &pb.AlarmMember{MemberID: req.GetMemberID(), Alarm: req.GetAlarm()}
	if !known(a.GetAlarm()) {
		return resp, nil
	}
	key := encodeKey(a)
	switch req.GetAction() {
	case pb.AlarmRequest_ACTIVATE:
		err = b.Set(store.Alarms, key, nil)
	case pb.AlarmRequest_DEACTIVATE:
		var there []byte
		if there, err = b.Get(store.Alarms, key); err != nil || there == nil {
			return resp, err
		}
		err = b.Delete(store.Alarms, key)
	default:
		return resp, nil
	}
	resp.Alarms = []*pb.AlarmMember{a}
	return resp, err
}

// OfType gives the alarms of a type; NONE is any.
func OfType(all []*pb.AlarmMember, t pb.AlarmType) []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, a := range all {
		if t == pb.AlarmType_NONE || a.GetAlarm() == t {
			out = append(out, a)
		}
	}
	return out
}
