package transfer

import (
	"sync"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Compressions that a request can name besides those of package chunk.
const compressionAuto = "auto"

// choice is what the looks at the line chose, for all streams of a seed: a
// stream is short.
type choice struct {
	mu     sync.Mutex
	chunks int                          // sent by all streams
	due    int                          // before this chunk is the next look
	line   float64                      // bytes a second of a line that sending waits for; 0: it does not
	found  float64                      // what the last look found
	files  map[uint32]chunk.Compression // for such a line, by a sample of each

	// Since the last look, of all streams together:
	looked  time.Time
	bytes   int           // on the wire
	active  time.Duration // between the chunks of a stream
	blocked time.Duration // of it, in sending
}

// packers is how many streams pack at a time at most, as far as their gain is
// reckoned: the processors have other work as well.
const packers = 2

// rate is the bytes per second that all streams have put on the wire since the
// last look, for each that packs.
func (s *choice) rate() float64 {
	passed := max(time.Since(s.looked).Seconds(), 1e-6)
	streams := s.active.Seconds() / passed
	return float64(s.bytes) / passed / max(1, min(packers, streams))
}

// The first look knows nothing of the line, so the second follows soon; not so
// soon that it takes the start of the streams for the line.
const (
	lookSoon  = 24 // chunks
	lookEvery = 64 // chunks
)

// chooser picks the compression of a stream's next chunk. With "auto" it looks
// every so often at whether sending waits for the line, and then at the first
// chunk of each file.
type chooser struct {
	auto  *choice // nil: always fixed
	fixed chunk.Compression
	last  time.Time // when its last chunk was sent, or its first one picked
}

// newChooser reads the name from a request; "" is auto.
func newChooser(name string) (*chooser, error) {
	if name == "" || name == compressionAuto {
		return &chooser{auto: new(choice)}, nil
	}
	fixed, err := chunk.Parse(name)
	if err != nil {
		return nil, err
	}
	return &chooser{fixed: fixed}, nil
}

// share lets the stream look together with others.
func (c *chooser) share(s *choice) {
	if c.auto != nil {
		c.auto = s
	}
}

// next picks the compression of a chunk of a file.
func (c *chooser) next(codec *chunk.Codec, file uint32, raw []byte) chunk.Compression {
	if c.auto == nil {
		return c.fixed
	}
	s := c.auto
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks >= s.due {
		s.look(s.waits())
	}
	c.took()
	if s.line == 0 {
		return chunk.None
	}
	with, known := s.files[file]
	if !known {
		with = codec.Auto(raw, s.line)
		s.files[file] = with
	}
	return with
}

// plain says that the next chunk goes as it is and need not be looked at.
func (c *chooser) plain(file uint32) bool {
	s := c.auto
	if s == nil {
		return c.fixed == chunk.None
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if with, known := s.files[file]; s.chunks >= s.due || s.line > 0 && (!known || with != chunk.None) {
		return false
	}
	c.took()
	return true
}

// took counts a chunk. choice.mu is held.
func (c *chooser) took() {
	if c.last.IsZero() {
		c.last = time.Now()
	}
	c.auto.chunks++
}

// look takes the rate at which the line took bytes while sending waited for it, 0
// when it did not. It is waited for when two looks in a row say so: a target whose
// disk was busy for a moment is not a slow line.
func (s *choice) look(found float64) {
	line, sure := 0.0, found == 0 || s.found > 0
	if sure {
		line = found
	}
	if s.line == 0 || line == 0 || line < s.line/2 || line > s.line*2 { // else what was chosen for files stays
		s.line, s.files = line, make(map[uint32]chunk.Compression)
	}
	s.due = s.chunks + lookEvery
	if s.chunks == 0 || !sure {
		s.due = s.chunks + lookSoon
	}
	s.found, s.looked, s.bytes, s.active, s.blocked = found, time.Now(), 0, 0, 0
}

// waits is the rate of the line, 0 unless most of the streams' time goes into
// waiting for it. It is that of all streams: each has but a share of a line, and
// a fast one is not to be taken for slow.
func (s *choice) waits() float64 {
	if s.blocked <= s.active/2 {
		return 0
	}
	return s.rate()
}

// sent notes how long a chunk took to send, and its bytes on the wire.
func (c *chooser) sent(wire int, d time.Duration) {
	s := c.auto
	if s == nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	from := c.last
	if from.Before(s.looked) {
		from = s.looked
	}
	s.bytes += wire
	s.active += now.Sub(from)
	s.blocked += min(d, now.Sub(from))
	c.last = now
}
