package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/background"
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// lane is a connection of a round and the shares that come over it. Each has one
// of its own: what TCP lets be on its way is counted by connection, and a packet
// that is lost holds up one lane alone. What is said about the seed goes over
// the round's connection, where nothing is in its way.
type lane struct {
	*round
	conn   Conn
	client chainfirev1.SeedClient

	plugged *channel    // nil: not yet, or not any more
	release func() bool // lets go of what ends it

	answer time.Duration // the least time from asking for a share to its first frame; 0: not known
	each   time.Duration // smoothed, of one chunk
	moved  bool          // something came over it since it broke
}

// How many lanes there are by default, and from which round trip on a line is a
// long one, that one or two windows of TCP do not fill. On a short line more of
// them bring nothing, and each has a chunk on its way that is lost with its
// connection.
const (
	shortLanes = 2
	longLanes  = 4
	longTrip   = 5 * time.Millisecond
)

// openLanes makes the connections, which come about while the manifest does.
func (r *round) openLanes(ctx context.Context) error {
	lanes := r.cfg.Parallel
	if lanes == 0 {
		lanes = longLanes
	}
	for range lanes {
		conn, err := r.cfg.Dial(ctx, r.addr, append(dialOptions(r.cfg.IdleTimeout), r.counter.dialOption())...)
		if err != nil {
			return peerFault(ctx, "dial "+r.addr, err)
		}
		r.lanes = append(r.lanes, &lane{round: r, conn: conn, client: chainfirev1.NewSeedClient(conn)})
		if lazy, ok := conn.(interface{ Connect() }); ok && !r.channels() {
			lazy.Connect()
		}
	}
	return nil
}

func (r *round) closeLanes() {
	for _, l := range r.lanes {
		l.unplug()
		_ = l.conn.Close() // nothing comes over it any more
	}
}

// measure finds out how long a round trip is, by calls that cost the source
// nothing: the least of a few, since one may wait for a busy machine, until two
// are about the same.
func (r *round) measure(ctx context.Context) {
	defer close(r.measured)
	for range 3 {
		asked := time.Now()
		if !r.answers(ctx, r.client) {
			return
		}
		trip, before := time.Since(asked), r.trip
		if before == 0 || trip < before {
			r.trip = trip
		}
		if r.trip < longTrip || before > 0 && trip >= before/2 && trip <= 2*before {
			return
		}
	}
}

// inUse are the lanes that this line needs.
func (r *round) inUse(ctx context.Context) []*lane {
	select {
	case <-r.measured:
		r.long = r.trip >= longTrip
	case <-ctx.Done():
	}
	if r.cfg.Parallel == 0 && !r.long {
		return r.lanes[:shortLanes]
	}
	return r.lanes
}

// fetchRanges fetches what is missing over all lanes. One that breaks gives its
// rest back for the others; the first reason is returned when something is left.
func (r *round) fetchRanges(ctx context.Context, queue *workQueue) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.idle.turn()
	lanes := r.inUse(ctx)
	r.idle.over()
	if len(lanes) == 0 {
		return fault.Newf(fault.Internal, "pull from "+r.addr, "no connection to fetch over")
	}
	// Of lanes that have channels the system asks whether the other side is there.
	r.asked.Store(&[]chainfirev1.SeedClient{r.client})
	queue.begin(r.stage.Missing, len(lanes), time.Now())
	errs := make([]error, len(lanes))
	var wg sync.WaitGroup
	for i, l := range lanes {
		wg.Go(func() {
			background.Lower()
			r.idle.turn()
			defer r.idle.over()
			errs[i] = l.work(ctx, queue)
			if errs[i] != nil && !transient(errs[i]) {
				cancel()
			}
		})
	}
	wg.Wait()
	var first error
	for _, err := range errs {
		switch {
		case err == nil:
		case !transient(err):
			return err
		case first == nil:
			first = err
		}
	}
	if queue.empty() {
		return nil
	}
	return first
}

// share is a part of what is missing, asked for and coming over one stream.
type share struct {
	frames *frameReader
	stream frameStream
	end    context.CancelFunc
	asked  time.Time
	alone  bool // when it was asked for, nothing else was on its way
	chunks int  // of it, which have not come
}

// work takes shares until there is none; its own goroutine. A lane that breaks
// after it has brought something goes on by itself.
func (l *lane) work(ctx context.Context, queue *workQueue) error {
	var now, next *share
	for {
		var err error
		if now, next = next, nil; now == nil {
			if now, err = l.ask(ctx, queue, true); now == nil && err == nil {
				return nil
			}
		}
		if err == nil {
			next, err = l.read(ctx, queue, now)
			now.end()
		}
		if err == nil {
			continue
		}
		if now != nil {
			queue.add(now.frames.rest()...)
		}
		if next != nil {
			next.end()
			queue.add(next.frames.rest()...)
			next = nil
		}
		if l.plugged != nil {
			l.unplug()
			if l.absent(ctx) {
				continue
			}
		}
		var d *damaged
		if errors.As(err, &d) && d.at.file >= 0 {
			// The stream is not to be trusted any more, another one may be.
			if err = l.in.damaged(d.at, 0, d.err); err == nil {
				continue
			}
		}
		if !l.moved || !transient(err) || ctx.Err() != nil {
			return err
		}
		l.moved = false
		l.retried(err)
	}
}

