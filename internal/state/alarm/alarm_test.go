package alarm

import (
	"bytes"
	"encoding/hex"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// TestRecordFormat pins the bytes: a change of them is another format.
func TestRecordFormat(t *testing.T) {
	for want, a := range map[string]*pb.AlarmMember{
		"0102030405060708" + "00000001": {MemberID: 0x0102030405060708, Alarm: pb.AlarmType_NOSPACE},
		"0000000000000000" + "00000002": {Alarm: pb.AlarmType_CORRUPT},
	} {
		if got := hex.EncodeToString(encodeKey(a)); got != want {
			t.Errorf("%v: %s, want %s", a, got, want)
		}
		if back, err := decode(encodeKey(a), nil); err != nil || !proto.Equal(back, a) {
			t.Errorf("%v is read as %v, %v", a, back, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := encodeKey(&pb.AlarmMember{MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
	for name, row := range map[string][2][]byte{
		"a short key": {good[1:], nil}, "a long one": {append(bytes.Clone(good), 0), nil}, "a value": {good, []byte("x")},
		"no alarm": {encodeKey(&pb.AlarmMember{MemberID: 1}), nil}, "an unknown one": {encodeKey(&pb.AlarmMember{Alarm: 3}), nil},
		"a type beyond its field": {append(bytes.Clone(good[:8]), 0xff, 0xff, 0xff, 0xff), nil},
	} {
		if a, err := decode(row[0], row[1]); err == nil {
			t.Errorf("%s was read as %v", name, a)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encodeKey(&pb.AlarmMember{MemberID: 1, Alarm: pb.AlarmType_NOSPACE}), []byte{})
	f.Add(encodeKey(&pb.AlarmMember{Alarm: pb.AlarmType_CORRUPT}), []byte("x"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		a, err := decode(key, value)
		if err != nil {
			return
		}
		if !known(a.GetAlarm()) || !bytes.Equal(encodeKey(a), key) {
			t.Errorf("%x is read as %v", key, a)
		}
	})
}
