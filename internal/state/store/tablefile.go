package store

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// TableFile is one table of a store, read record by record as it is on disk:
// every version with its kind and sequence number, without what they mean. Its
// methods are for one goroutine.
type TableFile struct {
	path  string
	in    *tableInput
	r     *sstable.Reader
	props sstable.Properties
}

// TableShape is what a table says of itself.
type TableShape struct {
	// Plain: it holds records alone, each with its value, and TableWriter can
	// write it from these.
	Plain   bool
	Records uint64
	Format  uint32
	Pinned  [3]uint64 // kept for older readers: records, bytes of keys, bytes of values
}

// OpenTable opens a table, to be closed. One that can not be read as a table is
// fault.Corrupt, one that is not there has os.ErrNotExist.
func OpenTable(ctx context.Context, fs vfs.FS, path string) (_ *TableFile, err error) {
	t := &TableFile{path: path}
	f, err := fs.Open(path, vfs.RandomReadsOption)
	if err != nil {
		return nil, fault.New(fault.Internal, "open table", err).At(path)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.Internal, "open table", errors.Join(err, f.Close())).At(path)
	}
	t.in = &tableInput{f: f, size: info.Size()}
	readable, err := sstable.NewSimpleReadable(t.in)
	if err != nil {
		return nil, fault.New(fault.Internal, "open table", errors.Join(err, f.Close())).At(path)
	}
	o := &pebble.Options{}
	Options{}.withDefaults().shapeTables(o)
	o.EnsureDefaults()
	defer func() {
		if err != nil {
			_ = t.in.Close() // the reason counts
		}
	}()
	defer t.rescue(&err)
	if t.r, err = sstable.NewReader(ctx, readable, o.MakeReaderOptions()); err != nil {
		return nil, t.failed(err)
	}
	if t.props, err = t.r.ReadPropertiesBlock(ctx, nil); err != nil {
		return nil, t.failed(err)
	}
	return t, nil
}

// Shape is what the table says of itself.
func (t *TableFile) Shape() (TableShape, error) {
	format, err := t.r.TableFormat()
	if err != nil {
		return TableShape{}, t.failed(err)
	}
	p := &t.props
	return TableShape{
		// What is deleted is marked in another way at the lowest level, where it
		// stays only for the sake of an older reader; the table does not say its level.
		Plain: p.NumRangeDeletions == 0 && p.NumRangeKeys() == 0 && p.NumValuesInBlobFiles == 0 &&
			(p.SnapshotPinnedKeys == 0 || p.NumDeletions == 0) && p.NumEntries > 0,
		Records: p.NumEntries,
		Format:  uint32(format),
		Pinned:  [3]uint64{p.SnapshotPinnedKeys, p.SnapshotPinnedKeySize, p.SnapshotPinnedValueSize},
	}, nil
}

// Bounds gives the first and the last key of the records, nil when there is none.
func (t *TableFile) Bounds() (smallest, largest []byte, err error) {
	it, err := t.Records()
	if err != nil {
		return nil, nil, err
	}
	if it.First() {
		smallest = append([]byte{}, it.Key()...)
		if it.Last() {
			largest = append([]byte{}, it.Key()...)
		}
	}
	err = it.Err()
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return smallest, largest, err
}

// Extent is about how many bytes of the file hold the records from key lo to hi.
func (t *TableFile) Extent(lo, hi []byte) (n uint64, err error) {
	defer t.rescue(&err)
	if n, err = t.r.EstimateDiskUsage(lo, hi, sstable.NoReadEnv); err != nil {
		return 0, t.failed(err)
	}
	return n, nil
}

// BytesRead is how many bytes of the file have been read.
func (t *TableFile) BytesRead() int64 { return t.in.read.Load() }

// Close closes the file. No iterator may be open.
func (t *TableFile) Close() error {
	if err := t.r.Close(); err != nil {
		return fault.New(fault.Internal, "close table", err).At(t.path)
	}
	return nil
}

// failed gives err its class: what is wrong with the bytes is fault.Corrupt, what
// keeps them from being read is not.
func (t *TableFile) failed(err error) error {
	code := fault.Corrupt
	if t.in.failed.Load() && !pebble.IsCorruptionError(err) {
		code = fault.Internal
	}
	return fault.New(code, "read table", err).At(t.path)
}

// rescue makes of a panic about the bytes of the table an error.
func (t *TableFile) rescue(err *error) {
	if r := recover(); r != nil {
		*err = fault.Newf(fault.Corrupt, "read table", "%v", r).At(t.path)
	}
}

// Records gives an iterator over the table, to be closed before it.
func (t *TableFile) Records() (i *TableIterator, err error) {
	defer t.rescue(&err)
	i = &TableIterator{t: t}
	i.pool.Init(tableBlocks)
	it, err := t.r.NewPointIter(context.Background(), sstable.IterOptions{
		Transforms:           sstable.NoTransforms,
		FilterBlockSizeLimit: sstable.NeverUseFilterBlock,
		Env:                  i.env(),
		ReaderProvider:       sstable.MakeTrivialReaderProvider(t.r),
		BlobContext:          sstable.AssertNoBlobHandles,
	})
	if err != nil {
		return nil, t.failed(err)
	}
	i.it = it
	return i, nil
}

