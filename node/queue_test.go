package node

import (
	"slices"
	"sync"
	"testing"
)

// Whatever is pushed comes out once, each pusher's in order, and no wake-up is
// lost.
func TestQueueKeepsOrder(t *testing.T) {
	const pushers, each = 4, 500
	q := newQueue[[2]int]()
	var wg sync.WaitGroup
	for p := range pushers {
		wg.Go(func() {
			for i := range each {
				q.push([2]int{p, i})
			}
		})
	}
	next := make([]int, pushers)
	for got := 0; got < pushers*each; {
		<-q.ready
		for _, item := range q.drain() {
			if item[1] != next[item[0]] {
				t.Fatalf("pusher %d: %d came, want %d", item[0], item[1], next[item[0]])
			}
			next[item[0]]++
			got++
		}
	}
	wg.Wait()
	if rest := q.drain(); len(rest) != 0 {
		t.Errorf("left over: %v", rest)
	}
}

func TestQueueReady(t *testing.T) {
	q := newQueue[int]()
	q.push()
	select {
	case <-q.ready:
		t.Fatal("pushing nothing woke somebody")
	default:
	}
	q.push(1, 2)
	q.push(3)
	<-q.ready
	if got := q.drain(); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("drained %v", got)
	}
	select {
	case <-q.ready: // a wake-up too many is allowed, its drain is empty
		if got := q.drain(); len(got) != 0 {
			t.Errorf("drained %v twice", got)
		}
	default:
	}
}
