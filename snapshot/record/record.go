package record

import (
	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
)

// Bounds of what is listed and of what is taken from a peer. A table beyond them
// travels as a file.
const (
	MaxRecords   = 1 << 20  // of one table
	MaxKey       = 64 << 10 // bytes of a key
	MaxValue     = 16 << 20 // bytes of a value
	BlockRecords = 1024     // of one block of a list

	// MaxSeq is the largest sequence number a table can hold.
	MaxSeq = 1<<56 - 1
)

// HashBits is how many bits a hash has.
const HashBits = 48

// The kinds of records that can be listed, numbered as the storage engine does.
const (
	Delete       uint8 = 0
	Set          uint8 = 1
	Merge        uint8 = 2
	SingleDelete uint8 = 7
	SetDeleted   uint8 = 18 // set, where there was a delete
	DeleteSized  uint8 = 23
)

// KnownKind reports whether records of the kind can be listed.
func KnownKind(kind uint8) bool {
	switch kind {
	case Delete, Set, Merge, SingleDelete, SetDeleted, DeleteSized:
		return true
	}
	return false
}

// Table is what a source says of a table before it lists its records.
type Table struct {
	File     int    // index in the manifest
	Listable bool   // else the rest means nothing, and the table travels as a file
	Records  uint64 // at least 1, at most MaxRecords
	Smallest []byte // first key, of MaxKey bytes at most
	Largest  []byte // last key, of MaxKey bytes at most; it may be the first
	Format   uint32 // of the table, numbered as the storage engine does
	// Pinned is what the table says of records kept for the sake of older readers:
	// their number, and the bytes of their keys and values.
	Pinned [3]uint64
}

// Listed is one record as a list has it.
type Listed struct {
	Hash uint64 // HashBits
	Kind uint8
	Seq  uint64
}

// Hash is the hash of a record.
func Hash(kind uint8, key, value []byte) uint64 {
	return xxh3.HashSeed(value, xxh3.HashSeed(key, uint64(kind))) & (1<<HashBits - 1)
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "read records", format, args...)
}