// tableBlocks is how many blocks of a table an iterator holds at a time, about.
const tableBlocks = 6

// TableIterator gives the records of a table in order: by key, and those of one
// key newest first. What it gives is valid until the next move.
type TableIterator struct {
	t     *TableFile
	it    sstable.Iterator
	pool  sstable.BufferPool
	key   pebble.InternalKey
	value pebble.LazyValue
	buf   []byte
	err   error
}

func (i *TableIterator) env() (e sstable.ReadEnv) {
	e.Block.BufferPool = &i.pool
	return e
}

// First moves to the first record. False: there is none, or Err tells why.
func (i *TableIterator) First() (ok bool) {
	defer i.t.rescue(&i.err)
	kv := i.it.First()
	if kv == nil {
		return i.end()
	}
	i.key, i.value = kv.K, kv.LazyValue()
	return true
}

// Last moves to the last record.
func (i *TableIterator) Last() (ok bool) {
	defer i.t.rescue(&i.err)
	kv := i.it.Last()
	if kv == nil {
		return i.end()
	}
	i.key, i.value = kv.K, kv.LazyValue()
	return true
}

// SeekGE moves to the first record whose key is not less than key.
func (i *TableIterator) SeekGE(key []byte) (ok bool) {
	defer i.t.rescue(&i.err)
	kv := i.it.SeekGE(key, 0)
	if kv == nil {
		return i.end()
	}
	i.key, i.value = kv.K, kv.LazyValue()
	return true
}

// Next moves to the next record. It may be called only after a move that gave
// true.
func (i *TableIterator) Next() (ok bool) {
	defer i.t.rescue(&i.err)
	kv := i.it.Next()
	if kv == nil {
		return i.end()
	}
	i.key, i.value = kv.K, kv.LazyValue()
	return true
}

func (i *TableIterator) end() bool {
	if err := i.it.Error(); err != nil && i.err == nil {
		i.err = i.t.failed(err)
	}
	return false
}

// Key is the key of the record.
func (i *TableIterator) Key() []byte { return i.key.UserKey }

// Kind is the record's kind, numbered as Pebble does.
func (i *TableIterator) Kind() uint8 { return uint8(i.key.Kind()) }

// Seq is its sequence number.
func (i *TableIterator) Seq() uint64 { return uint64(i.key.SeqNum()) }

// Value is its value.
func (i *TableIterator) Value() (v []byte, err error) {
	if i.value.Fetcher == nil {
		return i.value.ValueOrHandle, nil
	}
	defer i.t.rescue(&err)
	v, owned, err := i.value.Value(i.buf)
	if err != nil {
		return nil, i.t.failed(err)
	}
	if owned {
		i.buf = v[:0]
	}
	return v, nil
}

// Err says why there was no record, nil at the end.
func (i *TableIterator) Err() error { return i.err }

// Close ends the iterator.
func (i *TableIterator) Close() (err error) {
	defer i.t.rescue(&err)
	if err := i.it.Close(); err != nil {
		return i.t.failed(err)
	}
	i.pool.Release()
	return nil
}

// ReadAhead is how many bytes of a table are read at a time where it is read in
// order.
const readAhead = 128 << 10

// tableInput reads a file ahead, since Pebble asks for one block at a time, and
// counts.
type tableInput struct {
	f      vfs.File
	size   int64
	buf    []byte
	at     int64 // where buf begins
	next   int64 // where a read in order would begin
	closed bool
	read   atomic.Int64
	failed atomic.Bool
}

// ReadAt implements sstable.ReadableFile. It is not for several goroutines.
func (i *tableInput) ReadAt(p []byte, off int64) (int, error) {
	if off >= i.at && off+int64(len(p)) <= i.at+int64(len(i.buf)) {
		i.next = off + int64(len(p))
		return copy(p, i.buf[off-i.at:]), nil
	}
	inOrder := off == i.next && off > 0
	i.next = off + int64(len(p))
	if !inOrder || len(p) >= readAhead {
		return i.fill(p, off)
	}
	if i.buf == nil {
		i.buf = make([]byte, 0, readAhead)
	}
	want := max(min(readAhead, i.size-off), 0)
	n, err := i.fill(i.buf[:want], off)
	i.buf, i.at = i.buf[:n], off
	if n >= len(p) {
		return copy(p, i.buf), nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return copy(p, i.buf), err
}

func (i *tableInput) fill(p []byte, off int64) (int, error) {
	n, err := i.f.ReadAt(p, off)
	i.read.Add(int64(n))
	if err == io.EOF && n == len(p) { //nolint:errorlint // as io.ReaderAt has it
		err = nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		i.failed.Store(true)
	}
	return n, err
}

// Stat implements sstable.ReadableFile.
func (i *tableInput) Stat() (vfs.FileInfo, error) { return i.f.Stat() }

// Close implements sstable.ReadableFile. What Pebble has closed is closed.
func (i *tableInput) Close() error {
	if i.closed {
		return nil
	}
	i.closed = true
	return i.f.Close()
}
