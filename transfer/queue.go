package transfer

import (
	"slices"
	"sync"
	"time"
)

// workQueue hands out what is missing, in shares that get smaller towards the
// end, so that all streams finish at about the same time. A file of which nothing
// was handed out can be claimed, to come in another way.
type workQueue struct {
	mu      sync.Mutex
	ranges  []Range
	chunks  int // in ranges
	streams int
	handed  map[int]bool // files of which a part was handed out
	claimed map[int]int  // chunks of files that were claimed and are not here again
	rank    map[int]int  // of files; those of the least are handed out first

	size   int       // of a chunk, in bytes; the last one of a file may have less
	made   time.Time // the queue
	began  time.Time // handing out
	came   int       // bytes since then
	out    int       // chunks that were handed out and have not come
	coming busy      // while there are such
	beside bool      // there were such of more than one share at a time
	probed int       // the file of which a chunk is on its way as a probe; < 0: none

	// Asked before each share, without the lock; nil: there is nobody else. Hold: none
	// is to be handed out; probe: one chunk, if nothing is on its way.
	gate func(now time.Time) (hold, probe bool)
}

// Bounds of a share.
const (
	leastShare  = 2    // chunks
	mostFiles   = 4096 // ranges
	shareDivide = 2    // a share is what is left / (streams * shareDivide)
)

// newWorkQueue makes a queue for begin to hand out, or to claim from before that, of
// chunks of so many bytes.
func newWorkQueue(missing []Range, size int) *workQueue {
	q := &workQueue{streams: 1, size: size, probed: -1, made: time.Now(), handed: make(map[int]bool), claimed: make(map[int]int)}
	q.put(missing)
	return q
}

// begin says that streams take shares from now on, of what is missing by now: what
// is given back meanwhile is in it once.
func (q *workQueue) begin(missing func() []Range, streams int, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranges, q.chunks, q.streams, q.began = nil, 0, streams, now
	for _, r := range missing() {
		if _, claimed := q.claimed[r.File]; !claimed {
			q.ranges = append(q.ranges, r)
			q.chunks += r.Count
		}
	}
	q.sort()
}

// arrange says in which order files are handed out; those without a rank first.
func (q *workQueue) arrange(rank map[int]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rank = rank
	q.sort()
}

func (q *workQueue) sort() {
	slices.SortStableFunc(q.ranges, func(a, b Range) int { return q.rank[a.File] - q.rank[b.File] })
}

// add puts ranges back that were handed out.
func (q *workQueue) add(ranges ...Range) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range ranges {
		q.off(r.Count)
	}
	q.put(ranges)
}

// off says that chunks are not on their way any more. The lock is held.
func (q *workQueue) off(chunks int) {
	if q.out -= chunks; q.out == 0 && chunks > 0 {
		q.probed = -1
		q.coming.add(-1, time.Now())
	}
}

// put puts ranges into the queue. The lock is held.
func (q *workQueue) put(ranges []Range) {
	for _, r := range ranges {
		q.ranges = append(q.ranges, r)
		q.chunks += r.Count
	}
}

// files counts the chunks of each file.
func (q *workQueue) files() map[int]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[int]int)
	for _, r := range q.ranges {
		out[r.File] += r.Count
	}
	return out
}

// claim takes all of a file out of the queue; false when there is none of it, or
// when a part was handed out, but for a probe that has come.
func (q *workQueue) claim(file int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.handed[file] || q.probed == file {
		return false
	}
	before, chunks := len(q.ranges), q.chunks
	q.ranges = slices.DeleteFunc(q.ranges, func(r Range) bool {
		if r.File == file {
			q.chunks -= r.Count
		}
		return r.File == file
	})
	if len(q.ranges) == before {
		return false
	}
	q.claimed[file] = chunks - q.chunks
	return true
}

// claimable reports whether claim would give it, now or when a probe has come.
func (q *workQueue) claimable(file int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.handed[file] && slices.ContainsFunc(q.ranges, func(r Range) bool { return r.File == file })
}

// kept says that what was claimed of a file has come.
func (q *workQueue) kept(file int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.claimed[file] = 0
}

// giveBack ends a claim; missing gives what is missing of the file.
func (q *workQueue) giveBack(file int, missing func() []Range) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.claimed, file)
	q.put(missing())
}

// take gives the next share, of at most so many chunks, nil when there is none; held:
// not at the moment.
func (q *workQueue) take(most int) (out []Range, held bool) {
	var hold, probe bool
	if q.gate != nil {
		hold, probe = q.gate(time.Now())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	share := min(max(q.chunks/(q.streams*shareDivide), leastShare), most)
	if probe {
		hold, share = q.out > 0, 1
	}
	hold = hold || q.probed >= 0 // what it tells is waited for
	if hold {
		return nil, len(q.ranges) > 0
	}
	before := q.out
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
		q.out += r.Count
		if probe {
			q.probed = r.File
		} else {
			q.handed[r.File] = true
		}
		out = append(out, r)
	}
	if before == 0 && q.out > 0 {
		q.coming.add(1, time.Now())
	}
	q.beside = q.beside || before > 0 && q.out > before
	return out, false
}

// stored notes that a chunk that was handed out has come, of so many bytes.
func (q *workQueue) stored(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.came += n
	q.off(1)
}

// rate is how many bytes a second the streams bring while something is on its way;
// where only one has brought anything, that is taken for the rate of each. known: a
// chunk has come.
func (q *workQueue) rate(now time.Time) (bytes float64, known bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.came < q.size {
		return 0, false
	}
	bytes = float64(q.came) / max(q.coming.total(now).Seconds(), 1e-6)
	if !q.beside {
		bytes *= float64(q.streams)
	}
	return bytes, true
}

// ahead is how long the streams will take for all that is in the queue, at the
// rate so far: at most that, for as many chunks may be on their way as there are
// streams; and what passed before they began. begun: they take shares.
func (q *workQueue) ahead(now time.Time) (left, before time.Duration, begun bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.began.IsZero() {
		return 0, 0, false
	}
	each := q.coming.total(now).Seconds() / (float64(q.came)/float64(q.size) + float64(q.streams))
	return time.Duration(float64(q.chunks) * each * float64(time.Second)), q.began.Sub(q.made), true
}

// behind is how long the streams would take for what is claimed and has not come, at
// the rate so far; each is the time of a chunk where they have brought less than one:
// that of a few bytes is the time of the way. known: there is a rate.
func (q *workQueue) behind(each time.Duration) (left time.Duration, known bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.came >= q.size {
		each = time.Duration(float64(q.coming.total(time.Now())) * float64(q.size) / float64(q.came))
	}
	for _, chunks := range q.claimed {
		left += time.Duration(chunks) * each
	}
	return left, each > 0
}

func (q *workQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ranges) == 0
}
