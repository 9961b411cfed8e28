package watch

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// catchUp reads a round of history for watches that are behind, and reports
// whether any still is.
func (h *Hub) catchUp(ctx context.Context) (left bool, err error) {
	h.mu.Lock()
	h.promote()
	if len(h.behind) == 0 {
		h.mu.Unlock()
		return false, nil
	}
	from, upTo := h.begin(), h.pos
	p := piece{h: h, index: h.behindIndex, round: h.round}
	h.mu.Unlock()
	at, err := p.read(ctx, from, upTo)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case errors.Is(err, rpctypes.ErrGRPCCompacted):
		h.endCompacted(at.Compacted)
		return len(h.behind) > 0, nil
	case err != nil:
		return false, err
	}
	for _, w := range h.behind {
		if w.round == p.round {
			w.next = max(w.next, p.covered+1)
		}
	}
	h.promote()
	return len(h.behind) > 0, nil
}

// begin chooses where a round begins, and who takes part: who joins later
// might want a write that was passed over.
func (h *Hub) begin() (from int64) {
	h.oldest = !h.oldest
	from = h.behind[0].next
	if h.oldest {
		for _, w := range h.behind {
			from = min(from, w.next)
		}
	} else {
		h.behind = append(h.behind[1:], h.behind[0])
	}
	h.round++
	for _, w := range h.behind {
		if w.next >= from {
			w.round = h.round
		}
	}
	return from
}

// promote takes those that have caught up to the synced ones.
func (h *Hub) promote() {
	rest := h.behind[:0]
	for _, w := range h.behind {
		if w.next <= h.pos {
			rest = append(rest, w)
			continue
		}
		h.behindIndex.remove(w)
		w.place = synced
		h.synced.add(w)
	}
	clear(h.behind[len(rest):])
	h.behind = rest
}

// endCompacted ends the watches whose next revision can not be read any more.
func (h *Hub) endCompacted(compacted int64) {
	for _, w := range append([]*watcher(nil), h.behind...) {
		if w.next < compacted {
			h.leave(w)
			w.s.control(&pb.WatchResponse{WatchId: w.id, Canceled: true, CompactRevision: compacted,
				Header: &pb.ResponseHeader{Revision: h.pos}})
		}
	}
}
