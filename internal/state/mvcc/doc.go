// Package mvcc is the key-value table with etcd's semantics: every write of an
// entry has one main revision, reads can be of any revision not compacted, and
// there is no index in memory (the store keeps the versions of a key side by
// side, newest first).
//
// # Records
//
// MVCC table, key = user key + main revision (package store). A live version:
//
//	size    field
//	varint  create revision, unsigned
//	varint  version, unsigned: 1 for the put that created the key
//	varint  lease ID, unsigned; 0 = none, else one of package lease
//	rest    value
//
// A tombstone has no record. The mod revision is that of the key.
//
// Revisions table: one row per write.
//
//	key    main revision u64, sub revision u32, big endian
//	value  user key
//
// Whether a row was a put or a delete is what the version says. A
// transaction writes a key at most once (etcd's API says so, and refuses most
// violations; here all are refused: a put beside a delete from "\0", and a put
// and a delete of one key in sibling transactions), so that main revision and
// key name a version.
//
// # Revisions
//
// The first revision of an empty store is 1. An entry that writes has the next
// one; sub revisions count its writes from 0. After a compaction at revision c
// reads below c are refused. The versions that no readable revision shows are
// removed by Purge, at each member's own pace.
//
// # Hash
//
// HashAt, which members compare: the two halves of an xxh3-64, one xored on the
// other, of the following; integers are little endian.
//
//	size  field
//	8     revision that is hashed
//	8     compact revision, two's complement; -1 = none
//
// and of each key that is live at the revision, in order:
//
//	size  field
//	4     length k of the key
//	k     key
//	8     mod revision
//	4     length n of the record
//	n     record, as in the MVCC table
//
// # Determinism
//
// Every function here depends on its arguments and the tables alone. A request
// that etcd would refuse at its API is refused here too, with the same error
// (those of package rpctypes, in their gRPC form), before anything is written.
package mvcc
