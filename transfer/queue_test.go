package transfer

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestWorkQueue: shares are disjoint, cover all that is missing, and get smaller
// towards the end.
func TestWorkQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var missing []Range
		want := make(map[chunkID]int)
		for file := range rapid.IntRange(0, 20).Draw(t, "files") {
			r := Range{File: file, First: rapid.IntRange(0, 5).Draw(t, "first"), Count: rapid.IntRange(0, 300).Draw(t, "count")}
			missing = append(missing, r)
			for i := range r.Count {
				want[chunkID{file, r.First + i}]++
			}
		}
		streams := rapid.IntRange(1, 8).Draw(t, "streams")
		q := newWorkQueue(missing, 1)
		q.begin(func() []Range { return missing }, streams, time.Now())
		left := len(want)
		most := rapid.IntRange(leastShare, 64).Draw(t, "most")
		for share := q.take(most); share != nil; share = q.take(most) {
			n := 0
			for _, r := range share {
				n += r.Count
				for i := range r.Count {
					want[chunkID{r.File, r.First + i}]--
				}
			}
			if limit := min(max(left/(streams*shareDivide), leastShare), most); n > limit {
				t.Fatalf("a share of %d of %d chunks for %d streams", n, left, streams)
			}
			left -= n
			if rapid.Bool().Draw(t, "broken") && n > 1 { // half of it comes back
				last := share[len(share)-1]
				if last.Count > 1 {
					back := Range{last.File, last.First + 1, last.Count - 1}
					q.add(back)
					left += back.Count
					for i := range back.Count {
						want[chunkID{back.File, back.First + i}]++
					}
				}
			}
		}
		for id, n := range want {
			if n != 0 {
				t.Fatalf("chunk %v was handed out %d times too few", id, n)
			}
		}
		if !q.empty() {
			t.Fatal("not empty at the end")
		}
	})
}
