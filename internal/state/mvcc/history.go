package mvcc

import (
	"bytes"
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/store"
)

// HistoryReader is what Changes needs: a store.View.
type HistoryReader interface {
	Reader
	ScanFrom(t store.Table, lo []byte, fn func(key, value []byte) error) error
}

// Want is what a reader of history wants of one write.
type Want int

// What can be wanted. Nothing costs least: the write is not read.
const (
	Nothing Want = iota
	Event
	EventAndPrev // with the version before it, where that is still known
)

// History says which writes to read, in the order they were made.
type History struct {
	// From is the first main revision.
	From int64
	// Kept reads also what is compacted, as long as nothing at or after From has
	// been purged. Else a From below the compact revision is ErrCompacted.
	Kept bool
	// Want is asked for each write. It may end the reading with store.ErrStop, and
	// must do so at the first write of a revision if revisions are to stay whole.
	// key is valid during the call.
	Want func(rev int64, key []byte) (Want, error)
	// Take gets what was wanted and owns it. It may end the reading as Want may.
	Take func(*mvccpb.Event) error
}

// Bounds are the revisions of the view that a history was read from. Compacted
// is -1 when nothing was.
type Bounds struct{ Current, Compacted int64 }

// ReadHistory reads the revisions table from h.From on and, of what is wanted,
// the versions. What is compacted gives ErrCompacted, with the bounds.
func ReadHistory(ctx context.Context, r HistoryReader, h History) (at Bounds, err error) {
	if at.Current, at.Compacted, err = r.Revisions(); err != nil {
		return at, err
	}
	below := h.From < at.Compacted
	if below && !h.Kept {
		return at, rpctypes.ErrGRPCCompacted
	}
	n := 0
	err = r.ScanFrom(store.Revisions, revisionKey(max(h.From, 0), 0), func(row, key []byte) error {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		main, sub, err := decodeRevisionKey(row)
		if err != nil {
			return err
		}
		if n == 1 && below && (main != h.From || sub != 0) {
			return rpctypes.ErrGRPCCompacted // every revision has rows, and they are purged in order
		}
		want, err := h.Want(main, key)
		if err != nil || want == Nothing {
			return err
		}
		// A version goes with the row of its successor.
		ev, err := event(r, key, main, want == EventAndPrev && (h.Kept || main > at.Compacted))
		if err != nil {
			return err
		}
		return h.Take(ev)
	})
	if err == nil && n == 0 && below {
		err = rpctypes.ErrGRPCCompacted
	}
	return at, err
}

// Changes gives the writes with main revision at or after from in the order
// they were made: an event with its previous version when prev is set and it
// is still known. fn may end it with store.ErrStop. A from below the compact
// revision is ErrCompacted.
func Changes(ctx context.Context, r HistoryReader, from int64, prev bool, fn func(*mvccpb.Event) error) error {
	want := Event
	if prev {
		want = EventAndPrev
	}
	_, err := ReadHistory(ctx, r, History{From: from, Take: fn, Want: func(int64, []byte) (Want, error) { return want, nil }})
	return err
}

// event reads the write of key at revision rev.
func event(r Reader, key []byte, rev int64, prev bool) (*mvccpb.Event, error) {
	v, err := r.Version(store.MVCC, key, rev)
	if err != nil {
		return nil, err
	}
	if v.Revision != rev {
		return nil, damaged(key, errors.New("a write of the revisions table has no version"))
	}
	ev := &mvccpb.Event{
		Type: mvccpb.Event_DELETE,
		Kv:   &mvccpb.KeyValue{Key: append([]byte(nil), key...), ModRevision: rev},
	}
	if v.Live {
		ev.Type = mvccpb.Event_PUT
		if ev.Kv, err = keyValue(key, v, true); err != nil {
			return nil, err
		}
	}
	if !prev {
		return ev, nil
	}
	old, err := r.Version(store.MVCC, key, rev-1)
	if err != nil {
		return nil, err
	}
	if old.Revision != 0 && old.Live {
		ev.PrevKv, err = keyValue(key, old, true)
	}
	return ev, err
}

// PurgeReader is what Purge reads: a store.View.
type PurgeReader interface {
	HistoryReader
	Older(t store.Table, key []byte, rev int64) ([]int64, error)
}

// Pruner is what Purge writes: a store.Prune.
type Pruner interface {
	DropVersion(key []byte, rev int64) error
	DropRevisions(lo, hi []byte) error
}

// Purge removes what no readable revision shows, for at most max rows of the
// revisions table, and reports whether more is left. It works along the rows
// below the compact revision: the key's older versions go, the version itself
// too if it is a tombstone, and then the row. A version is thus removed when
// the row of its successor is reached.
func Purge(r PurgeReader, p Pruner, limit int) (more bool, err error) {
	_, compacted, err := r.Revisions()
	if err != nil || compacted <= 0 {
		return false, err
	}
	var first, last []byte
	n := 0
	err = r.ScanFrom(store.Revisions, nil, func(row, key []byte) error {
		main, _, err := decodeRevisionKey(row)
		if err != nil {
			return err
		}
		if main >= compacted {
			return store.ErrStop
		}
		if n++; n > limit {
			more = true
			return store.ErrStop
		}
		if first == nil {
			first = append([]byte(nil), row...)
		}
		last = append(last[:0], row...)
		return purgeRow(r, p, key, main)
	})
	if err != nil || first == nil {
		return false, err
	}
	return more, p.DropRevisions(first, last)
}

// PurgeLast removes, after Purge has done its part, what the compact revision
// itself has replaced or deleted: the older versions of its keys. Its own versions
// and rows stay, since a watch may begin there. It looks at no more than limit rows,
// after a given one, and gives the row to go on after, nil when all is done.
func PurgeLast(r PurgeReader, p Pruner, after []byte, limit int) (next []byte, err error) {
	_, compacted, err := r.Revisions()
	if err != nil || compacted <= 0 {
		return nil, err
	}
	lo := revisionKey(compacted, 0)
	if bytes.Compare(after, lo) >= 0 {
		lo = append(bytes.Clone(after), 0)
	}
	var last []byte
	n := 0
	err = r.ScanFrom(store.Revisions, lo, func(row, key []byte) error {
		main, _, err := decodeRevisionKey(row)
		if err != nil {
			return err
		}
		if main != compacted {
			return store.ErrStop
		}
		if n++; n > limit {
			next = last
			return store.ErrStop
		}
		last = append(last[:0], row...)
		return purgeOlder(r, p, key, main)
	})
	return next, err
}

func purgeOlder(r PurgeReader, p Pruner, key []byte, rev int64) error {
	older, err := r.Older(store.MVCC, key, rev)
	if err != nil {
		return err
	}
	for _, old := range older {
		if err := p.DropVersion(key, old); err != nil {
			return err
		}
	}
	return nil
}

func purgeRow(r PurgeReader, p Pruner, key []byte, main int64) error {
	if err := purgeOlder(r, p, key, main); err != nil {
		return err
	}
	v, err := r.Version(store.MVCC, key, main)
	if err != nil {
		return err
	}
	if v.Revision == main && !v.Live {
		return p.DropVersion(key, main)
	}
	return nil
}
