package watch

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// everyWatch is the ID of what concerns no single watch.
	everyWatch = -1

	// maxControls is how many answers to requests wait before the next request
	// does; etcd's number.
	maxControls = 16

	// maxResponse is how many bytes of events of several revisions share a
	// response. One revision is never split here.
	maxResponse = 1 << 20

	emptyRange  = "mvcc: watcher range is empty"
	duplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// Stream is the watches of one client's stream. One goroutine calls Request,
// one Next; both may still run when Close is called, once.
type Stream struct {
	h     *Hub
	ready chan struct{} // holds a token when the queue was filled
	room  chan struct{} // holds a token when controls were taken
	tick  *time.Ticker

	// Guarded by Hub.mu.
	watches map[int64]*watcher
	nextID  int64
	target  int64 // of the progress request that waits; see Hub.asking

	mu       sync.Mutex
	queue    []item
	controls int
	closed   bool
}

// item is something to send: a control response, or a revision for a watch.
type item struct {
	control  *pb.WatchResponse
	w        *watcher
	revision int64
	share    share
}

// Open makes a stream. Close it.
func (h *Hub) Open() *Stream {
	interval := h.opts.ProgressInterval
	interval += rand.N(interval/10 + 1) // or all that came back together would be told together
	return &Stream{h: h, ready: make(chan struct{}, 1), room: make(chan struct{}, 1), tick: time.NewTicker(interval),
		watches: map[int64]*watcher{}}
}

// Request carries out one request of the client; its answers come from Next.
// It waits while many of them were not taken, until ctx ends.
func (s *Stream) Request(ctx context.Context, req *pb.WatchRequest) error {
	switch r := req.GetRequestUnion().(type) {
	case *pb.WatchRequest_CreateRequest:
		if r.CreateRequest != nil {
			s.create(r.CreateRequest)
		}
	case *pb.WatchRequest_CancelRequest:
		if r.CancelRequest != nil {
			s.cancel(r.CancelRequest.GetWatchId())
		}
	case *pb.WatchRequest_ProgressRequest:
		if r.ProgressRequest != nil {
			s.askProgress()
		}
	}
	return s.roomy(ctx)
}

// Refuse answers a request for a watch that the client may not have. It waits as
// Request does.
func (s *Stream) Refuse(ctx context.Context, reason string) error {
	s.control(refusal(s.h.source.Revision(), reason))
	return s.roomy(ctx)
}

// refusal ends a watch that never was.
func refusal(revision int64, reason string) *pb.WatchResponse {
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: everyWatch, Created: true,
		Canceled: true, CancelReason: reason}
}

// roomy waits while many answers were not taken, until ctx ends.
func (s *Stream) roomy(ctx context.Context) error {
	for s.crowded() {
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *Stream) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.controls > maxControls
}

func spanOf(key, end []byte) span {
	if len(key) == 0 {
		key = []byte{0} // the smallest key
	}
	switch {
	case len(end) == 0:
		return span{lo: string(key), single: true}
	case len(end) == 1 && end[0] == 0:
		return span{lo: string(key), open: true}
	}
	return span{lo: string(key), hi: string(end)}
}

func (s *Stream) create(r *pb.WatchCreateRequest) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.watches == nil {
		return // closed
	}
	applied := h.source.Revision()
	refuse := func(reason string) { s.control(refusal(applied, reason)) }
	w := &watcher{s: s, id: r.GetWatchId(), span: spanOf(r.GetKey(), r.GetRangeEnd()), prev: r.GetPrevKv(),
		fragment: r.GetFragment(), notify: r.GetProgressNotify(), quiet: true, start: r.GetStartRevision()}
	for _, f := range r.GetFilters() {
		w.noPut = w.noPut || f == pb.WatchCreateRequest_NOPUT
		w.noDelete = w.noDelete || f == pb.WatchCreateRequest_NODELETE
	}
	switch {
	case w.start < 0:
		refuse(rpctypes.ErrCompacted.Error())
		return
	case !w.span.single && !w.span.open && w.span.lo >= w.span.hi:
		refuse(emptyRange)
		return
	case w.id == 0:
		for s.watches[s.nextID] != nil {
			s.nextID++
		}
		w.id = s.nextID
		s.nextID++
	case s.watches[w.id] != nil:
		refuse(duplicateID)
		return
	}
	s.watches[w.id] = w
	s.control(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: applied}, WatchId: w.id, Created: true})
	if w.start == 0 || w.start > applied {
		w.next = max(w.start, applied+1)
		h.synced.add(w)
		return
	}
	w.next = w.start
	h.toBehind(w)
	h.Applied()
}

