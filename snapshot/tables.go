package snapshot

import (
	"context"
	"errors"
	"os"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// How much is gathered before it is handed on, in bytes of the stream and of the
// table that was read for it.
const (
	emitBytes = 64 << 10
	emitRead  = 1 << 20
)

// DescribeTables says of files of the seed, by their index in the manifest, how
// each can be listed. A file that the seed does not have is fault.Usage, one that
// is no table can not be listed; other errors are ReadChunk's.
func (s *Seed) DescribeTables(ctx context.Context, files []int) ([]record.Table, error) {
	out := make([]record.Table, 0, len(files))
	for _, file := range files {
		t, err := s.describe(ctx, file)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (s *Seed) describe(ctx context.Context, file int) (d record.Table, err error) {
	d = record.Table{File: file}
	if file >= 0 && file < len(s.m.Files) && s.m.Files[file].Kind != manifest.KindTable {
		return d, nil
	}
	t, err := s.openTable(ctx, file)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	shape, err := t.Shape()
	if err != nil || !shape.Plain || shape.Records > record.MaxRecords {
		return d, err
	}
	smallest, largest, err := t.Bounds()
	if err != nil || len(smallest) > record.MaxKey || len(largest) > record.MaxKey {
		return d, err
	}
	return record.Table{
		File: file, Listable: true, Records: shape.Records, Smallest: smallest, Largest: largest,
		Format: shape.Format, Pinned: shape.Pinned,
	}, nil
}

// ListRecords lists the records of one table. emit gets the stream piece by piece,
// each valid during the call, and how many bytes of the table were read since the
// call before; a piece may be empty. Its error ends the list. A table that can not
// be listed is fault.Refused.
func (s *Seed) ListRecords(ctx context.Context, file int, emit func(b []byte, read int) error) error {
	var w record.ListWriter
	e := emitter{emit: emit}
	err := s.eachRecord(ctx, file, &e, func(_ uint64, it *store.TableIterator) error {
		key, kind := it.Key(), it.Kind()
		value, err := it.Value()
		if err != nil {
			return err
		}
		if !record.KnownKind(kind) || len(key) > record.MaxKey || len(value) > record.MaxValue {
			return fault.Newf(fault.Refused, "list records", "a record of kind %d with %d and %d bytes", kind, len(key), len(value)).
				At(s.m.Files[file].Name).WithHint("the table travels as a file")
		}
		e.b = w.Add(e.b, record.Listed{Hash: record.Hash(kind, key, value), Kind: kind, Seq: it.Seq()})
		return nil
	})
	if err != nil {
		return err
	}
	e.b = w.Flush(e.b)
	return e.flush()
}

// PickRecords gives the records of one table that are wanted; emit is as for
// ListRecords. What is wanted of a table with another number of records is
// fault.Usage.
func (s *Seed) PickRecords(ctx context.Context, file int, wanted record.Wanted, emit func(b []byte, read int) error) error {
	var w record.AnswerWriter
	e := emitter{emit: emit}
	left := wanted.Count()
	err := s.eachRecord(ctx, file, &e, func(i uint64, it *store.TableIterator) error {
		if i == 0 && e.records != wanted.Records() {
			return fault.Newf(fault.Usage, "pick records", "of a table with %d records, not %d", wanted.Records(), e.records)
		}
		if left == 0 {
			return errEnough
		}
		if !wanted.Has(i) {
			return nil
		}
		left--
		value, err := it.Value()
		if err != nil {
			return err
		}
		if len(it.Key()) > record.MaxKey || len(value) > record.MaxValue {
			return fault.Newf(fault.Refused, "pick records", "a record of %d and %d bytes", len(it.Key()), len(value)).At(s.m.Files[file].Name)
		}
		e.b = w.Append(e.b, it.Key(), value)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return e.flush()
}

// errEnough ends a walk of which the rest is not needed.
var errEnough = errors.New("enough")

// emitter hands on a stream in pieces.
type emitter struct {
	emit    func(b []byte, read int) error
	b       []byte
	records uint64 // of the table
	table   *store.TableFile
	told    int64 // bytes read that emit knows of
}

func (e *emitter) flush() error {
	read := e.table.BytesRead()
	err := e.emit(e.b, int(read-e.told))
	e.b, e.told = e.b[:0], read
	if cap(e.b) > 16*emitBytes {
		e.b = nil
	}
	return err
}

// eachRecord reads a table from its first record on, and flushes e now and then.
func (s *Seed) eachRecord(ctx context.Context, file int, e *emitter, fn func(i uint64, it *store.TableIterator) error) (err error) {
	t, err := s.openTable(ctx, file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	shape, err := t.Shape()
	if err != nil {
		return err
	}
	if !shape.Plain || shape.Records > record.MaxRecords {
		return fault.Newf(fault.Refused, "list records", "the table can not be listed").At(s.m.Files[file].Name)
	}
	e.table, e.records = t, shape.Records
	it, err := t.Records()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var n uint64
	for ok := it.First(); ok; ok = it.Next() {
		if n == shape.Records {
			return fault.Newf(fault.Corrupt, "list records", "more than the %d records it should have", n).At(s.m.Files[file].Name)
		}
		if err := fn(n, it); err != nil {
			return err
		}
		if n++; len(e.b) >= emitBytes || t.BytesRead()-e.told >= emitRead {
			if err := ctx.Err(); err != nil {
				return failure("list records", s.dir, err)
			}
			if err := e.flush(); err != nil {
				return err
			}
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	if n != shape.Records {
		return fault.Newf(fault.Corrupt, "list records", "%d records, it should have %d", n, shape.Records).At(s.m.Files[file].Name)
	}
	return nil
}

// openTable opens a table of the seed; errors are ReadChunk's.
func (s *Seed) openTable(ctx context.Context, file int) (*store.TableFile, error) {
	const op = "read table"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, s.dir, err)
	}
	if file < 0 || file >= len(s.m.Files) || s.m.Files[file].Kind != manifest.KindTable {
		return nil, fault.Newf(fault.Usage, op, "the seed has no table %d", file)
	}
	path := s.fs.PathJoin(s.dir, s.m.Files[file].Name)
	t, err := store.OpenTable(ctx, s.fs, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.LeaseLost, op, err).At(path).WithHint("the seed is no longer kept here; start again")
	}
	return t, err
}
