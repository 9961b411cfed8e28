package watch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/mvcc"
)

// Source is the state that is watched. Methods are called concurrently.
type Source interface {
	// Revision is that of the last entry applied; it never falls.
	Revision() int64
	// History reads writes as of one applied entry, see mvcc.ReadHistory.
	History(ctx context.Context, h mvcc.History) (mvcc.Bounds, error)
}

// Options bound a Hub. Zero means the default.
type Options struct {
	// ProgressInterval is how often a quiet watch with progress_notify hears of
	// the revision; up to a tenth is added at random. Default 10m, etcd's.
	ProgressInterval time.Duration
	// QueueRevisions and QueueBytes bound what a watch has waiting for its client,
	// beside the first revision; TotalBytes what all have. Default 512, 1 MiB and
	// 64 MiB.
	QueueRevisions, QueueBytes, TotalBytes int
	// RoundRows and RoundBytes bound a piece of history, at the end of a revision:
	// writes looked at, and bytes of events. Default 1024 and 1 MiB.
	RoundRows, RoundBytes int
	// Fed hears, on the hub's goroutine, up to which revision synced watches have
	// everything: history from the next one on must not be purged. May be nil.
	Fed func(revision int64)
}

// DefaultProgressInterval is etcd's.
const DefaultProgressInterval = 10 * time.Minute

func (o Options) withDefaults() Options {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.QueueRevisions, 512)
	set(&o.QueueBytes, 1<<20)
	set(&o.TotalBytes, 64<<20)
	set(&o.RoundRows, 1024)
	set(&o.RoundBytes, 1<<20)
	if o.ProgressInterval <= 0 {
		o.ProgressInterval = DefaultProgressInterval
	}
	if o.Fed == nil {
		o.Fed = func(int64) {}
	}
	return o
}

// place is where a watch is; see the package comment.
type place int

const (
	synced place = iota
	behind
	stalled
	ended
)

// watcher is one watch.
type watcher struct {
	s               *Stream
	id              int64
	span            span
	noPut, noDelete bool
	prev, fragment  bool
	notify          bool
	start           int64 // as asked for; 0 = from now on

	// Guarded by Hub.mu.
	place place
	next  int64  // it has everything of its keys before this revision
	round uint64 // the last round it took part in
	share share  // of the revision that is being given

	// Guarded by Stream.mu.
	revisions, bytes int  // in the queue
	full             bool // a revision did not fit; see Hub.resume
	quiet            bool // no events sent since the last tick
}

// Hub feeds the watches of all streams.
type Hub struct {
	source Source
	opts   Options
	wake   chan struct{}
	queued atomic.Int64 // bytes waiting for clients

	mu     sync.Mutex
	pos    int64 // synced watches have everything up to this revision
	synced *index
	// behind are the watches of that place, those that have waited longest first.
	behind      []*watcher
	behindIndex *index
	round       uint64
	oldest      bool // the next round begins at the one furthest behind
	asking      map[*Stream]bool
	touched     []*watcher // scratch of give
}

// New makes a hub; Run feeds it. Streams may be opened before.
func New(source Source, o Options) *Hub {
	return &Hub{source: source, opts: o.withDefaults(), wake: make(chan struct{}, 1), pos: source.Revision(),
		synced: newIndex(), behindIndex: newIndex(), asking: map[*Stream]bool{}}
}

// Applied says that entries were applied or that the state was replaced. It
// never blocks.
func (h *Hub) Applied() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Run feeds watches until ctx ends; an error is the source's.
func (h *Hub) Run(ctx context.Context) error {
	for {
		more, err := h.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case more:
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		}
	}
}

// step reads one piece for the synced watches and one for those behind, and
// reports whether more is known to be left.
func (h *Hub) step(ctx context.Context) (more bool, err error) {
	if err := h.feed(ctx); err != nil {
		return false, err
	}
	left, err := h.catchUp(ctx)
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	for s := range h.asking {
		h.answer(s)
	}
	pos := h.pos
	h.mu.Unlock()
	h.opts.Fed(pos)
	return left || pos < h.source.Revision(), nil
}

// feed gives synced watches what was applied since.
func (h *Hub) feed(ctx context.Context) error {
	h.mu.Lock()
	from := h.pos + 1
	current := h.source.Revision()
	if h.synced.n == 0 {
		h.pos = max(h.pos, current)
	}
	p := piece{h: h, index: h.synced, feeding: true}
	done := h.pos >= current
	h.mu.Unlock()
	if done {
		return nil
	}
	at, err := p.read(ctx, from, current)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case errors.Is(err, rpctypes.ErrGRPCCompacted):
		h.fallBehind(from, at.Current)
		return nil
	case err != nil:
		return err
	}
	h.pos = max(h.pos, p.covered)
	return nil
}

// fallBehind moves the synced watches that want something of [from, current]:
// the store no longer has all of it, for a Raft snapshot has replaced the state.
func (h *Hub) fallBehind(from, current int64) {
	var moved []*watcher
	h.synced.each(func(w *watcher) {
		if w.next <= current {
			moved = append(moved, w)
		}
	})
	for _, w := range moved {
		h.synced.remove(w)
		w.next = max(w.next, from)
		h.toBehind(w)
	}
	h.pos = max(h.pos, current)
}

func (h *Hub) toBehind(w *watcher) {
	w.place = behind
	h.behind = append(h.behind, w)
	h.behindIndex.add(w)
}

// leave takes a watch out of wherever it is.
func (h *Hub) leave(w *watcher) {
	switch w.place {
	case synced:
		h.synced.remove(w)
	case behind:
		h.behind = without(h.behind, w)
		h.behindIndex.remove(w)
	}
	w.place = ended
}

// resume goes on with a stalled watch whose queue has room again.
func (h *Hub) resume(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.place == stalled {
		h.toBehind(w)
		h.Applied()
	}
}
