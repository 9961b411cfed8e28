package transfer

import (
	"testing"
	"testing/synctest"
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
		for share, _ := q.take(most); share != nil; share, _ = q.take(most) {
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

// A claim is of a whole table or none, and one that is given back is handed out.
func TestQueueClaims(t *testing.T) { synctest.Test(t, testQueueClaims) }

func testQueueClaims(t *testing.T) {
	q := newWorkQueue([]Range{{File: 0, Count: 4}, {File: 1, Count: 4}, {File: 2, First: 1, Count: 1}, {File: 2, First: 3, Count: 2}}, 1)
	if left, _, begun := q.ahead(time.Now()); left != 0 || begun {
		t.Error("it has begun")
	}
	q.arrange(map[int]int{0: 2, 1: 1})
	if !q.claim(2) || q.claim(2) || q.claimable(2) || q.claim(9) {
		t.Error("claims before it begins")
	}
	now := time.Now()
	q.begin(func() []Range {
		return []Range{{File: 0, Count: 4}, {File: 1, Count: 4}, {File: 2, First: 1, Count: 1}}
	}, 1, now)
	if share, _ := q.take(2); len(share) != 1 || share[0] != (Range{File: 1, Count: 2}) {
		t.Errorf("%v is handed out first", share)
	}
	if q.claim(1) || q.claimable(1) || !q.claimable(0) || !q.claim(0) {
		t.Error("a part of table 1 was handed out, of table 0 nothing")
	}
	q.stored(1)
	if left, before, begun := q.ahead(now.Add(10 * time.Second)); left != 10*time.Second || before < 0 || !begun {
		t.Errorf("%s for 2 chunks at 2 in 10 s", left)
	}
	q.giveBack(0, func() []Range { return []Range{{File: 0, First: 2, Count: 2}} })
	if n := q.files(); n[0] != 2 || n[1] != 2 || n[2] != 0 {
		t.Errorf("%v chunks are left", n)
	}
}

// While a probe is on its way, nothing else is handed out, and its table can be
// claimed afterwards; while lists go first, nothing is.
func TestQueueProbes(t *testing.T) {
	var hold, probe bool
	q := newWorkQueue([]Range{{File: 1, Count: 4}, {File: 2, Count: 4}}, 1)
	q.gate = func(time.Time) (bool, bool) { return hold, probe }
	q.begin(func() []Range { return []Range{{File: 1, Count: 4}, {File: 2, Count: 4}} }, 2, time.Now())
	probe = true
	if share, held := q.take(6); len(share) != 1 || share[0] != (Range{File: 1, Count: 1}) || held {
		t.Errorf("the probe is %v (%t)", share, held)
	}
	for _, probe = range []bool{true, false} {
		if share, held := q.take(6); share != nil || !held {
			t.Errorf("beside a probe: %v (%t)", share, held)
		}
	}
	if q.claim(1) || !q.claimable(1) {
		t.Error("its table is claimed")
	}
	if _, known := q.rate(time.Now()); known {
		t.Error("there is a rate")
	}
	q.stored(1)
	if _, known := q.rate(time.Now()); !known {
		t.Error("there is no rate")
	}
	hold = true
	if share, held := q.take(6); share != nil || !held {
		t.Errorf("while lists go first: %v (%t)", share, held)
	}
	if !q.claim(1) || !q.claim(2) {
		t.Error("a table of which a probe has come is not claimed")
	}
	if share, held := q.take(6); share != nil || held {
		t.Errorf("of nothing: %v (%t)", share, held)
	}
}
