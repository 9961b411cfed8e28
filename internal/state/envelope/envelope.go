// Package envelope is the outside of a log entry: which request it answers and
// what its body is.
//
// Format, version 1 (all integers little endian):
//
//	offset  size  field
//	0       1     version, 1
//	1       2     kind
//	3       8     request ID; 0 = nobody waits
//	11      n     body, the protobuf message of the kind
//
// The same bytes stand in the data of a normal entry and in the context of a
// configuration change. An unknown version or kind stops the node (the
// replicated cluster version gates new kinds), so both are errors here.
package envelope

import (
	"encoding/binary"
	"fmt"
)

// Version is the format written.
const Version = 1

// HeaderSize is the number of bytes before the body.
const HeaderSize = 11

// Kind says what the body is. Numbers are part of the format.
type Kind uint16

// Kinds of normal entries, then of configuration changes.
const (
	Put         Kind = 1 // etcdserverpb.PutRequest
	DeleteRange Kind = 2 // etcdserverpb.DeleteRangeRequest
	Txn         Kind = 3 // etcdserverpb.TxnRequest
	Compact     Kind = 4 // etcdserverpb.CompactionRequest

	LeaseGrant      Kind = 16 // etcdserverpb.LeaseGrantRequest
	LeaseRevoke     Kind = 17 // etcdserverpb.LeaseRevokeRequest
	LeaseCheckpoint Kind = 18 // etcdserverpb.LeaseCheckpointRequest

	// 19-31 are kept for leases, 32-47 for auth, 48-55 for alarms.

	ClusterInit       Kind = 64 // entryv1.ClusterInit
	SetClusterVersion Kind = 65
	ReserveMember     Kind = 66
	TouchReservation  Kind = 67
	CancelReservation Kind = 68
	BindMember        Kind = 69
	PublishMember     Kind = 70
	UpdateMember      Kind = 71
	OpenSeedLease     Kind = 80
	RenewSeedLease    Kind = 81
	ExpireSeedLease   Kind = 82
	CloseSeedLease    Kind = 83

	AddLearner     Kind = 128 // configuration changes; entryv1 messages of the same names
	PromoteMember  Kind = 129
	RemoveMember   Kind = 130
	BootstrapVoter Kind = 131
)

var names = map[Kind]string{
	Put: "put", DeleteRange: "delete_range", Txn: "txn", Compact: "compact",
	LeaseGrant: "lease_grant", LeaseRevoke: "lease_revoke", LeaseCheckpoint: "lease_checkpoint",
	ClusterInit: "cluster_init", SetClusterVersion: "set_cluster_version",
	ReserveMember: "reserve_member", TouchReservation: "touch_reservation",
	CancelReservation: "cancel_reservation", BindMember: "bind_member",
	PublishMember: "publish_member", UpdateMember: "update_member",
	OpenSeedLease: "open_seed_lease", RenewSeedLease: "renew_seed_lease",
	ExpireSeedLease: "expire_seed_lease", CloseSeedLease: "close_seed_lease",
	AddLearner: "add_learner", PromoteMember: "promote_member",
	RemoveMember: "remove_member", BootstrapVoter: "bootstrap_voter",
}

// Known reports whether this program can apply the kind.
func (k Kind) Known() bool { _, ok := names[k]; return ok }

// IsConfChange reports whether the kind belongs in a configuration change.
func (k Kind) IsConfChange() bool { return k >= AddLearner }

// String gives the kind's name, as in traces and metrics.
func (k Kind) String() string {
	if s, ok := names[k]; ok {
		return s
	}
	return fmt.Sprintf("kind(%d)", uint16(k))
}

// Envelope is a decoded entry. Body aliases the decoded bytes.
type Envelope struct {
	Kind      Kind
	RequestID uint64
	Body      []byte
}

// Append appends the encoding of the header and body to dst.
func (e Envelope) Append(dst []byte) []byte {
	dst = append(dst, Version)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(e.Kind))
	dst = binary.LittleEndian.AppendUint64(dst, e.RequestID)
	return append(dst, e.Body...)
}

// Decode reads an envelope. It accepts exactly what this version can apply.
func Decode(b []byte) (Envelope, error) {
	if len(b) < HeaderSize {
		return Envelope{}, fmt.Errorf("entry of %d bytes is shorter than its header", len(b))
	}
	if b[0] != Version {
		return Envelope{}, fmt.Errorf("entry format %d, this program knows %d", b[0], Version)
	}
	e := Envelope{
		Kind:      Kind(binary.LittleEndian.Uint16(b[1:])),
		RequestID: binary.LittleEndian.Uint64(b[3:]),
		Body:      b[HeaderSize:],
	}
	if !e.Kind.Known() {
		return Envelope{}, fmt.Errorf("entry kind %d is not known to this program", uint16(e.Kind))
	}
	return e, nil
}
