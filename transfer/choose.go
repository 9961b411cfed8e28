package transfer

import (
	"sync"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Compressions that a request can name besides those of package chunk.
const compressionAuto = "auto"

// choice is what the last look at the data chose, for all streams of a seed: a
// look costs some milliseconds, and a stream may be short.
type choice struct {
	mu     sync.Mutex
	chunks int // sent by all streams
	due    int // before this chunk is the next look
	with   chunk.Compression

	// Since the last look:
	looked  time.Time
	bytes   int // raw, of all streams
	streams map[*chooser]bool
}

// packers is how many streams pack at a time at most, as far as their gain is
// reckoned: the processors have other work as well.
const packers = 2

// rate is the raw bytes per second that all streams have moved since the last
// look, for each that packs.
func (s *choice) rate() float64 {
	return float64(s.bytes) / max(time.Since(s.looked).Seconds(), 1e-6) / float64(max(1, min(packers, len(s.streams))))
}

// The first look knows nothing of the line, so the second follows soon; not so
// soon that it takes the start of the streams for the line.
const (
	lookSoon  = 24 // chunks
	lookEvery = 64 // chunks
	lookLeast = 4  // chunks of the stream that looks
)

// chooser picks the compression of a stream's next chunk. With "auto" it looks
// at a sample every so often, and at whether sending waits for the line.
type chooser struct {
	auto  *choice // nil: always fixed
	fixed chunk.Compression

	count   int           // chunks since its last look, or its start
	blocked time.Duration // of sending these
	started time.Time
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
	if s.chunks == 0 || (s.chunks >= s.due && c.count >= lookLeast) {
		s.with = codec.Auto(raw, c.line(s))
		s.looked, s.bytes, s.streams = time.Now(), 0, make(map[*chooser]bool)
		s.due = s.chunks + lookEvery
		if s.chunks == 0 {
			s.due = lookSoon
		}
		c.count = 0
	}
	if c.count == 0 {
		c.blocked, c.started = 0, time.Now()
	}
	s.chunks++
	s.bytes += len(raw)
	s.streams[c] = true
	c.count++
	return s.with
}

// line is the rate of the line, 0 unless most of the stream's time goes into
// waiting for it. It is that of all streams: each has but a share of a line, and
// a fast one is not to be taken for slow.
func (c *chooser) line(s *choice) float64 {
	if c.count == 0 || c.blocked <= time.Since(c.started)/2 {
		return 0
	}
	return s.rate()
}

// sent notes how long a chunk took to send.
func (c *chooser) sent(d time.Duration) { c.blocked += d }
