package record

import "encoding/binary"

const hashBytes = HashBits / 8

// ListWriter writes the list of a table's records. The zero value is ready.
type ListWriter struct {
	n                   int
	hashes, kinds, seqs []byte
}

// Add appends to dst the block that l completes, if it does.
func (w *ListWriter) Add(dst []byte, l Listed) []byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], l.Hash)
	w.hashes = append(w.hashes, b[:hashBytes]...)
	w.kinds = append(w.kinds, l.Kind)
	w.seqs = binary.AppendUvarint(w.seqs, l.Seq)
	if w.n++; w.n < BlockRecords {
		return dst
	}
	return w.Flush(dst)
}

// Flush appends to dst the block of what was added and not written yet: the last
// of the list.
func (w *ListWriter) Flush(dst []byte) []byte {
	if w.n == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(w.n))
	dst = append(dst, w.hashes...)
	dst = append(dst, w.kinds...)
	dst = append(dst, w.seqs...)
	w.n, w.hashes, w.kinds, w.seqs = 0, w.hashes[:0], w.kinds[:0], w.seqs[:0]
	return dst
}

// ListReader reads a list that comes in pieces. It keeps one block at most. The
// zero value is ready.
type ListReader struct {
	in feeder
}

// Feed takes the next piece of the list and calls fn with each record of the
// blocks that are whole; fn's error ends it. Bytes that are no list are
// fault.Corrupt.
func (l *ListReader) Feed(piece []byte, fn func(Listed) error) error {
	return l.in.feed(piece, func(c *cursor) error {
		n := c.uvarint()
		if c.err == nil && (n == 0 || n > BlockRecords) {
			return corrupt("a block of %d records, at most %d", n, BlockRecords)
		}
		hashes, kinds := c.bytes(n*hashBytes), c.bytes(n)
		var seqs [BlockRecords]uint64
		for i := range n {
			seqs[i] = c.uvarint()
		}
		if c.err != nil {
			return c.err
		}
		var b [8]byte
		for i := range n {
			copy(b[:], hashes[i*hashBytes:][:hashBytes])
			r := Listed{Hash: binary.LittleEndian.Uint64(b[:]), Kind: kinds[i], Seq: seqs[i]}
			if !KnownKind(r.Kind) || r.Seq > MaxSeq {
				return corrupt("a record of kind %d with sequence number %d", r.Kind, r.Seq)
			}
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Whole reports whether nothing was left over.
func (l *ListReader) Whole() bool { return len(l.in.rest) == 0 }
