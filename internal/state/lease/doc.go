// Package lease holds etcd's leases: the times to live that clients were
// granted, and the keys that go when one ends. The seed leases that hold the log
// are another thing, in package member.
//
// Everything here runs at apply, on every member, in log order, and reads no
// clock. When a lease has run out is decided by the leader, which then proposes
// to revoke it (package policy); what is replicated is how long a lease lasts,
// and how much of a long one was left when the leader last said so.
//
// # Records
//
// Integers are big endian; an ID is signed, two's complement, never 0.
//
// Lease table:
//
//	key    8  lease ID
//	value  8  granted time to live, seconds, 1 to 9,000,000,000
//	       8  what was left of it at the last checkpoint, seconds, at most that
//	          much; 0 = there was none since the lease was granted or renewed
//
// LeaseKeys table, one row for each key whose live version names a lease:
//
//	key    8  lease ID
//	       n  user key
//	value     empty
//
// A lease's keys are thus found without looking at others, in their order, which
// is the order in which a revocation deletes them.
//
// # Refusals
//
// They are etcd's, of package rpctypes in their gRPC form. A grant does not know
// the least time to live, which follows from the election timeout of the member
// asked: that member raises the request before it proposes it.
package lease
