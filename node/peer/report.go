package peer

import "sync"

// reporter hands Unreachable and SnapshotDone to the handler from a goroutine
// of its own, so that Send never calls back into the loop that called it. No
// snapshot report is lost: what is posted after the reporter ended is handed
// over by the poster.
type reporter struct {
	h Handler

	mu          sync.Mutex
	unreachable map[uint64]struct{} // reports about one peer fall together
	snapshots   []snapshotReport
	ended       bool
	wake        chan struct{}
}

type snapshotReport struct {
	id uint64
	ok bool
}

func newReporter(h Handler) *reporter {
	return &reporter{h: h, unreachable: map[uint64]struct{}{}, wake: make(chan struct{}, 1)}
}

func (r *reporter) postUnreachable(id uint64) {
	r.mu.Lock()
	if !r.ended {
		r.unreachable[id] = struct{}{}
	}
	r.mu.Unlock()
	r.signal()
}

func (r *reporter) postSnapshot(id uint64, ok bool) {
	r.mu.Lock()
	ended := r.ended
	if !ended {
		r.snapshots = append(r.snapshots, snapshotReport{id, ok})
	}
	r.mu.Unlock()
	if ended {
		r.h.SnapshotDone(id, ok)
		return
	}
	r.signal()
}

func (r *reporter) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run delivers until stop is closed and nothing is left.
func (r *reporter) run(stop <-chan struct{}) {
	for {
		r.mu.Lock()
		ids, snaps := r.unreachable, r.snapshots
		r.unreachable, r.snapshots = map[uint64]struct{}{}, nil
		stopping := false
		select {
		case <-stop:
			stopping = true
		default:
		}
		if stopping && len(ids) == 0 && len(snaps) == 0 {
			r.ended = true
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		for id := range ids {
			r.h.Unreachable(id)
		}
		for _, s := range snaps {
			r.h.SnapshotDone(s.id, s.ok)
		}
		if len(ids) > 0 || len(snaps) > 0 {
			continue
		}
		select {
		case <-r.wake:
		case <-stop:
		}
	}
}
