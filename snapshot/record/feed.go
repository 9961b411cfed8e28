package record

import "encoding/binary"

// errShort says that an item goes on in the next piece.
var errShort = corrupt("cut short")

// feeder takes a stream apart that comes in pieces.
type feeder struct {
	rest []byte // the beginning of an item
	need int    // bytes from which on it is worth looking at rest again
}

// keepBytes is how large a buffer may be that is kept for what follows.
const keepBytes = 1 << 20

// feed parses items of piece, and of what was left before it, until one is not
// whole. item gives errShort for that; what it leaves in c is the next one.
func (f *feeder) feed(piece []byte, item func(c *cursor) error) error {
	data := piece
	if len(f.rest) > 0 {
		f.rest = append(f.rest, piece...)
		if len(f.rest) < f.need {
			return nil
		}
		data = f.rest
	}
	whole := data
	f.need = 0
	for len(data) > 0 {
		c := cursor{b: data}
		err := item(&c)
		if err == errShort { //nolint:errorlint // our own, never wrapped
			f.need = len(data) + c.lacks
			break
		}
		if err != nil {
			return err
		}
		data = c.b
	}
	if len(f.rest) > 0 && len(data) == len(whole) {
		return nil // all of it waits where it is
	}
	if len(data) == 0 && cap(f.rest) > keepBytes {
		f.rest = nil
	}
	f.rest = append(f.rest[:0], data...)
	return nil
}

// cursor takes an item apart; the first error stays.
type cursor struct {
	b     []byte
	err   error
	lacks int // with errShort: so many bytes more are needed, at least
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

// bytes gives the next n bytes, which stay part of the input. n is bounded by the
// caller.
func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.b)) {
		if c.err == nil {
			c.lacks = int(n) - len(c.b)
		}
		c.fail(errShort)
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}