func (s *Stream) cancel(id int64) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	w := s.watches[id]
	if w == nil {
		return
	}
	s.h.leave(w)
	delete(s.watches, id)
	s.control(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: s.h.source.Revision()}, WatchId: id, Canceled: true})
}

// askProgress is answered when all watches have what is applied now.
func (s *Stream) askProgress() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.watches == nil {
		return // closed
	}
	s.target = s.h.source.Revision()
	s.h.asking[s] = true
	s.h.answer(s)
	s.h.Applied()
}

// answer gives a progress request its answer, if that is possible now. A stream
// without watches gets none.
func (h *Hub) answer(s *Stream) {
	if h.pos < s.target {
		return
	}
	live := 0
	for _, w := range s.watches {
		switch {
		case w.place == ended:
			continue
		case w.place != synced || w.start > h.pos:
			return
		}
		live++
	}
	delete(h.asking, s)
	if live > 0 {
		s.control(progress(everyWatch, h.pos))
	}
}

func progress(id, revision int64) *pb.WatchResponse {
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}, WatchId: id}
}

// notify tells quiet watches that want it how far they are.
func (s *Stream) notify() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.watches)) {
		w := s.watches[id]
		if w.notify && s.wasQuiet(w) && w.place == synced && w.start <= s.h.pos {
			s.control(progress(id, s.h.pos))
		}
	}
}

// wasQuiet begins a new interval.
func (s *Stream) wasQuiet(w *watcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := w.quiet && w.revisions == 0
	w.quiet = true
	return quiet
}

// control queues a response that is not events.
func (s *Stream) control(r *pb.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.controls++
	s.push(item{control: r})
}

func (s *Stream) push(it item) {
	s.queue = append(s.queue, it)
	signal(s.ready)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// offer queues a watch's share of a revision, unless the bounds forbid it.
func (s *Stream) offer(w *watcher, revision int64, sh share) bool {
	o := &s.h.opts
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	if w.revisions > 0 && (w.revisions >= o.QueueRevisions || w.bytes+sh.size > o.QueueBytes ||
		s.h.queued.Load()+int64(sh.size) > int64(o.TotalBytes)) {
		w.full = true
		return false
	}
	w.revisions++
	w.bytes += sh.size
	s.h.queued.Add(int64(sh.size))
	s.push(item{w: w, revision: revision, share: sh})
	return true
}

// Next waits for the next response; its header has the revision only. The
// events in it are shared and must not be changed. fragment says that the client
// allows it to be split.
func (s *Stream) Next(ctx context.Context) (resp *pb.WatchResponse, fragment bool, err error) {
	for ctx.Err() == nil {
		resp, w, resume := s.pop()
		if resume {
			s.h.resume(w)
		}
		if resp != nil {
			return resp, w != nil && w.fragment, nil
		}
		select {
		case <-ctx.Done():
		case <-s.ready:
		case <-s.tick.C:
			s.notify()
		}
	}
	return nil, false, ctx.Err()
}

// pop takes the next response out of the queue; resume says that its watch has
// room for what did not fit.
func (s *Stream) pop() (resp *pb.WatchResponse, w *watcher, resume bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, nil, false
	}
	it := s.queue[0]
	if it.control != nil {
		s.queue[0], s.queue = item{}, s.queue[1:]
		s.controls--
		signal(s.room)
		return it.control, nil, false
	}
	w = it.w
	n, bytes := 0, 0
	var events []*mvccpb.Event
	for _, next := range s.queue {
		if next.w != w || n > 0 && bytes+next.share.size > maxResponse {
			break
		}
		if n == 0 {
			events = next.share.events
		} else {
			events = append(events, next.share.events...) // a share has no room behind it: this copies
		}
		it.revision = next.revision
		bytes += next.share.size
		n++
	}
	clear(s.queue[:n])
	s.queue = s.queue[n:]
	w.revisions -= n
	w.bytes -= bytes
	w.quiet = false
	s.h.queued.Add(-int64(bytes))
	o := &s.h.opts
	if w.full && 2*w.revisions <= o.QueueRevisions && 2*w.bytes <= o.QueueBytes {
		w.full, resume = false, true
	}
	return &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: it.revision}, WatchId: w.id, Events: events}, w, resume
}

// Close ends the stream's watches.
func (s *Stream) Close() {
	s.tick.Stop()
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for _, w := range s.watches {
		s.h.leave(w)
	}
	s.watches = nil
	delete(s.h.asking, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, it := range s.queue {
		s.h.queued.Add(-int64(it.share.size))
	}
	s.queue = nil
}
