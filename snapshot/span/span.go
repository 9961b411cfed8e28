package span

import (
	"encoding/binary"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
)

// Bounds of what a source cuts and of what is taken from a peer.
const (
	Records = 64       // of one span, at most
	Bytes   = 16 << 10 // of keys and values: the record that reaches it is the last of its span

	// MaxRecord bounds the bytes of one key and its value together. A state with
	// a larger one can not be compared by spans.
	MaxRecord = 16 << 20
	// MaxKey bounds a key, in the same way: some stand in every request.
	MaxKey = 64 << 10
	// MaxHashes bounds the hashes of one span in a request. Of a span in which the
	// target has more records it sends none, and gets all of the source's.
	MaxHashes = 4096
	// MaxRequest bounds the bytes of a request.
	MaxRequest = 1 << 20
)

// Iterator gives records in key order. It is for one goroutine. What Key and
// Value give is valid until the next move.
type Iterator interface {
	// SeekAfter moves to the first record whose key is greater than key; to the
	// first of all when key is empty. False: there is none, or Err tells why.
	SeekAfter(key []byte) bool
	Next() bool
	Key() []byte
	Value() ([]byte, error)
	// Compare orders two keys as the iterator does.
	Compare(a, b []byte) int
	Err() error
	Close() error
}

// Reader is a set of records that does not change while it is open.
type Reader interface {
	// Iterate gives an iterator, which the caller closes before the Reader. It may
	// be called from several goroutines.
	Iterate() (Iterator, error)
	Close() error
}

// Span is a run of records: those after the end of the span before it, up to and
// including End.
type Span struct {
	End   []byte // key of the last record; empty: the span is open, and the last
	Count uint64 // records
	Bytes uint64 // of keys and values
	Sum   [16]byte
}

// Same reports whether the records of the two are the same, wherever they end.
func (s Span) Same(o Span) bool {
	return s.Count == o.Count && s.Bytes == o.Bytes && s.Sum == o.Sum
}

// Record is one record and its hash. Its slices are valid during the call that
// brings it.
type Record struct {
	Key, Value []byte
	Hash       uint32
}

// Walk reads records span by span.
type Walk struct {
	it     Iterator
	valid  bool
	framed []byte
	sum    *xxh3.Hasher
}

// NewWalk begins before the first record of it, which stays the caller's to
// close.
func NewWalk(it Iterator) *Walk {
	return &Walk{it: it, valid: it.SeekAfter(nil), sum: xxh3.New()}
}

// SeekAfter goes to the first record after key; empty: the first of all.
func (w *Walk) SeekAfter(key []byte) { w.valid = w.it.SeekAfter(key) }

// To reads the records up to and including end, all that are left when end is
// empty, and gives the span they make. fn, unless it is nil, sees each of them.
func (w *Walk) To(end []byte, fn func(Record) error) (Span, error) {
	s := Span{End: end}
	w.sum.Reset()
	for w.valid && (len(end) == 0 || w.it.Compare(w.it.Key(), end) <= 0) {
		if err := w.take(&s, fn); err != nil {
			return s, err
		}
	}
	s.Sum = w.digest()
	return s, w.it.Err()
}

// Cut reads the next span of a source; the last one is open. After that there is
// none.
func (w *Walk) Cut() (Span, error) {
	var s Span
	var last []byte
	w.sum.Reset()
	for w.valid && s.Count < Records && s.Bytes < Bytes {
		last = append(last[:0], w.it.Key()...)
		if err := w.take(&s, nil); err != nil {
			return s, err
		}
	}
	if w.valid {
		s.End = last
	}
	s.Sum = w.digest()
	return s, w.it.Err()
}

// take adds the record that the walk stands at to s and moves on.
func (w *Walk) take(s *Span, fn func(Record) error) error {
	key := w.it.Key()
	value, err := w.it.Value()
	if err != nil {
		return err
	}
	if len(key)+len(value) > MaxRecord {
		return fault.Newf(fault.Refused, "read records", "a record of %d bytes, at most %d", len(key)+len(value), MaxRecord)
	}
	if len(key) > MaxKey {
		return fault.Newf(fault.Refused, "read records", "a key of %d bytes, at most %d", len(key), MaxKey)
	}
	w.framed = frame(w.framed[:0], key, value)
	_, _ = w.sum.Write(w.framed) // a hash takes everything
	s.Count++
	s.Bytes += uint64(len(key) + len(value))
	if fn != nil {
		if err := fn(Record{Key: key, Value: value, Hash: uint32(xxh3.Hash(w.framed))}); err != nil {
			return err
		}
	}
	w.valid = w.it.Next()
	return nil
}

