// Package record lists the records of a table of a state, so that whoever has
// most of them can make the table, byte for byte, and ask for the others alone.
// It is pure: no files, no network, no clock, no database.
//
// A record is what a table holds of a key: a kind (a value is set, a key is
// deleted, ...), a sequence number, the key and a value. The source lists hashes
// of the records of a table in their order (ListWriter). The target finds those
// that it has in tables of its own, asks for the rest (Wanted) and is given their
// keys and values (AnswerWriter). A hash may be that of two records: only the sums
// of the table's chunks prove what was made.
//
// Numbers called uvarint are as encoding/binary has them.
//
// # Hash
//
// The low 48 bits of the xxh3-64 of the value, seeded with the xxh3-64 of the
// key, which is seeded with the kind. Sequence numbers are not hashed: members
// number in ways of their own.
//
// # List
//
// Blocks, one after the other, of up to BlockRecords records:
//
//	size    field
//	uvarint n, records of the block, at least 1
//	6n      their hashes, little endian
//	n       their kinds
//	n times uvarint sequence number
//
// # Wanted
//
// Which records of a table are asked for:
//
//	size    field
//	uvarint n, records of the table, at most MaxRecords
//	(n+7)/8 bit i, from the lowest of the first byte: record i is wanted; bits
//	        after the last are 0
//
// # Answer
//
// The records that are wanted, in the order of the table:
//
//	size    field
//	uvarint number of leading bytes of the key that are those of the key before
//	        in the answer, which is none at the start
//	uvarint k, bytes of the key that follow
//	k       these bytes
//	uvarint v, bytes of the value
//	v       value
package record
