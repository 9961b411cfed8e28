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
// A request of a client's, whose permissions are to be checked when it is applied,
// has kind 47 in the header, and before the body:
//
//	offset  size  field
//	11      8     revision of the users and roles that the client was known by; 0 =
//	              there is none
//	19      2     kind of the request, of a normal entry
//	21      2     length n of the user's name
//	23      n     user's name; empty = nobody said who asks
//
// What is not of kind 47 was proposed by a member on the cluster's behalf, or by
// one that had no users to check.
//
// The same bytes stand in the data of a normal entry and in the context of a
// configuration change. An unknown version or kind stops the node (the
// replicated cluster version gates new kinds), so both are errors here.
package envelope

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Version is the format written.
const Version = 1

const (
	// HeaderSize is the number of bytes before the body of a plain entry.
	HeaderSize = 11

	// clientSize is what a client adds to that, without the name.
	clientSize = 12

	// MaxName is the longest name of a client's user.
	MaxName = math.MaxUint16
)

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

	Alarm Kind = 24 // etcdserverpb.AlarmRequest

	AuthEnable           Kind = 32 // etcdserverpb messages of etcd's requests
	AuthDisable          Kind = 33
	UserAdd              Kind = 34 // with a hash, never with a password
	UserDelete           Kind = 35
	UserChangePassword   Kind = 36 // with a hash, never with a password
	UserGrantRole        Kind = 37
	UserRevokeRole       Kind = 38
	RoleAdd              Kind = 39
	RoleDelete           Kind = 40
	RoleGrantPermission  Kind = 41
	RoleRevokePermission Kind = 42
	Authenticate         Kind = 43 // etcdserverpb.InternalAuthenticateRequest

	ofClient Kind = 47 // see the package comment; never what a request is

	// 19-23 are kept for leases, 25-31 for alarms, 44-46 for auth, 48-63 for nothing yet.

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
	AuthEnable: "auth_enable", AuthDisable: "auth_disable", UserAdd: "user_add", UserDelete: "user_delete",
	UserChangePassword: "user_change_password", UserGrantRole: "user_grant_role", UserRevokeRole: "user_revoke_role",
	RoleAdd: "role_add", RoleDelete: "role_delete", RoleGrantPermission: "role_grant_permission",
	RoleRevokePermission: "role_revoke_permission", Authenticate: "authenticate",
	Alarm:       "alarm",
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

// Client is whom a request is of. Nobody is the zero Client.
type Client struct {
	Name     string // of the user, at most MaxName bytes
	Revision uint64 // of the users and roles when the client was identified
}

// Envelope is a decoded entry. Body aliases the decoded bytes.
type Envelope struct {
	Kind      Kind
	RequestID uint64
	Client    *Client // nil: not a client's
	Body      []byte
}

// Append appends the encoding of the header and body to dst.
func (e Envelope) Append(dst []byte) []byte {
	kind := e.Kind
	if e.Client != nil {
		kind = ofClient
	}
	dst = append(dst, Version)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(kind))
	dst = binary.LittleEndian.AppendUint64(dst, e.RequestID)
	if e.Client != nil {
		dst = binary.LittleEndian.AppendUint64(dst, e.Client.Revision)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(e.Kind))
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(e.Client.Name)))
		dst = append(dst, e.Client.Name...)
	}
	return append(dst, e.Body...)
}

// Size is the number of bytes that Append appends.
func (e Envelope) Size() int {
	if e.Client == nil {
		return HeaderSize + len(e.Body)
	}
	return HeaderSize + clientSize + len(e.Client.Name) + len(e.Body)
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
	if e.Kind == ofClient {
		if err := e.decodeClient(); err != nil {
			return Envelope{}, err
		}
	}
	if !e.Kind.Known() {
		return Envelope{}, fmt.Errorf("entry kind %d is not known to this program", uint16(e.Kind))
	}
	return e, nil
}

// decodeClient takes the client off the body.
func (e *Envelope) decodeClient() error {
	b := e.Body
	if len(b) < clientSize {
		return fmt.Errorf("client of %d bytes is shorter than its header", len(b))
	}
	e.Client = &Client{Revision: binary.LittleEndian.Uint64(b)}
	e.Kind = Kind(binary.LittleEndian.Uint16(b[8:]))
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if b = b[clientSize:]; len(b) < n {
		return fmt.Errorf("user's name of %d bytes in %d", n, len(b))
	}
	if e.Kind.IsConfChange() {
		return fmt.Errorf("%s of a client", e.Kind)
	}
	e.Client.Name, e.Body = string(b[:n]), b[n:]
	return nil
}
