package transfer

import (
	"sync"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Compressions that a request can name besides those of package chunk.
const compressionAuto = "auto"

// choice is what the last look at the data chose, for all streams of a seed: a
// look costs some milliseconds, and a stream is short.
type choice struct {
	mu     sync.Mutex
	chunks int // sent by all streams
	due    int // before this chunk is the next look
	with   chunk.Compression
	slow   bool // the last look found a line worth zstd

	// Since the last look, of all streams together:
	looked  time.Time
	bytes   int           // raw
	active  time.Duration // between the chunks of a stream
	blocked time.Duration // of it, in sending
}

// packers is how many streams pack at a time at most, as far as their gain is
// reckoned: the processors have other work as well.
const packers = 2

// rate is the raw bytes per second that all streams have moved since the last
// look, for each that packs.
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
// at a sample every so often, and at whether sending waits for the line.
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

func (c *chooser) next(codec *chunk.Codec, raw []byte) chunk.Compression {
	if c.auto == nil {
		return c.fixed
	}
	s := c.auto
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.last.IsZero() {
		c.last = time.Now()
	}
	if s.chunks == 0 || s.chunks >= s.due {
		sure := s.look(codec.Auto(raw, s.line()))
		s.looked, s.bytes, s.active, s.blocked = time.Now(), 0, 0, 0
		s.due = s.chunks + lookEvery
		if s.chunks == 0 || !sure {
			s.due = s.chunks + lookSoon
		}
	}
	s.chunks++
	s.bytes += len(raw)
	return s.with
}

// plain says that the next chunk goes as it is and need not be looked at.
func (c *chooser) plain(size int) bool {
	s := c.auto
	if s == nil {
		return c.fixed == chunk.None
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks == 0 || s.chunks >= s.due || s.with != chunk.None {
		return false
	}
	if c.last.IsZero() {
		c.last = time.Now()
	}
	s.chunks++
	s.bytes += size
	return true
}

// look takes what a look at the data and the line advises. zstd is taken when
// two looks in a row advise it: a target whose disk was busy for a moment is
// not a slow line. It gives false when the next look is to follow soon.
func (s *choice) look(advice chunk.Compression) (sure bool) {
	sure = advice != chunk.Zstd || s.slow
	s.slow = advice == chunk.Zstd
	if sure {
		s.with = advice
	}
	return sure
}

// line is the rate of the line, 0 unless most of the streams' time goes into
// waiting for it. It is that of all streams: each has but a share of a line, and
// a fast one is not to be taken for slow.
func (s *choice) line() float64 {
	if s.blocked <= s.active/2 {
		return 0
	}
	return s.rate()
}

// sent notes how long a chunk took to send.
func (c *chooser) sent(d time.Duration) {
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
	s.active += now.Sub(from)
	s.blocked += min(d, now.Sub(from))
	c.last = now
}
