package span

import (
	"encoding/binary"
	"slices"

	"github.com/chainfire/cfseed/internal/fault"
)

// maxSpans bounds the spans of one request.
const maxSpans = 1 << 14

// Request is what a target asks about the spans that differ. The zero value is
// empty.
type Request struct {
	encoded []byte
	before  []byte
	wanted  []asked
}

// asked is what of a span has to be remembered until its answer comes.
type asked struct {
	after, end []byte
	hashes     int
}

// Add asks about the span after one key up to another one, of which the target
// has records with these hashes, at most MaxHashes.
func (r *Request) Add(after, end []byte, hashes []uint32) {
	r.encoded = appendKey(r.encoded, r.before, after)
	r.encoded = appendKey(r.encoded, after, end)
	r.encoded = binary.AppendUvarint(r.encoded, uint64(len(hashes)))
	for _, h := range hashes {
		r.encoded = binary.LittleEndian.AppendUint32(r.encoded, h)
	}
	r.before = append(r.before[:0], end...)
	r.wanted = append(r.wanted, asked{after: slices.Clone(after), end: slices.Clone(end), hashes: len(hashes)})
}

// Full reports whether the request should be sent before the next span is added.
func (r *Request) Full() bool {
	return len(r.encoded) >= MaxRequest/2 || len(r.wanted) >= maxSpans
}

// Len is the number of spans.
func (r *Request) Len() int { return len(r.wanted) }

// Encoded is the request as it travels, valid until the next Add or Reset.
func (r *Request) Encoded() []byte { return r.encoded }

// Reset empties the request.
func (r *Request) Reset() {
	r.encoded, r.before, r.wanted = r.encoded[:0], r.before[:0], r.wanted[:0]
}

// Wanted is one span of a request, as the source reads it.
type Wanted struct {
	After, End []byte
	Hashes     []byte // 4 bytes each
}

// ReadRequest takes a request apart. What is none is fault.Corrupt.
func ReadRequest(encoded []byte, fn func(Wanted) error) error {
	if len(encoded) > MaxRequest {
		return corrupt("a request of %d bytes, at most %d", len(encoded), MaxRequest)
	}
	var before []byte
	c := cursor{b: encoded}
	for spans := 0; len(c.b) > 0; spans++ {
		var w Wanted
		w.After = c.key(before)
		w.End = c.key(w.After)
		n := c.uvarint()
		if c.err == nil && n > MaxHashes {
			c.fail(corrupt("%d hashes, at most %d", n, MaxHashes))
		}
		w.Hashes = c.bytes(4 * n)
		if c.err == nil && spans == maxSpans {
			c.fail(corrupt("more than %d spans", maxSpans))
		}
		if c.err != nil {
			return corrupt("request: %w", c.err)
		}
		before = w.End
		if err := fn(w); err != nil {
			return err
		}
	}
	return nil
}

// Answerer answers requests from the records of a source.
type Answerer struct {
	walk    *Walk
	at      []byte
	began   bool
	theirs  map[uint32]bool // hashes of the target; true: the source has it
	records []byte
}

// NewAnswerer answers from it, which stays the caller's to close.
func NewAnswerer(it Iterator) *Answerer {
	return &Answerer{walk: NewWalk(it), theirs: map[uint32]bool{}}
}

