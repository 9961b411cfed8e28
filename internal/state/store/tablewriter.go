package store

import (
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/chainfire/cfseed/internal/fault"
)

// TableWriter writes the table that a store would have written of the same
// records: the same bytes, as long as both are of one version. It is for one
// goroutine, but for what it is given to write to.
type TableWriter struct {
	w      sstable.RawWriter
	pinned [3]uint64
	limit  uint64 // bytes; 0: none
	out    *tableOutput
	err    error
}

// NewTableWriter begins a table of a format that TableShape names. What is
// written goes to out, in order, in pieces that out must not keep; its error ends
// the table. out is called from another goroutine at times, but never by two at
// once, and not after Close or Abort, one of which the caller calls. A format that
// this program does not write is fault.Refused. What is not written yet is in memory,
// and may be much of a table: one that takes more than limit bytes, written or not,
// is fault.Refused; limit 0 is none.
func NewTableWriter(out func(p []byte) error, s TableShape, limit uint64) (*TableWriter, error) {
	w, err := Options{}.withDefaults().newTableWriter(out, s)
	if err == nil {
		w.limit = limit
	}
	return w, err
}

func (o Options) newTableWriter(out func(p []byte) error, s TableShape) (*TableWriter, error) {
	format := sstable.TableFormat(s.Format)
	if s.Format > uint32(FormatMajorVersion.MaxTableFormat()) || format < FormatMajorVersion.MinTableFormat() {
		return nil, fault.Newf(fault.Refused, "write table", "a table of format %d, this program writes up to %d",
			s.Format, uint32(FormatMajorVersion.MaxTableFormat()))
	}
	p := &pebble.Options{}
	o.shapeTables(p)
	p.EnsureDefaults()
	w := &TableWriter{pinned: s.Pinned, out: &tableOutput{write: out}}
	w.w = sstable.NewRawWriter(w.out, p.MakeWriterOptions(0, format))
	return w, nil
}

// Add adds a record, after all those before it: by key, and for one key by
// sequence number downwards. Another order, and a kind that is none of a record,
// is fault.Refused.
func (w *TableWriter) Add(kind uint8, seq uint64, key, value []byte) (err error) {
	if w.err == nil {
		w.err = w.out.failure() // Pebble tells of it at the end
	}
	if w.err != nil {
		return w.err
	}
	defer w.rescue(&err)
	k := pebble.MakeInternalKey(key, pebble.SeqNum(seq), pebble.InternalKeyKind(kind))
	if err := w.w.Add(k, value, false); err != nil {
		w.err = w.failed(err)
	} else if n := w.w.EstimatedSize(); w.limit > 0 && n > w.limit {
		w.err = fault.Newf(fault.Refused, "write table", "it has %d bytes by now, at most %d are wanted", n, w.limit)
	}
	return w.err
}

// Close writes what is left. The table is whole once it gives nil.
func (w *TableWriter) Close() (err error) {
	if w.err != nil {
		w.Abort()
		return w.err
	}
	defer w.rescue(&err)
	if w.pinned != [3]uint64{} {
		w.w.SetSnapshotPinnedProperties(w.pinned[0], w.pinned[1], w.pinned[2])
	}
	if err := w.w.Close(); err != nil {
		w.err = w.failed(err)
		return w.err
	}
	w.err = fault.Newf(fault.Usage, "write table", "it is closed")
	return nil
}

// Abort ends a table that is not wanted. Nothing is written any more.
func (w *TableWriter) Abort() {
	var err error
	defer w.rescue(&err)
	w.out.fail(errStopped)
	_ = w.w.Close() // waits for the goroutine that writes
}

func (w *TableWriter) failed(err error) error {
	if err := w.out.failure(); err != nil {
		return err
	}
	return fault.New(fault.Refused, "write table", err)
}

// rescue makes of a panic about what was added an error.
func (w *TableWriter) rescue(err *error) {
	if r := recover(); r != nil {
		w.err = fault.Newf(fault.Refused, "write table", "%v", r)
		*err = w.err
	}
}

// errStopped ends a table whose rest is not wanted.
var errStopped = errors.New("the table is not wanted any more")

// tableOutput is where Pebble writes a table to.
type tableOutput struct {
	write func([]byte) error

	mu  sync.Mutex
	err error // the first
}

func (o *tableOutput) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *tableOutput) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
}

// Write implements objstorage.Writable.
func (o *tableOutput) Write(p []byte) error {
	if err := o.failure(); err != nil {
		return err
	}
	if err := o.write(p); err != nil {
		o.fail(err)
	}
	return o.failure()
}

// Finish implements objstorage.Writable.
func (o *tableOutput) Finish() error { return o.failure() }

// Abort implements objstorage.Writable.
func (o *tableOutput) Abort() {}
