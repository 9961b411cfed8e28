package transfer

import (
	"errors"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// maxRefetch is how often a chunk that came damaged is asked for again from one
// source.
const maxRefetch = 3

// localError marks a failure of this side (its disk, its caller) that no other
// source would cure.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func isLocal(err error) bool {
	var l *localError
	return errors.As(err, &l)
}

// Progress says how far a transfer is.
type Progress struct {
	BytesDone  uint64  // of BytesTotal, verified and stored
	BytesTotal uint64  // of all files
	BytesWire  uint64  // chunk data received or sent, compressed, repetitions included
	Rate       float64 // bytes of BytesDone per second, smoothed
}

// intake is the receiving half of both directions: frames in, chunks into the
// stage, damage counted.
type intake struct {
	layout *layout
	stage  Stage
	codec  *chunk.Codec
	pool   *bufferPool
	report *reporter

	mu       sync.Mutex
	attempts map[chunkID]int
	refetch  uint64 // raw bytes that came damaged
}

// put unpacks a chunk and stores it. again says that it came damaged and is to
// be asked for again; an error ends the transfer from this source.
func (in *intake) put(id chunkID, c *chainfirev1.FrameChunk) (again bool, err error) {
	in.report.wire(len(c.GetData()))
	size := int(c.GetRawSize())
	buf := in.pool.Get(size)
	defer in.pool.Put(buf)
	raw, err := in.codec.Decompress(*buf, c.GetData(), chunk.Compression(c.GetCompression()), size)
	if err == nil {
		err = in.stage.Put(id.file, id.index, raw)
	}
	switch {
	case err == nil:
		in.report.stored(size)
		return false, nil
	case fault.Is(err, fault.Corrupt):
		return true, in.damaged(id, size, err)
	default:
		return false, &localError{err}
	}
}

// damaged counts a damaged arrival of a chunk; at the bound it is an error.
func (in *intake) damaged(id chunkID, size int, cause error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.refetch += uint64(size)
	in.attempts[id]++
	if in.attempts[id] > maxRefetch {
		name := "the manifest"
		if id.file >= 0 && id.file < len(in.layout.Files) {
			name = in.layout.Files[id.file].Name
		}
		return fault.Newf(fault.Corrupt, "transfer", "chunk %d of %s came damaged %d times: %w", id.index, name, in.attempts[id], cause).
			WithHint("check the source with: cfseed verify")
	}
	return nil
}

func (in *intake) refetched() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.refetch
}

// forgive starts counting anew, for another source.
func (in *intake) forgive() {
	in.mu.Lock()
	defer in.mu.Unlock()
	clear(in.attempts)
}

// reporter counts bytes and calls back, one call at a time.
type reporter struct {
	call func(Progress) // may be nil

	mu       sync.Mutex
	now      Progress
	last     time.Time
	lastDone uint64
}

// reportEvery bounds how often the callback is called.
const reportEvery = 100 * time.Millisecond

func (r *reporter) wire(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.BytesWire += uint64(n)
}

// reset states what is there and what is to come, and calls back.
func (r *reporter) reset(done, total uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.BytesDone, r.now.BytesTotal = done, total
	r.last, r.lastDone = time.Now(), done
	r.emit()
}

// stored adds n bytes to what is done.
func (r *reporter) stored(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance(min(r.now.BytesDone+uint64(n), r.now.BytesTotal)) // one that came twice counts once at the end
}

// found adds n bytes to what is done, which were here: they tell nothing of the rate.
func (r *reporter) found(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastDone += n
	r.advance(r.now.BytesDone + n)
}

// reached sets what the other side says is done.
func (r *reporter) reached(done, total uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now.BytesTotal != total || done < r.lastDone {
		r.now.BytesTotal, r.last, r.lastDone = total, time.Now(), done
	}
	r.advance(min(done, total))
}

func (r *reporter) advance(done uint64) {
	r.now.BytesDone = done
	passed := time.Since(r.last)
	if passed < reportEvery && r.now.BytesDone < r.now.BytesTotal {
		return
	}
	if seconds := passed.Seconds(); seconds > 0 {
		rate := float64(r.now.BytesDone-r.lastDone) / seconds
		if r.now.Rate == 0 {
			r.now.Rate = rate
		}
		r.now.Rate += (rate - r.now.Rate) * 0.3
	}
	r.last, r.lastDone = time.Now(), r.now.BytesDone
	r.emit()
}

func (r *reporter) emit() {
	if r.call != nil {
		r.call(r.now)
	}
}

func (r *reporter) get() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// manifestIntake puts together a manifest that travels as chunks.
type manifestIntake struct {
	want uint64 // bytes announced
	buf  []byte
}

func (m *manifestIntake) put(c *chainfirev1.FrameChunk, codec *chunk.Codec) error {
	const op = "fetch manifest"
	have := uint64(len(m.buf))
	size := uint64(c.GetRawSize())
	if c.GetFile() != ManifestFile || uint64(c.GetIndex()) != have/chunkSize || size == 0 || size > chunkSize || size > m.want-have {
		return fault.Newf(fault.Corrupt, op, "chunk %d of file %d with %d bytes does not fit", c.GetIndex(), c.GetFile(), size)
	}
	raw, err := codec.Decompress(nil, c.GetData(), chunk.Compression(min(c.GetCompression(), 255)), int(size))
	if err != nil {
		return err
	}
	if chunk.Sum(raw) != c.GetXxh3() {
		return fault.Newf(fault.Corrupt, op, "checksum of chunk %d does not match", c.GetIndex())
	}
	m.buf = append(m.buf, raw...)
	return nil
}
