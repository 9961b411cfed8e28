// Package etcdapi serves the etcd v3 API (KV, Lease, Cluster, Auth, Maintenance) over
// a Backend, the gRPC health service and server reflection beside it.
//
// Requests are checked as etcd checks them, before anything is proposed, and
// every failure leaves as the status that etcd's clients know
// (api/v3/v3rpc/rpctypes). What went wrong in our own words, with a hint,
// travels as an ErrorInfo detail of that status.
//
// # Reads
//
// A Range, a read-only Txn and a MemberList marked linearizable wait for a read
// index first; one that is marked serializable reads what this member has
// applied. A Txn of comparisons alone reads linearizably, too (etcd serves it
// locally).
//
// # Leases
//
// Grants and revocations are entries. A grant is given an ID here when it has
// none, and at least the least time to live, so that what is applied does not
// depend on who applies it. Keep-alives and times to live are the leader's to
// tell, wherever they are asked; a keep-alive stream is served one renewal after
// the other, and the renewals of all streams share the leader's rounds.
//
// # Users
//
// Whose call it is is found out here, from a token or a certificate; a write takes
// that along in its entry and is checked when it is applied, a read is checked here.
// Passwords are hashed and compared here and are in no entry. A watch is checked when
// it begins.
//
// # Members
//
// MemberAdd reserves an ID; the newcomer is seeded, admitted as a learner and
// promoted automatically unless it was added as a learner. Until then it is
// listed as etcd lists a member that never started: no name, no client URLs, a
// learner. Removed members are not listed.
//
// # Quota and alarms
//
// A put, a transaction that may put and a grant are held against this member's
// quota before they are proposed; one that does not fit raises NOSPACE by an
// entry and is refused. What an alarm forbids while it stands is decided where
// entries are applied, alike at every member.
//
// # HTTP
//
// Handler answers /health, /version, /metrics, /livez and /readyz as etcd does.
//
// # Differences from etcd
//
// docs/etcd-compatibility.md lists what a client can tell. Downgrade is
// Unimplemented.
package etcdapi
