// Package span compares two sorted sets of records that are far apart and nearly
// alike. It is pure: no files, no network, no clock, no database.
//
// A record is a key and a value; a span is a run of records in key order. The
// source cuts its records into spans and tells of each where it ends and a
// digest (Walk.Cut). The target takes the digests of its own records between the
// same ends (Walk.To), and so learns which spans differ. Of these it sends a
// short hash of each record (Request), and the source answers with the records
// that it does not have and with which of its own are to go (Answer). Whatever
// is told, only the digests of a span prove that two sides have the same
// records: hashes of 32 bits may collide.
//
// # What is hashed
//
//	offset  size  field
//	0       4     length k of the key, little endian
//	4       k     key
//	4+k     4     length v of the value, little endian
//	8+k     v     value
//
// The hash of a record is the low 32 bits of the xxh3-64 of that; the digest of
// a span is the xxh3-128 of that of all its records, in order.
//
// # Keys
//
// A key is written as what it shares with the one before it in the stream, which
// is none at the start:
//
//	size    field
//	uvarint number of leading bytes that are those of the key before
//	uvarint number of bytes that follow
//	n       these bytes
//
// # List of spans
//
//	size    field
//	key     of the last record of the span; the empty key ends the list: its span
//	        is open, and holds every record that is left
//	uvarint records
//	uvarint bytes of keys and values
//	16      digest
//
// # Request
//
// Of each span that differs, in key order:
//
//	size    field
//	key     after which it begins; empty: at the first record of all
//	key     at which it ends; empty: it is open
//	uvarint n, records of the target, at most MaxHashes
//	4n      hashes of these, in key order, little endian
//
// # Answer
//
// Of each span of the request, in the same order:
//
//	size    field
//	(n+7)/8 bit i, from the lowest of the first byte: the source has no record of
//	        the target's hash i
//	uvarint m, records that follow: those of the source whose hash was not sent
//	m times key (the first after the beginning of the span), uvarint length of the
//	        value, value
package span
