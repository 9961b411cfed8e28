// Package store is the state store of a member: one Pebble database at
// <data-dir>/state-<n>/ that holds every replicated table, the position of the
// last applied entry, the Raft configuration and a running digest. One Batch
// per applied entry writes all of them together, so whatever prefix of the
// batches survives a crash is a whole state.
//
// # Keys
//
// Comparer "cfseed.state.v1". The last byte of a key is the length of its
// suffix; a suffix of 0 bytes is none. Integers are big endian.
//
//	offset  size  field
//	0       1     table
//	1       n     key within the table, any bytes
//	1+n     1     0x00, ends the prefix
//	2+n     8     ^revision      } only in versioned tables (MVCC)
//	10+n    1     0x09           }
//
// Prefixes (the first 2+n bytes) compare bytewise, which orders keys of a
// table as their bytes do; within a prefix the newest revision comes first.
// Bloom filters are on prefixes.
//
// # Tables
//
//	byte  table       key                         value                        digested
//	0x01  Meta        "head", "schema"            below                        parts
//	0x02  Cluster     of package member           entryv1.ClusterRecord        yes
//	0x03  MVCC        user key + revision         version, below               newest live one
//	0x04  Revisions   main u64, sub u32           user key                     no
//	0x05  Lease       of package lease            of package lease             yes
//	0x06  LeaseKeys   of package lease            empty                        yes
//	0x07  AuthUsers   of package auth             authpb.User                  yes
//	0x08  AuthRoles   of package auth             authpb.Role                  yes
//	0x09  AuthMeta    of package auth             of package auth              yes
//	0x0a  Alarms      of package alarm            empty                        yes
//	0x0b  Members     of package member           entryv1.MemberRecord         yes
//	0x0c  SeedLeases  of package member           entryv1.SeedLease            yes
//
// A version in the MVCC table:
//
//	offset  size  field
//	0       1     0x01 live, 0x00 tombstone (then nothing follows)
//	1       n     record of package mvcc
//
// Meta "schema": u32, SchemaVersion. Meta "head", written by every Commit:
//
//	offset  size  field
//	0       8     term of the position
//	8       8     index of the position
//	16      16    digest
//	32      8     current revision (1 in an empty store)
//	40      8     compact revision, two's complement (-1: never compacted)
//	48      4     number of voters v
//	52      4     number of learners l
//	56      8v    voter IDs, ascending
//	56+8v   8l    learner IDs, ascending
//
// # Digest
//
// A sum modulo 2^128 of the xxh3-128 of every digested record, so that order
// does not matter and a change costs two hashes. What is hashed of a record:
//
//	offset  size  field
//	0       4     length k of the encoded key, little endian
//	4       k     encoded key (for MVCC with its revision)
//	4+k     n     value
//
// Of MVCC only the newest version of a key counts, and only when it is live:
// members purge history at their own pace. Two pseudo records stand for the
// head: Meta "revisions" with bytes 32-47 and Meta "conf" with bytes 48 on.
// The position is not in the digest.
package store
