package state

// ringSize is the number of indexes whose digests are kept: 1 MiB of them.
const ringSize = 1 << 16

// digestRing keeps the digests after the last ringSize entries.
type digestRing struct {
	digests     [][16]byte
	first, last uint64 // indexes held; last 0: none
}

func newDigestRing() digestRing { return digestRing{digests: make([][16]byte, ringSize)} }

// put records the digest of index, which follows the last one put.
func (r *digestRing) put(index uint64, digest [16]byte) {
	if r.last == 0 || index != r.last+1 {
		r.first = index
	}
	r.last = index
	if index-r.first >= ringSize {
		r.first = index - ringSize + 1
	}
	r.digests[index%ringSize] = digest
}

func (r *digestRing) get(index uint64) ([16]byte, bool) {
	if index < r.first || index > r.last {
		return [16]byte{}, false
	}
	return r.digests[index%ringSize], true
}
