package watch

import (
	"hash/maphash"
	"slices"
)

// span is what a watch looks at: one key, or the keys from lo to before hi.
type span struct {
	lo     string
	hi     string
	single bool
	open   bool // no hi: every key from lo on
}

// index finds the watches of a key: single keys in a map, ranges in a tree.
type index struct {
	keys   map[string][]*watcher
	ranges *rangeNode
	seed   maphash.Seed
	n      int
}

func newIndex() *index { return &index{keys: map[string][]*watcher{}, seed: maphash.MakeSeed()} }

func (ix *index) add(w *watcher) {
	ix.n++
	if w.span.single {
		ix.keys[w.span.lo] = append(ix.keys[w.span.lo], w)
		return
	}
	ix.ranges = ix.ranges.insert(w, maphash.String(ix.seed, w.span.lo+"\x00"+w.span.hi))
}

func (ix *index) remove(w *watcher) {
	ix.n--
	if !w.span.single {
		ix.ranges = ix.ranges.remove(w)
		return
	}
	if left := without(ix.keys[w.span.lo], w); len(left) > 0 {
		ix.keys[w.span.lo] = left
	} else {
		delete(ix.keys, w.span.lo)
	}
}

// match gives the watches of key; fn must not change the index.
func (ix *index) match(key []byte, fn func(*watcher)) {
	for _, w := range ix.keys[string(key)] {
		fn(w)
	}
	if ix.ranges != nil {
		ix.ranges.stab(string(key), fn)
	}
}

func without(list []*watcher, w *watcher) []*watcher {
	if i := slices.Index(list, w); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// rangeNode is a node of a treap: a search tree by span, a heap by priority.
// Each knows the furthest end below it, so that a key finds the k ranges it is
// in among n in O(k log n).
type rangeNode struct {
	span        span
	watchers    []*watcher
	priority    uint64
	left, right *rangeNode
	end         span // the one of this subtree that ends last
}

// compareSpans orders ranges by their begin, then by their end.
func compareSpans(a, b span) int {
	switch {
	case a.lo != b.lo && a.lo < b.lo:
		return -1
	case a.lo != b.lo:
		return 1
	}
	return compareEnds(a, b)
}

func compareEnds(a, b span) int {
	switch {
	case a.open || b.open:
		switch {
		case a.open && b.open:
			return 0
		case a.open:
			return 1
		}
		return -1
	case a.hi < b.hi:
		return -1
	case a.hi > b.hi:
		return 1
	}
	return 0
}

func (n *rangeNode) update() {
	n.end = n.span
	for _, c := range []*rangeNode{n.left, n.right} {
		if c != nil && compareEnds(c.end, n.end) > 0 {
			n.end = c.end
		}
	}
}

func (n *rangeNode) insert(w *watcher, priority uint64) *rangeNode {
	if n == nil {
		return &rangeNode{span: w.span, end: w.span, watchers: []*watcher{w}, priority: priority}
	}
	switch c := compareSpans(w.span, n.span); {
	case c == 0:
		n.watchers = append(n.watchers, w)
		return n
	case c < 0:
		n.left = n.left.insert(w, priority)
		if n.left.priority > n.priority {
			return n.rotateRight()
		}
	default:
		n.right = n.right.insert(w, priority)
		if n.right.priority > n.priority {
			return n.rotateLeft()
		}
	}
	n.update()
	return n
}

func (n *rangeNode) rotateRight() *rangeNode {
	top := n.left
	n.left, top.right = top.right, n
	n.update()
	top.update()
	return top
}

func (n *rangeNode) rotateLeft() *rangeNode {
	top := n.right
	n.right, top.left = top.left, n
	n.update()
	top.update()
	return top
}

func (n *rangeNode) remove(w *watcher) *rangeNode {
	if n == nil {
		return nil
	}
	switch c := compareSpans(w.span, n.span); {
	case c < 0:
		n.left = n.left.remove(w)
	case c > 0:
		n.right = n.right.remove(w)
	default:
		if n.watchers = without(n.watchers, w); len(n.watchers) == 0 {
			return mergeRanges(n.left, n.right)
		}
	}
	n.update()
	return n
}

// mergeRanges joins two treaps; all of a is before all of b.
func mergeRanges(a, b *rangeNode) *rangeNode {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = mergeRanges(a.right, b)
		a.update()
		return a
	}
	b.left = mergeRanges(a, b.left)
	b.update()
	return b
}

func (n *rangeNode) stab(key string, fn func(*watcher)) {
	if n == nil || !n.end.open && n.end.hi <= key {
		return
	}
	n.left.stab(key, fn)
	if n.span.lo > key {
		return
	}
	if n.span.open || n.span.hi > key {
		for _, w := range n.watchers {
			fn(w)
		}
	}
	n.right.stab(key, fn)
}

// each gives all watches; fn must not change the index.
func (ix *index) each(fn func(*watcher)) {
	for _, list := range ix.keys {
		for _, w := range list {
			fn(w)
		}
	}
	ix.ranges.each(fn)
}

func (n *rangeNode) each(fn func(*watcher)) {
	if n == nil {
		return
	}
	n.left.each(fn)
	for _, w := range n.watchers {
		fn(w)
	}
	n.right.each(fn)
}
