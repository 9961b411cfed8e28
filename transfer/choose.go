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
}

// The first look knows nothing of the line, so the second follows soon.
const (
	lookSoon  = 4  // chunks, of one stream at least
	lookEvery = 64 // chunks
)

// chooser picks the compression of a stream's next chunk. With "auto" it looks
// at a sample every so often, and at whether sending waits for the line.
type chooser struct {
	auto  *choice // nil: always fixed
	fixed chunk.Compression

	count   int           // chunks since its last look, or its start
	bytes   int           // of these, raw
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
	if s.chunks == 0 || (s.chunks >= s.due && c.count >= lookSoon) {
		s.with = codec.Auto(raw, c.line())
		s.due = s.chunks + lookEvery
		if s.chunks == 0 {
			s.due = lookSoon
		}
		c.count = 0
	}
	if c.count == 0 {
		c.bytes, c.blocked, c.started = 0, 0, time.Now()
	}
	s.chunks++
	c.count++
	c.bytes += len(raw)
	return s.with
}

// line is the raw bytes per second that the line takes, 0 unless most of the
// time goes into waiting for it.
func (c *chooser) line() float64 {
	if c.count == 0 || c.blocked <= time.Since(c.started)/2 {
		return 0
	}
	return float64(c.bytes) / c.blocked.Seconds()
}

// sent notes how long a chunk took to send.
func (c *chooser) sent(d time.Duration) { c.blocked += d }