func (w *Walk) digest() [16]byte { return w.sum.Sum128().Bytes() }

// frame appends what is hashed of a record.
func frame(dst, key, value []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(key)))
	dst = append(dst, key...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

// appendKey writes key as it differs from the one before it.
func appendKey(dst, before, key []byte) []byte {
	shared := 0
	for shared < min(len(before), len(key)) && before[shared] == key[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(key)-shared))
	return append(dst, key[shared:]...)
}

// Append appends the span to a list in which before was the end of the last one.
func (s Span) Append(dst, before []byte) []byte {
	dst = appendKey(dst, before, s.End)
	dst = binary.AppendUvarint(dst, s.Count)
	dst = binary.AppendUvarint(dst, s.Bytes)
	return append(dst, s.Sum[:]...)
}

// ListReader reads a list of spans that comes in pieces. Of a piece it keeps
// what is not a whole span yet: MaxRecord and a little at most.
type ListReader struct {
	rest   []byte
	before []byte
}

// Feed takes the next piece of the list and calls fn with each span that is
// whole; its End is valid during the call. Bytes that are no list are
// fault.Corrupt.
func (l *ListReader) Feed(piece []byte, fn func(Span) error) error {
	return feed(&l.rest, piece, func(c *cursor) error {
		var s Span
		s.End = c.key(l.before)
		s.Count, s.Bytes = c.uvarint(), c.uvarint()
		copy(s.Sum[:], c.bytes(16))
		if c.err != nil {
			return c.err
		}
		l.before = append(l.before[:0], s.End...)
		return fn(s)
	})
}

// Whole reports whether nothing was left over.
func (l *ListReader) Whole() bool { return len(l.rest) == 0 }

// feed adds piece to rest and parses items until one is not whole.
func feed(rest *[]byte, piece []byte, item func(*cursor) error) error {
	data := piece
	if len(*rest) > 0 {
		data = append(*rest, piece...)
	}
	for len(data) > 0 {
		c := cursor{b: data}
		err := item(&c)
		if err == errShort { //nolint:errorlint // our own, never wrapped
			if len(data) > 2*MaxRecord {
				return corrupt("%d bytes without an end", len(data))
			}
			break
		}
		if err != nil {
			return err
		}
		data = c.b
	}
	*rest = append((*rest)[:0], data...)
	if len(data) == 0 && cap(*rest) > MaxRequest {
		*rest = nil
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "read spans", format, args...)
}

// errShort says that an item goes on in the next piece.
var errShort = corrupt("cut short")

// cursor takes an item apart; the first error stays.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	switch {
	case n > 0:
		c.b = c.b[n:]
		return v
	case n == 0 && len(c.b) < binary.MaxVarintLen64:
		c.fail(errShort)
	default:
		c.fail(corrupt("malformed number"))
	}
	return 0
}

// bytes gives the next n bytes, which stay part of the input.
func (c *cursor) bytes(n uint64) []byte {
	switch {
	case n > MaxRecord:
		c.fail(corrupt("%d bytes, at most %d", n, MaxRecord))
	case n > uint64(len(c.b)):
		c.fail(errShort)
	default:
		out := c.b[:n:n]
		c.b = c.b[n:]
		return out
	}
	return nil
}

// key reads a key that follows before. What it gives is a copy.
func (c *cursor) key(before []byte) []byte {
	shared, n := c.uvarint(), c.uvarint()
	if c.err == nil && (shared > uint64(len(before)) || n > MaxKey || shared+n > MaxKey) {
		c.fail(corrupt("a key of %d and %d bytes after one of %d", shared, n, len(before)))
	}
	rest := c.bytes(n)
	if c.err != nil {
		return nil
	}
	return slices.Concat(before[:shared], rest)
}
