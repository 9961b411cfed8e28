package record

import "encoding/binary"

// AnswerWriter writes the records that are wanted. The zero value is ready.
type AnswerWriter struct {
	before []byte
}

// Append appends a record to dst. Keys are of MaxKey bytes at most, values of
// MaxValue.
func (w *AnswerWriter) Append(dst, key, value []byte) []byte {
	shared := 0
	for shared < min(len(w.before), len(key)) && w.before[shared] == key[shared] {
		shared++
	}
	w.before = append(w.before[:0], key...)
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(key)-shared))
	dst = append(dst, key[shared:]...)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

// AnswerReader reads an answer that comes in pieces. It keeps one record at most.
// The zero value is ready.
type AnswerReader struct {
	in  feeder
	key []byte // the last one
}

// Feed takes the next piece of the answer and calls fn with each record that is
// whole; key and value are valid during the call, and fn's error ends it. Bytes
// that are no answer are fault.Corrupt.
func (a *AnswerReader) Feed(piece []byte, fn func(key, value []byte) error) error {
	return a.in.feed(piece, func(c *cursor) error {
		shared, n := c.uvarint(), c.uvarint()
		if c.err == nil && (shared > uint64(len(a.key)) || n > MaxKey || shared+n > MaxKey) {
			return corrupt("a key of %d and %d bytes after one of %d", shared, n, len(a.key))
		}
		rest, size := c.bytes(n), c.uvarint()
		if c.err == nil && size > MaxValue {
			return corrupt("a value of %d bytes, at most %d", size, MaxValue)
		}
		value := c.bytes(size)
		if c.err != nil {
			return c.err
		}
		a.key = append(a.key[:shared], rest...)
		return fn(a.key, value)
	})
}

// Whole reports whether nothing was left over.
func (a *AnswerReader) Whole() bool { return len(a.in.rest) == 0 }
