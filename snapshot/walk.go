package snapshot

import (
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/state/store"
)

// walk reads the records of several tables, from one key to another, in one order:
// by key, and those of one key newest first. Two walks over the same tables give
// the same. It is for one goroutine.
type walk struct {
	ctx    context.Context
	fs     vfs.FS
	lo, hi []byte
	rest   []*baseTable // not reached yet, by first key
	heads  []*walkHead  // a heap: the least record is at [0]
	cmp    func(a, b []byte) int
	moved  bool // [0] was given, and is to move on
	steps  uint
}

// walkHead is where the walk is in one table.
type walkHead struct {
	from  *baseTable
	rank  int // among tables with equal records
	table *store.TableFile
	it    *store.TableIterator
	ends  bool // within the walk: its keys need not be compared with hi
}

// newWalk begins before the first record of tables, all of which have some from lo
// to hi by their own bounds; the caller closes it.
func newWalk(ctx context.Context, fs vfs.FS, tables []*baseTable, lo, hi []byte) *walk {
	w := &walk{ctx: ctx, fs: fs, lo: lo, hi: hi, rest: slices.Clone(tables), cmp: store.Comparer().Compare}
	slices.SortStableFunc(w.rest, func(a, b *baseTable) int { return w.cmp(a.smallest, b.smallest) })
	return w
}

// stepsPerCheck is how many records are read between two looks at the context.
const stepsPerCheck = 1024

// next gives the next record, nil at the end. It is valid until the next call.
func (w *walk) next() (*store.TableIterator, error) {
	if w.steps++; w.steps%stepsPerCheck == 0 {
		if err := w.ctx.Err(); err != nil {
			return nil, failure("read the old directory", "", err)
		}
	}
	if w.moved {
		w.moved = false
		if err := w.advance(); err != nil {
			return nil, err
		}
	}
	for len(w.rest) > 0 && (len(w.heads) == 0 || w.cmp(w.rest[0].smallest, w.heads[0].it.Key()) <= 0) {
		if err := w.enter(); err != nil {
			return nil, err
		}
	}
	if len(w.heads) == 0 {
		return nil, nil
	}
	w.moved = true
	return w.heads[0].it, nil
}

// enter opens the next table.
func (w *walk) enter() error {
	b := w.rest[0]
	w.rest = w.rest[1:]
	t, err := store.OpenTable(w.ctx, w.fs, b.path)
	if err != nil {
		return w.blame(b, err)
	}
	it, err := t.Records()
	if err != nil {
		return errors.Join(w.blame(b, err), t.Close())
	}
	h := &walkHead{from: b, rank: -len(w.rest), table: t, it: it, ends: w.cmp(b.largest, w.hi) <= 0}
	ok := false
	if w.cmp(b.smallest, w.lo) < 0 {
		ok = it.SeekGE(w.lo)
	} else {
		ok = it.First()
	}
	if ok, err = w.within(h, ok); err != nil || !ok {
		return errors.Join(err, it.Close(), t.Close())
	}
	w.heads = append(w.heads, h)
	for i := len(w.heads) - 1; i > 0; {
		up := (i - 1) / 2
		if !w.less(w.heads[i], w.heads[up]) {
			break
		}
		w.heads[i], w.heads[up] = w.heads[up], w.heads[i]
		i = up
	}
	return nil
}

// within reports whether a table that has moved, to a record if ok, is at one of
// the walk.
func (w *walk) within(h *walkHead, ok bool) (bool, error) {
	if ok {
		return h.ends || w.cmp(h.it.Key(), w.hi) <= 0, nil
	}
	if err := h.it.Err(); err != nil {
		return false, w.blame(h.from, err)
	}
	return false, nil
}

// advance moves the first of the heap on, and puts it where it then belongs.
func (w *walk) advance() error {
	h := w.heads[0]
	ok, err := w.within(h, h.it.Next())
	if err != nil {
		return err
	}
	if !ok {
		last := len(w.heads) - 1
		w.heads[0] = w.heads[last]
		w.heads = w.heads[:last]
		if err := errors.Join(h.it.Close(), h.table.Close()); err != nil {
			return w.blame(h.from, err)
		}
	}
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < len(w.heads); down++ {
			if w.less(w.heads[down], w.heads[least]) {
				least = down
			}
		}
		if least == i {
			return nil
		}
		w.heads[i], w.heads[least] = w.heads[least], w.heads[i]
		i = least
	}
}

func (w *walk) less(a, b *walkHead) bool {
	if c := w.cmp(a.it.Key(), b.it.Key()); c != 0 {
		return c < 0
	}
	if x, y := a.it.Seq(), b.it.Seq(); x != y {
		return x > y
	}
	return a.rank < b.rank
}

// blame says that a table of the base can not be read.
func (w *walk) blame(b *baseTable, err error) error {
	if w.ctx.Err() == nil {
		b.damaged.Store(true)
	}
	return err
}

// close ends the walk.
func (w *walk) close() error {
	var err error
	for _, h := range w.heads {
		err = errors.Join(err, h.it.Close(), h.table.Close())
	}
	w.heads = nil
	return err
}
