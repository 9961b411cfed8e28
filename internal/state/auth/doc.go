// Package auth holds etcd's users and roles: who may read and write which keys,
// and whether that is asked at all.
//
// Everything that changes them runs at apply, on every member, in log order. What
// is asked of them is asked of Rules, a copy in memory that is made anew after each
// change: it says alike on all members what a client may do, at apply of a write
// and before a read.
//
// No password comes here. The member that is asked hashes it before it proposes,
// and compares it with the hash when somebody authenticates. Tokens are no part of
// the tables either: a Change tells the members' own lists of them.
//
// # Records
//
// AuthUsers table:
//
//	key    n  name of the user, 1 to 65535 bytes
//	value  m  authpb.User, deterministic encoding; the same name, roles in
//	          ascending order, options only when the user has no password
//
// AuthRoles table:
//
//	key    n  name of the role, at least 1 byte
//	value  m  authpb.Role, deterministic encoding; the same name, permissions by key,
//	          then by end, both together at most once
//
// AuthMeta table:
//
//	key       value
//	enabled   1  0x01; the row is absent while nothing is asked
//	revision  8  big endian, at least 2: grows with each change of users and roles and
//	             when auth is disabled; the row is absent while it is 1
//
// # Refusals
//
// They are etcd's, of package rpctypes in their gRPC form.
package auth
