package policy

import (
	"container/heap"
	"time"
)

// deadlines gives what is due in order of time, then of ID, so that every run
// of a history is alike. The zero value is empty.
type deadlines struct{ heap deadlineHeap }

// deadline is one time of one lease; pos is its place in a heap, one more than
// the index, 0 when it is in none.
type deadline struct {
	at  time.Duration
	id  int64
	pos int
}

// set puts d into the heap, or moves it there.
func (q *deadlines) set(d *deadline, at time.Duration) {
	d.at = at
	if d.pos == 0 {
		heap.Push(&q.heap, d)
		return
	}
	heap.Fix(&q.heap, d.pos-1)
}

// remove takes d out if it is in.
func (q *deadlines) remove(d *deadline) {
	if d.pos > 0 {
		heap.Remove(&q.heap, d.pos-1)
	}
}

// first is the earliest one if it is due, else nil.
func (q *deadlines) first(now time.Duration) *deadline {
	if len(q.heap) == 0 || q.heap[0].at > now {
		return nil
	}
	return q.heap[0]
}

// deadlineHeap implements heap.Interface.
type deadlineHeap []*deadline

func (h deadlineHeap) Len() int { return len(h) }

func (h deadlineHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].id < h[j].id
}

func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i+1, j+1
}

func (h *deadlineHeap) Push(x any) {
	d := x.(*deadline)
	*h = append(*h, d)
	d.pos = len(*h)
}

func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	d.pos = 0
	return d
}
