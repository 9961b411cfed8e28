package snapshot

import (
	"os"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/span"
)

// OpenRecords opens the state of the seed to read its records, which the caller
// closes. One that was removed is fault.LeaseLost.
func (s *Seed) OpenRecords() (span.Reader, error) {
	const op = "read records"
	if s.removed.Load() {
		return nil, fault.New(fault.LeaseLost, op, os.ErrNotExist).At(s.dir).WithHint("the seed is no longer kept here; start again")
	}
	raw, err := openRaw(s.dir, store.Options{FS: s.fs, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	return rawReader{raw}, nil
}

// openRaw opens a state as records. A panic about its bytes is an error like any
// other.
func openRaw(dir string, o store.Options) (raw *store.Raw, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.Newf(fault.Corrupt, "read records", "%v", r).At(dir)
		}
	}()
	raw, err = store.OpenRaw(dir, o)
	if err != nil {
		return nil, failure("read records", dir, err)
	}
	return raw, nil
}

// rawReader is a state as package span reads it.
type rawReader struct{ *store.Raw }

// Iterate implements span.Reader.
func (r rawReader) Iterate() (span.Iterator, error) {
	it, err := r.Raw.Iterate()
	if err != nil {
		return nil, err
	}
	return it, nil
}

// withWalk reads the records of r from the first on.
func withWalk(r span.Reader, fn func(*span.Walk, span.Iterator) error) (err error) {
	it, err := r.Iterate()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil { // else it says the same again
			err = cerr
		}
	}()
	return fn(span.NewWalk(it), it)
}

// baseReader is the copy of a base: what is wrong with it is wrong there.
type baseReader struct {
	rawReader
	path string // of the base
}

// Iterate implements span.Reader.
func (r baseReader) Iterate() (span.Iterator, error) {
	it, err := r.rawReader.Iterate()
	if err != nil {
		return nil, blameBase(err, r.path)
	}
	return baseIterator{it, r.path}, nil
}

type baseIterator struct {
	span.Iterator
	path string
}

// Value implements span.Iterator.
func (i baseIterator) Value() ([]byte, error) {
	v, err := i.Iterator.Value()
	return v, blameBase(err, i.path)
}

// Err implements span.Iterator.
func (i baseIterator) Err() error { return blameBase(i.Iterator.Err(), i.path) }

func blameBase(err error, path string) error {
	if !fault.Is(err, fault.Corrupt) {
		return err
	}
	return fault.New(fault.Corrupt, "read the old directory", err).At(path).
		WithHint("pull without it, or name another one; cfseed verify --data-dir %s says more", path)
}
