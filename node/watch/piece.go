package watch

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

// piece is a bounded piece of history that is read for the watches of an index.
type piece struct {
	h       *Hub
	index   *index
	feeding bool   // for the synced watches: the hub's revision moves with it
	round   uint64 // else only who takes part in the round

	rows, bytes int
	last        int64 // last revision whose rows are being looked at
	covered     int64 // everything up to it was given
	stopped     bool
	events      []event // of the revision last
}

// event is one write in the two forms that watches get.
type event struct {
	plain, full *mvccpb.Event // without and with the previous version
	size        int
}

// read gives history from a revision on, up to another or to the bounds.
func (p *piece) read(ctx context.Context, from, upTo int64) (mvcc.Bounds, error) {
	p.covered = from - 1
	at, err := p.h.source.History(ctx, mvcc.History{From: from, Kept: p.feeding,
		Want: func(rev int64, key []byte) (mvcc.Want, error) { return p.want(rev, upTo, key) },
		Take: func(ev *mvccpb.Event) error { p.take(ev); return nil }})
	if err != nil {
		return at, err
	}
	p.flush()
	if !p.stopped {
		p.covered = min(at.Current, max(upTo, p.covered))
	}
	return at, nil
}

func (p *piece) want(rev, upTo int64, key []byte) (mvcc.Want, error) {
	if rev != p.last {
		p.flush()
		full := p.rows >= p.h.opts.RoundRows || p.bytes >= p.h.opts.RoundBytes
		if rev > upTo || full {
			p.stopped = full
			return mvcc.Nothing, store.ErrStop
		}
		p.last = rev
	}
	p.rows++
	want := mvcc.Nothing
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.index.match(key, func(w *watcher) {
		switch {
		case !p.takes(w, rev):
		case w.prev:
			want = mvcc.EventAndPrev
		default:
			want = max(want, mvcc.Event)
		}
	})
	return want, nil
}

// takes reports whether a watch is to get what the piece brings of a revision.
func (p *piece) takes(w *watcher, rev int64) bool {
	return w.next <= rev && (p.feeding || w.round == p.round)
}

// overhead is about what an event costs beside its key and values, in bytes.
const overhead = 128

func (p *piece) take(ev *mvccpb.Event) {
	e := event{plain: ev, full: ev, size: overhead + len(ev.GetKv().GetKey()) + len(ev.GetKv().GetValue())}
	if ev.GetPrevKv() != nil {
		e.plain = &mvccpb.Event{Type: ev.GetType(), Kv: ev.GetKv()}
		e.size += overhead + len(ev.GetPrevKv().GetKey()) + len(ev.GetPrevKv().GetValue())
	}
	p.bytes += e.size
	p.events = append(p.events, e)
}

// flush gives the revision that was read to its watches.
func (p *piece) flush() {
	if p.last == 0 {
		return
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if len(p.events) > 0 {
		p.give()
		p.events = nil // the watches have it
	}
	p.covered = p.last
	if p.feeding {
		p.h.pos = max(p.h.pos, p.last)
	}
}

// share is what one watch gets of the revision being given.
type share struct {
	events []*mvccpb.Event
	size   int
}

// give deals out one revision. A watch whose queue is full is stalled at it.
func (p *piece) give() {
	h, rev := p.h, p.last
	touched := h.touched[:0]
	plain, full := make([]*mvccpb.Event, len(p.events)), make([]*mvccpb.Event, len(p.events))
	for i, e := range p.events {
		plain[i], full[i] = e.plain, e.full
		del := e.plain.GetType() == mvccpb.Event_DELETE
		p.index.match(e.plain.GetKv().GetKey(), func(w *watcher) {
			if !p.takes(w, rev) || w.noPut && !del || w.noDelete && del {
				return
			}
			if w.share.events == nil {
				touched = append(touched, w)
			}
			all := plain
			if w.prev {
				all = full
			}
			w.share.add(all, i, e.size)
		})
	}
	for i, w := range touched {
		s := w.share
		w.share, touched[i] = share{}, nil
		if w.s.offer(w, rev, s) {
			w.next = rev + 1
			continue
		}
		h.leave(w)
		w.place, w.next, w.round = stalled, rev, 0 // it sees no more of this round, though it may be back soon
	}
	h.touched = touched
}

// add takes the i-th event of a revision. Neighbours share the revision's own
// list, so that many watches of one key cost no list each.
func (s *share) add(all []*mvccpb.Event, i, size int) {
	n := len(s.events)
	if n == 0 {
		s.events = all[i : i+1 : i+1]
	} else if first := i - n; first >= 0 && &all[first] == &s.events[0] {
		s.events = all[first : i+1 : i+1]
	} else {
		s.events = append(s.events, all[i])
	}
	s.size += size
}
