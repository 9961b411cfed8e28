package transfer

import (
	"sync"
	"time"

	"github.com/chainfire/cfseed/snapshot/chunk"
)

// Compressions that a request can name besides those of package chunk.
const compressionAuto = "auto"

// choice is what the looks at the data chose, for all streams of a seed: a look
// costs some milliseconds, and a stream is short.
type choice struct {
	mu     sync.Mutex
	chunks int                          // sent by all streams
	due    int                          // before this chunk is the next look
	files  map[uint32]chunk.Compression // of those that chunks were sent of, on a line that does not matter
	packs  bool                         // the line is so slow that all are packed with zstd
	paid   bool                         // the last look found it so slow

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
// at the first chunk of each file, and every so often at whether sending waits for
// the line.
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
	if _, known := s.files[file]; !known {
		if s.files == nil {
			s.files = make(map[uint32]chunk.Compression)
		}
		s.files[file] = codec.Auto(raw, 0)
	}
	if s.chunks == 0 || s.chunks >= s.due {
		line := s.line()
		sure := s.look(line > 0 && codec.Auto(raw, line) == chunk.Zstd)
		s.looked, s.bytes, s.active, s.blocked = time.Now(), 0, 0, 0
		s.due = s.chunks + lookEvery
		if s.chunks == 0 || !sure {
			s.due = s.chunks + lookSoon
		}
	}
	c.took(len(raw))
	return s.of(file)
}

// plain says that the next chunk goes as it is and need not be looked at.
func (c *chooser) plain(file uint32, size int) bool {
	s := c.auto
	if s == nil {
		return c.fixed == chunk.None
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.files[file]
	if !known || s.chunks >= s.due || s.of(file) != chunk.None {
		return false
	}
	c.took(size)
	return true
}

// took counts a chunk. choice.mu is held.
func (c *chooser) took(size int) {
	if c.last.IsZero() {
		c.last = time.Now()
	}
	c.auto.chunks++
	c.auto.bytes += size
}

// of is the choice for a file that was looked at.
func (s *choice) of(file uint32) chunk.Compression {
	if s.packs {
		return chunk.Zstd
	}
	return s.files[file]
}

// look takes what a look at the line says. zstd is taken when two looks in a row
// find that it pays: a target whose disk was busy for a moment is not a slow line.
// It gives false when the next look is to follow soon.
func (s *choice) look(pays bool) (sure bool) {
	sure = !pays || s.paid
	s.packs, s.paid = pays && s.paid, pays
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
