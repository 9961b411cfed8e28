package record

import (
	"encoding/binary"
	"math/bits"
)

// Wanted says which records of a table are asked for. The zero value is of a
// table without records.
type Wanted struct {
	records uint64
	bits    []byte
}

// NewWanted wants none of a table's records, of which there are at most
// MaxRecords.
func NewWanted(records uint64) Wanted {
	return Wanted{records: records, bits: make([]byte, (records+7)/8)}
}

// Records is how many records the table has.
func (w Wanted) Records() uint64 { return w.records }

// Add wants record i, which is less than Records.
func (w Wanted) Add(i uint64) { w.bits[i/8] |= 1 << (i % 8) }

// Has reports whether record i is wanted.
func (w Wanted) Has(i uint64) bool { return i < w.records && w.bits[i/8]&(1<<(i%8)) != 0 }

// Count is how many are wanted.
func (w Wanted) Count() uint64 {
	n := 0
	for _, b := range w.bits {
		n += bits.OnesCount8(b)
	}
	return uint64(n)
}

// Next is the first record from i on that is wanted, Records if there is none.
func (w Wanted) Next(i uint64) uint64 {
	for ; i < w.records; i++ {
		rest := w.bits[i/8] >> (i % 8)
		if rest != 0 {
			return i + uint64(bits.TrailingZeros8(rest))
		}
		i |= 7
	}
	return w.records
}

// Encode gives the bytes that are sent.
func (w Wanted) Encode() []byte {
	return append(binary.AppendUvarint(nil, w.records), w.bits...)
}

// ReadWanted reads what Encode gives; it keeps b. Anything else is fault.Corrupt.
func ReadWanted(b []byte) (Wanted, error) {
	c := cursor{b: b}
	n := c.uvarint()
	if c.err != nil || n > MaxRecords || uint64(len(c.b)) != (n+7)/8 {
		return Wanted{}, corrupt("%d bytes are not what is wanted of a table", len(b))
	}
	if n%8 != 0 && c.b[n/8]>>(n%8) != 0 {
		return Wanted{}, corrupt("more is wanted than the table has")
	}
	return Wanted{records: n, bits: c.b}, nil
}
