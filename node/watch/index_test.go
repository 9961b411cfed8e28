package watch

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// matchAll is the index without an index.
func matchAll(all []*watcher, key string) (out []*watcher) {
	for _, w := range all {
		s := w.span
		if s.single && s.lo == key || !s.single && s.lo <= key && (s.open || key < s.hi) {
			out = append(out, w)
		}
	}
	return out
}

func sortedIDs(list []*watcher) []int64 {
	var ids []int64
	for _, w := range list {
		ids = append(ids, w.id)
	}
	slices.Sort(ids)
	return ids
}

func TestIndexAgainstLoop(t *testing.T) {
	key := rapid.SampledFrom([]string{"\x00", "a", "aa", "ab", "b", "b\x00", "c", "\xff", "\xff\xff"})
	rapid.Check(t, func(t *rapid.T) {
		ix := newIndex()
		var all []*watcher
		for i := range rapid.IntRange(1, 60).Draw(t, "operations") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "remove") == 0 {
				n := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				ix.remove(all[n])
				all = slices.Delete(all, n, n+1)
			} else {
				end := rapid.SampledFrom([]string{"", "\x00", "ab", "b", "c", "\xff"}).Draw(t, "end")
				w := &watcher{id: int64(i), span: spanOf([]byte(key.Draw(t, "key")), []byte(end))}
				ix.add(w)
				all = append(all, w)
			}
			k := key.Draw(t, "asked")
			var got, every []*watcher
			ix.match([]byte(k), func(w *watcher) { got = append(got, w) })
			ix.each(func(w *watcher) { every = append(every, w) })
			if want := matchAll(all, k); !slices.Equal(sortedIDs(got), sortedIDs(want)) {
				t.Fatalf("%q: %v, want %v", k, sortedIDs(got), sortedIDs(want))
			}
			if ix.n != len(all) || !slices.Equal(sortedIDs(every), sortedIDs(all)) {
				t.Fatalf("%d watches %v, want %v", ix.n, sortedIDs(every), sortedIDs(all))
			}
		}
	})
}

// A tree of many ranges stays shallow however they come.
func TestRangesStayShallow(t *testing.T) {
	ix := newIndex()
	const n = 1 << 14
	for i := range n {
		lo := []byte{byte(i >> 8), byte(i), 1}
		ix.add(&watcher{span: span{lo: string(lo), hi: string(append(lo, 0))}})
	}
	var depth func(*rangeNode) int
	depth = func(n *rangeNode) int {
		if n == nil {
			return 0
		}
		return 1 + max(depth(n.left), depth(n.right))
	}
	if d := depth(ix.ranges); d > 80 {
		t.Errorf("%d ranges are %d deep", n, d)
	}
}
