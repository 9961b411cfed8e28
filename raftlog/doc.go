// Package raftlog is the durable Raft log of a member: entries, HardState,
// truncation point and the pointer to the current state store, in a Pebble
// store of its own (<data-dir>/raft).
//
// # Promises
//
// Every change is one Pebble batch, and every batch carries the HardState with
// its Commit. Append with sync returns nil only after the batch was fsynced;
// what was acknowledged is there after any crash, and what is there after a
// crash is the log as it stood after some prefix of the batches.
//
// The log is broken for ever after the first failure (ErrBroken): an fsync
// that failed is never retried, and from then on nothing more reaches the
// disk (package failstop), as if the power had gone at the failed operation.
//
// An entry that is read must have the index and the term asked for, whatever
// the store returns; anything else is fault.Corrupt.
//
// # Format, version 1
//
// Integers are big endian. Pebble's block and log checksums cover the records.
//
//	key                      value
//	00                       8 bytes "CFRFTLOG", 2 bytes format version, 1
//	01                       HardState: term 8, vote 8, commit 8
//	02                       truncation point: term 8, index 8
//	03                       pointer n to the current state-<n>: 8
//	10 + 8 bytes index       raftpb.Entry, protobuf; its index is that of the key
//
// The keys 00 to 03 are there from the first batch on.
package raftlog
