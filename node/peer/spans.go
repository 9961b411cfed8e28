package peer

// spans are half-open ranges of indexes. There is more than one only between a
// probe that the follower refused and the entries that close the gap to it.
type spans []struct{ from, to uint64 }

// maxSpans bounds what is remembered; the oldest goes first.
const maxSpans = 16

// add puts a range in and reports how much of it was there.
func (s *spans) add(from, to uint64) (again uint64) {
	low, high := from, to
	kept := (*s)[:0]
	for _, sp := range *s {
		if sp.to < from || sp.from > to {
			kept = append(kept, sp)
			continue
		}
		again += min(to, sp.to) - max(from, sp.from)
		low, high = min(low, sp.from), max(high, sp.to)
	}
	kept = append(kept, struct{ from, to uint64 }{low, high})
	*s = kept[max(0, len(kept)-maxSpans):]
	return again
}
