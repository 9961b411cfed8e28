package mvcc

import (
	"context"
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/state/store"
)

// Hash is a hash of the keys at a revision. Compacted is -1 when nothing was
// compacted yet; Current is the revision of the view.
type Hash struct {
	Sum                          uint32
	Revision, Compacted, Current int64
}

// HashAt hashes the live versions at a revision (0: the current one) as the
// package comment describes. Members with equal keys at that revision and an
// equal compact revision have equal sums, whatever they have purged. It reads
// all keys and holds one at a time. What is compacted gives ErrCompacted, what
// is to come ErrFutureRev.
func HashAt(ctx context.Context, r Reader, rev int64) (Hash, error) {
	at, current, err := readRevision(r, rev)
	if err != nil {
		return Hash{}, err
	}
	_, compacted, err := r.Revisions()
	if err != nil {
		return Hash{}, err
	}
	h := xxh3.New()
	// A hasher's Write does not fail.
	_, _ = h.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(at)), uint64(compacted)))
	n := 0
	var head []byte
	err = r.ScanVersions(store.MVCC, nil, nil, at, func(key []byte, v store.Version) error {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		head = binary.LittleEndian.AppendUint32(head[:0], uint32(len(key)))
		head = append(head, key...)
		head = binary.LittleEndian.AppendUint64(head, uint64(v.Revision))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(v.Value)))
		_, _ = h.Write(head)
		_, _ = h.Write(v.Value)
		return nil
	})
	sum := h.Sum64()
	return Hash{Sum: uint32(sum) ^ uint32(sum>>32), Revision: at, Compacted: compacted, Current: current}, err
}
