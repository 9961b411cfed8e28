package auth

import (
	"bytes"
	"slices"
)

// span is the keys [lo, hi); hi nil = no end.
type span struct{ lo, hi []byte }

// spanOf reads etcd's form of a range: no end is the one key, "\0" is from key on.
func spanOf(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{lo: key, hi: append(bytes.Clone(key), 0)}
	case openEnd(end):
		return span{lo: key}
	}
	return span{lo: key, hi: end}
}

func openEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// validRange reports whether a permission may be on a range: it has a key and is
// not empty.
func validRange(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || openEnd(end) || bytes.Compare(key, end) < 0)
}

// spans are disjoint, in order, and do not touch.
type spans []span

// merge makes one span of those that overlap or touch. in is changed.
func merge(in []span) spans {
	slices.SortFunc(in, func(a, b span) int { return bytes.Compare(a.lo, b.lo) })
	out := in[:0]
	for _, s := range in {
		if n := len(out); n > 0 && (out[n-1].hi == nil || bytes.Compare(s.lo, out[n-1].hi) <= 0) {
			if last := &out[n-1]; s.hi == nil || last.hi != nil && bytes.Compare(s.hi, last.hi) > 0 {
				last.hi = s.hi
			}
			continue
		}
		out = append(out, s)
	}
	return slices.Clip(out)
}

// contain reports whether all of w lies in one of the spans. A range that ends
// before it begins has no key; as in etcd, its first key and its end decide.
func (ss spans) contain(w span) bool {
	i, exact := slices.BinarySearchFunc(ss, w.lo, func(s span, key []byte) int { return bytes.Compare(s.lo, key) })
	if !exact {
		if i == 0 {
			return false
		}
		i--
	}
	s := ss[i]
	return s.hi == nil || w.hi != nil && bytes.Compare(w.lo, s.hi) < 0 && bytes.Compare(w.hi, s.hi) <= 0
}
