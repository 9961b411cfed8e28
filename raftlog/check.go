package raftlog

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Finding is one thing wrong with a log on disk.
type Finding struct {
	Code   fault.Code
	Path   string
	Detail string
}

// Info sums a log up.
type Info struct {
	TruncatedTo ident.Position
	Last        ident.Position    // of the last entry; TruncatedTo when there is none
	HardState   *raftpb.HardState // nil: never written
	State       uint64            // the current state-<n>
	Bytes       uint64            // of all entries
}

// Check reads the log in dir, of a node that does not run, and lists what is
// wrong with it: nothing, for a log that Open accepts. It writes nothing
// beyond the store's lock file. An error means that the check could not be
// made.
func Check(dir string, o Options) ([]Finding, error) {
	_, found, err := Inspect(dir, o)
	return found, err
}

// Inspect is Check with a summary, which is meaningful only when there are no
// findings.
func Inspect(dir string, o Options) (Info, []Finding, error) {
	latch := newLatch()
	db, err := openStore(dir, o, latch, true)
	if err == nil {
		var ld *loader
		if ld, err = load(db, o); err == nil {
			err = latch.Err()
		}
		cerr := closeStore(db)
		if err == nil {
			return ld.report(dir, cerr)
		}
		err = openError(dir, err)
	}
	if fault.Is(err, fault.Corrupt) {
		return Info{}, []Finding{{Code: fault.Corrupt, Path: dir, Detail: err.Error()}}, nil
	}
	return Info{}, nil, err
}

func (ld *loader) report(dir string, err error) (Info, []Finding, error) {
	if err != nil {
		return Info{}, nil, openError(dir, err)
	}
	if ld.fresh {
		ld.finding("the log holds nothing, not even its format")
	}
	for i := range ld.found {
		ld.found[i].Path = dir
	}
	s := &ld.s
	return Info{
		TruncatedTo: s.trunc,
		Last:        ident.Position{Term: s.lastTerm(), Index: s.last()},
		HardState:   s.hard.proto(),
		State:       s.state,
		Bytes:       s.bytesAfter(0),
	}, ld.found, nil
}

// closeStore closes Pebble, which panics when an iterator was leaked.
func closeStore(db *pebble.DB) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.Join(err, pebble.ErrCorruption)
		}
	}()
	return db.Close()
}
