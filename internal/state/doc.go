// Package state is the replicated state machine: one log entry in, one batch
// of the store out. The batch holds the entry's effects on every table, the
// Raft configuration after it and its position, so the position of a store
// always says exactly what is in it.
//
// It is deterministic: the tables after an entry depend on the tables before
// it and on the entry, never on a clock, chance, the order of a map or which
// member applies it. Members compare themselves by the digest at an index.
//
// An entry has one of three outcomes:
//
//   - carried out: Result.Response says with what;
//   - refused (Result.Err): every member refuses it alike, nothing but the
//     position changes;
//   - fatal (the error of Apply): this member can not go on. An unknown kind,
//     a gap in the indexes, a body that can not be read, an I/O error. Nothing
//     is committed, and the machine refuses every later entry.
//
// Found is the one change that is no entry's: a new cluster takes over the state
// of another one.
//
// What an entry is lies in package envelope; what it does in packages mvcc
// (keys), lease (etcd's leases), auth (users and roles) and member (membership and
// seed leases).
//
// While permissions are asked for, what an entry reads or writes is held against
// those of its client, as of the entry before it. An entry without a client is
// nobody's and refused, unless it is one that the cluster proposes: the revocation of a
// lease that has run out, checkpoints, everything of package member. Compactions and
// grants are asked about by the member that proposes them.
package state
