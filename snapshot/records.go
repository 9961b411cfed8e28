package snapshot

import (
	"errors"
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
	defer func() { err = errors.Join(err, it.Close()) }()
	return fn(span.NewWalk(it), it)
}
