package transfer

import "sync"

// workQueue hands out what is missing, in shares that get smaller towards the
// end, so that all streams finish at about the same time.
type workQueue struct {
	mu      sync.Mutex
	ranges  []Range
	chunks  int // in ranges
	streams int
}

// Bounds of a share.
const (
	leastShare  = 2    // chunks
	mostFiles   = 4096 // ranges
	shareDivide = 2    // a share is what is left / (streams * shareDivide)
)

func newWorkQueue(missing []Range, streams int) *workQueue {
	q := &workQueue{streams: streams}
	q.add(missing...)
	return q
}

// add puts ranges (back) into the queue.
func (q *workQueue) add(ranges ...Range) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range ranges {
		q.ranges = append(q.ranges, r)
		q.chunks += r.Count
	}
}

// take gives the next share, of at most so many chunks, nil when there is none.
func (q *workQueue) take(most int) []Range {
	q.mu.Lock()
	defer q.mu.Unlock()
	share := min(max(q.chunks/(q.streams*shareDivide), leastShare), most)
	var out []Range
	for len(q.ranges) > 0 && len(out) < mostFiles && (share > 0 || len(out) == 0) {
		r := q.ranges[0]
		if r.Count > share {
			q.ranges[0] = Range{File: r.File, First: r.First + share, Count: r.Count - share}
			r.Count = share
		} else {
			q.ranges = q.ranges[1:]
		}
		share -= r.Count
		q.chunks -= r.Count
		out = append(out, r)
	}
	return out
}

func (q *workQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ranges) == 0
}
