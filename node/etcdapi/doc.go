// Package etcdapi serves the etcd v3 API (KV, Cluster, Maintenance) over a
// Backend, the gRPC health service and server reflection beside it.
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
// # Members
//
// MemberAdd reserves an ID; the newcomer is seeded, admitted as a learner and
// promoted automatically unless it was added as a learner. Until then it is
// listed as etcd lists a member that never started: no name, no client URLs, a
// learner. Removed members are not listed.
//
// # Differences from etcd
//
// docs/etcd-compatibility.md lists what a client can tell. Maintenance answers
// Status and Alarm (GET: there are none); the rest of it, and the services
// Lease and Auth, are Unimplemented.
package etcdapi