// ask asks for a share of what is missing; nil when there is none.
func (l *lane) ask(ctx context.Context, queue *workQueue, alone bool) (*share, error) {
	most := leastShare
	if l.long {
		most = mostShare
	}
	ranges, err := l.share(ctx, queue, most, alone)
	if ranges == nil || err != nil {
		return nil, err
	}
	req := &chainfirev1.GetSnapshotRequest{LeaseId: l.meta.LeaseID, ManifestRoot: l.layout.root[:], Ranges: rangesProto(ranges),
		Compression: l.cfg.Compression, RateLimit: uint64(max(l.cfg.RateLimit, 0)),
		Check: l.check.Load()}
	stream, end, err := l.request(ctx, req)
	if err != nil {
		queue.add(ranges...)
		return nil, peerFault(ctx, "pull from "+l.addr, err)
	}
	s := &share{stream: stream, end: end, asked: time.Now(), alone: alone}
	for _, r := range ranges {
		s.chunks += r.Count
	}
	s.frames = &frameReader{layout: l.layout, root: l.layout.root, ranges: ranges}
	s.frames.onChunk = func(id chunkID, c *chainfirev1.FrameChunk) error {
		again, err := l.in.put(id, c)
		if again && err == nil { // else it is in the rest
			l.check.Store(true) // it may be the source's disk
			queue.add(Range{File: id.file, First: id.index, Count: 1})
		}
		if !again && err == nil {
			queue.stored(int(c.GetRawSize()))
		}
		return err
	}
	return s, nil
}

// laneRest is how long a lane keeps a channel over which it asks for nothing, well
// within channelPause.
const laneRest = time.Minute

// share takes a share; one that has nothing on its way waits until it may.
func (l *lane) share(ctx context.Context, queue *workQueue, most int, alone bool) ([]Range, error) {
	for began := time.Now(); ; {
		ranges, held := queue.take(most)
		if !held || !alone {
			return ranges, nil
		}
		if time.Since(began) > laneRest {
			l.unplug()
		}
		l.idle.over() // nobody waits for the source here
		err := sleep(ctx, makeAgain)
		l.idle.turn()
		if err != nil {
			return nil, peerFault(ctx, "pull from "+l.addr, err)
		}
	}
}

// read takes a share to its end frame, and asks for the next one a little before
// that.
func (l *lane) read(ctx context.Context, queue *workQueue, s *share) (next *share, err error) {
	op := "pull from " + l.addr
	for last := s.asked; ; {
		f := newInFrame()
		err := s.stream.RecvMsg(f)
		if errors.Is(err, io.EOF) {
			if !s.frames.ended {
				return next, fault.Newf(fault.Unreachable, op, "the stream ended before its end frame")
			}
			return next, nil
		}
		if err != nil {
			return next, peerFault(ctx, op, err)
		}
		l.idle.touch()
		chunks := s.frames.chunks
		err = s.frames.next(f.GetSnapshotResponse)
		f.free()
		if err != nil {
			return next, err
		}
		if s.frames.chunks == chunks {
			l.began(s)
			continue
		}
		l.moved = true
		now := time.Now()
		l.came(now.Sub(last))
		last = now
		if s.chunks--; next == nil && s.chunks <= l.ahead() {
			if next, err = l.ask(ctx, queue, false); err != nil {
				return nil, err
			}
		}
	}
}

// began notes how long the source took to answer, at a share's first frame.
func (l *lane) began(s *share) {
	if took := time.Since(s.asked); s.alone && s.frames.chunks == 0 && (l.answer == 0 || took < l.answer) {
		l.answer = took
	}
	s.alone = false
}

func (l *lane) came(took time.Duration) {
	if l.each == 0 {
		l.each = took
	}
	l.each += (took - l.each) / 8
}

// Bounds of what a lane asks for, in chunks. What it has asked for and not
// stored is what a target holds at most that is slower than its line.
const (
	mostShare = 6 // of a long line
	aheadMost = 3
)

// ahead is how many chunks of a share may be missing when the next one is asked
// for: those that come in a round trip, none where that is short. What comes
// sooner lies here unread, and is lost when this side is killed.
func (l *lane) ahead() int {
	if !l.long {
		return 0
	}
	return int(min(l.answer/max(l.each, 1)+1, aheadMost))
}

// retried tells that a lane broke and goes on; any goroutine.
func (p *puller) retried(err error) {
	p.notify.Lock()
	p.result.Retries++
	addr := p.result.Source
	p.notify.Unlock()
	p.tell(Event{Kind: EventRetry, Source: addr, Err: err})
}