// Append appends the answer about one span, and gives the bytes of records that
// were read for it. A span that no source would have cut is fault.Usage.
func (a *Answerer) Append(dst []byte, w Wanted) (_ []byte, read uint64, err error) {
	clear(a.theirs)
	for h := w.Hashes; len(h) > 0; h = h[4:] {
		a.theirs[binary.LittleEndian.Uint32(h)] = false
	}
	if !a.began || string(a.at) != string(w.After) {
		a.walk.SeekAfter(w.After)
	}
	a.records = a.records[:0]
	before, records, missing := w.After, 0, uint64(0)
	var last []byte
	s, err := a.walk.To(w.End, func(r Record) error {
		if records == Records || read >= Bytes {
			return fault.Newf(fault.Usage, "answer spans", "the request names a span that is larger than any that was listed")
		}
		records++
		read += uint64(len(r.Key) + len(r.Value))
		if _, there := a.theirs[r.Hash]; there {
			a.theirs[r.Hash] = true
			return nil
		}
		missing++
		a.records = appendKey(a.records, before, r.Key)
		a.records = binary.AppendUvarint(a.records, uint64(len(r.Value)))
		a.records = append(a.records, r.Value...)
		last = append(last[:0], r.Key...)
		before = last
		return nil
	})
	if err != nil {
		return dst, read, err
	}
	a.at, a.began = append(a.at[:0], s.End...), len(s.End) > 0
	var gone byte
	for i := range len(w.Hashes) / 4 {
		if !a.theirs[binary.LittleEndian.Uint32(w.Hashes[4*i:])] {
			gone |= 1 << (i % 8)
		}
		if i%8 == 7 || i == len(w.Hashes)/4-1 {
			dst, gone = append(dst, gone), 0
		}
	}
	dst = binary.AppendUvarint(dst, missing)
	return append(dst, a.records...), read, nil
}

// Change is what is to be done in one span of a request.
type Change struct {
	After, End []byte
	// Gone has a bit for each hash that was sent, from the lowest of the first
	// byte: records to be deleted. Without a hash every record of the span is.
	Gone   []byte
	Hashes int
	Put    []Record // to be written, after that; hashes are not set
}

// Deletes reports whether the target's record i of the span is to go.
func (c Change) Deletes(i int) bool {
	return c.Hashes == 0 || i < c.Hashes && c.Gone[i/8]&(1<<(i%8)) != 0
}

// AnswerReader reads the answer to a request. It keeps one span of it at most.
type AnswerReader struct {
	wanted  []asked
	compare func(a, b []byte) int
	rest    []byte
	put     []Record
}

// NewAnswerReader reads the answer to r, whose records are ordered by compare.
// r must not change meanwhile.
func NewAnswerReader(r *Request, compare func(a, b []byte) int) *AnswerReader {
	return &AnswerReader{wanted: r.wanted, compare: compare}
}

// Feed takes the next piece of the answer and calls fn with each span that is
// whole; what it gives is valid during the call. What is no answer to the request
// is fault.Corrupt: keys outside their span, or more than a span can hold.
func (a *AnswerReader) Feed(piece []byte, fn func(Change) error) error {
	return feed(&a.rest, piece, func(c *cursor) error {
		if len(a.wanted) == 0 {
			return corrupt("an answer about a span that was not asked about")
		}
		w := a.wanted[0]
		ch := Change{After: w.after, End: w.end, Hashes: w.hashes, Gone: c.bytes(uint64(w.hashes+7) / 8)}
		var err error
		if ch.Put, err = a.records(c, w); err != nil {
			return err
		}
		a.wanted = a.wanted[1:]
		return fn(ch)
	})
}

func (a *AnswerReader) records(c *cursor, w asked) ([]Record, error) {
	n := c.uvarint()
	if c.err == nil && n > Records {
		c.fail(corrupt("%d records in a span, at most %d", n, Records))
	}
	a.put = a.put[:0]
	before, bytes := w.after, 0
	for range n {
		key := c.key(before)
		value := c.bytes(c.uvarint())
		if c.err != nil {
			break
		}
		switch {
		case len(before) > 0 && a.compare(key, before) <= 0 || len(w.end) > 0 && a.compare(key, w.end) > 0 || len(key) == 0:
			return nil, corrupt("a record that does not belong to its span")
		case bytes >= Bytes || len(key)+len(value) > MaxRecord:
			return nil, corrupt("a span of more than %d bytes", Bytes)
		}
		bytes += len(key) + len(value)
		before = key
		a.put = append(a.put, Record{Key: key, Value: value})
	}
	return a.put, c.err
}

// Whole reports whether the answer to all of the request has come, and no more.
func (a *AnswerReader) Whole() bool { return len(a.wanted) == 0 && len(a.rest) == 0 }
