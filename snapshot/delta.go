package snapshot

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/span"
)

// Names below staging/ that a delta uses; gone once it is closed and its seed
// removed.
const (
	deltaScratch = "delta"
	deltaWork    = "work"  // the base, on its way to the new state
	deltaSeed    = "seed"  // what Build gives
	deltaSpans   = "spans" // the list of the source
)

// SpanSource is a source that can compare its records. fn's slices are valid
// during the call.
type SpanSource interface {
	// List gives all spans, or up to spans of them after each of some keys.
	List(ctx context.Context, after [][]byte, spans int, fn func(span.Span) error) error
	// Diff answers a request, span by span.
	Diff(ctx context.Context, req *span.Request, compare func(a, b []byte) int, fn func(span.Change) error) error
}

// Delta makes a seed out of the state of a member that does not run, the base,
// and the records in which a source's seed differs. The base is only read: its
// tables are linked or copied to staging/ of the new directory. It is used by one
// goroutine, under the directory's lock.
type Delta struct {
	fs      vfs.FS
	dir     string
	from    string // the base
	raw     *store.Raw
	shared  bool // tables are links to those of the base
	cluster ident.Cluster
	ahead   Progress
}

// Progress hears how much of what differs is there, of spans.
type Progress func(done, total uint64)

// OpenDelta begins a delta from base, the data directory of a member that does
// not run, into the directory d; what an earlier one left in staging/ is removed.
// Errors are those of FromStopped.
func OpenDelta(ctx context.Context, d *datadir.Dir, base string, p Progress) (_ *Delta, err error) {
	fs := d.FS()
	delta := &Delta{fs: fs, dir: fs.PathJoin(d.Staging(), deltaScratch), from: base, ahead: p}
	if err := removeAll(fs, delta.dir); err != nil {
		return nil, err
	}
	if err := datadir.MkdirAllSynced(fs, delta.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(fs, delta.dir))
		}
	}()
	work := fs.PathJoin(delta.dir, deltaWork)
	if delta.cluster, delta.shared, err = copyStopped(ctx, fs, base, work); err != nil {
		return nil, err
	}
	if delta.raw, err = openRaw(work, store.Options{FS: fs}); err != nil { // replays the base's write-ahead log
		return nil, blameBase(err, base)
	}
	return delta, nil
}

// base reads the copy of the base, as it is by now.
func (d *Delta) base() baseReader { return baseReader{rawReader{d.raw}, d.from} }

// Close ends the use of the base's copy and removes it. A seed that Build gave
// stays.
func (d *Delta) Close() error {
	if d.raw == nil {
		return nil
	}
	err := d.raw.Close()
	d.raw = nil
	for _, name := range []string{deltaWork, deltaSpans} {
		err = errors.Join(err, removeAll(d.fs, d.fs.PathJoin(d.dir, name)))
	}
	return err
}

// How much of the source's records a look compares.
const (
	sampleBytes  = 4 << 20 // altogether, about
	sampleSpans  = 256     // at most
	sampleStarts = 32      // at most
	sampleKey    = 1 << 10 // bytes of a key to begin after
)

// DeltaSample is what a look at some of the records found.
type DeltaSample struct {
	Compared  uint64 // bytes of the source's records that were looked at
	Differ    int    // spans of these that differ ...
	Spans     int    // ... of so many
	Base      uint64 // bytes of all records of the base, about
	BaseFiles uint64 // bytes of its files
}

// Sample compares some spans, spread over the base, all the way to the records
// that differ, which it leaves as they are: what that moves, of what it compared,
// is what the whole would.
func (d *Delta) Sample(ctx context.Context, src SpanSource) (DeltaSample, error) {
	extent, err := d.raw.Extent()
	if err != nil {
		return DeltaSample{}, err
	}
	found := DeltaSample{Base: extent.Bytes, BaseFiles: extent.DiskBytes}
	starts := [][]byte{nil}
	extent.Firsts = slices.DeleteFunc(extent.Firsts, func(key []byte) bool { return len(key) > sampleKey })
	for i := range min(len(extent.Firsts), sampleStarts-1) {
		starts = append(starts, extent.Firsts[i*len(extent.Firsts)/min(len(extent.Firsts), sampleStarts-1)])
	}
	record := extent.Bytes / max(extent.Records, 1)
	each := max(min(sampleSpans, sampleBytes/int(max(span.Bytes, record)))/len(starts), 1)
	var req span.Request
	err = withWalk(d.base(), func(w *span.Walk, _ span.Iterator) error {
		list, n := 0, 0 // the list of spans that goes on, and how many of it came
		var after []byte
		return src.List(ctx, starts, each, func(s span.Span) error {
			if n == 0 {
				if list == len(starts) {
					return fault.Newf(fault.Corrupt, "compare records", "more lists than were asked for")
				}
				after = slices.Clone(starts[list])
				w.SeekAfter(after)
			}
			found.Spans++
			found.Compared += s.Bytes
			differs, err := ask(w, after, s, &req)
			if differs {
				found.Differ++
			}
			after = append(after[:0], s.End...)
			if n++; n == each || len(s.End) == 0 {
				list, n = list+1, 0
			}
			return err
		})
	})
	if err != nil || req.Len() == 0 {
		return found, err
	}
	return found, src.Diff(ctx, &req, store.Comparer().Compare, func(span.Change) error { return nil })
}

// ask compares the span that w stands at with the source's and, if they differ,
// adds it to the request.
func ask(w *span.Walk, after []byte, s span.Span, req *span.Request) (differs bool, err error) {
	var hashes []uint32
	have, err := w.To(s.End, func(r span.Record) error {
		if len(hashes) <= span.MaxHashes {
			hashes = append(hashes, r.Hash)
		}
		return nil
	})
	if err != nil || have.Same(s) {
		return false, err
	}
	if len(hashes) > span.MaxHashes {
		hashes = nil // all of the source's records, then
	}
	req.Add(after, s.End, hashes)
	return true, nil
}

// Build brings the copy of the base to the records of the source's seed, which m
// describes, and captures it: a seed of its own, with other files. Its records
// were compared with the source's, all of them. After an error it may be called
// again, with the same source or another.
func (d *Delta) Build(ctx context.Context, src SpanSource, m *manifest.Manifest) (*Seed, error) {
	if !d.cluster.Same(m.Cluster) {
		return nil, fault.Newf(fault.Refused, "build state", "the base is of cluster %s, the seed of cluster %s",
			ident.FormatID(d.cluster.ID), ident.FormatID(m.Cluster.ID))
	}
	differ, err := d.list(ctx, src, m.TotalBytes()+listRoom)
	if err != nil {
		return nil, err
	}
	if err := d.apply(ctx, src, differ, false); err != nil {
		return nil, err
	}
	seed, differ, err := d.prove(ctx)
	if err == nil && differ.count > 0 { // two records of one hash; rare
		if err := seed.Remove(); err != nil {
			return nil, err
		}
		if err := d.apply(ctx, src, differ, true); err != nil {
			return nil, err
		}
		seed, differ, err = d.prove(ctx)
	}
	if err != nil {
		return nil, err
	}
	if differ.count > 0 {
		err = fault.Newf(fault.Corrupt, "build state", "%d of %d spans differ from the source's", differ.count, differ.total).
			WithHint("take the files instead: --delta-by files")
	} else {
		err = sameState(seed.m, m)
	}
	if err != nil {
		return nil, errors.Join(err, seed.Remove())
	}
	return seed, nil
}

// spanSet says which spans of a list are meant: a bit for each.
type spanSet struct {
	bits         []uint64
	total, count uint64
}

func (s *spanSet) add(in bool) {
	if s.total%64 == 0 {
		s.bits = append(s.bits, 0)
	}
	if in {
		s.bits[s.total/64] |= 1 << (s.total % 64)
		s.count++
	}
	s.total++
}

func (s *spanSet) has(i uint64) bool { return s.bits[i/64]&(1<<(i%64)) != 0 }

// listRoom is by how many bytes a list may exceed the files of its seed. It takes
// 40 bytes for 64 records, so one that does is none.
const listRoom = 4 << 20

// list keeps the source's list of spans, of limit bytes at most, and says which
// of them differ here.
func (d *Delta) list(ctx context.Context, src SpanSource, limit uint64) (differ spanSet, err error) {
	path := d.fs.PathJoin(d.dir, deltaSpans)
	f, err := d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return differ, failure("keep spans", path, err)
	}
	out := bufio.NewWriterSize(f, 64<<10)
	open, compare := false, store.Comparer().Compare
	err = withWalk(d.base(), func(w *span.Walk, _ span.Iterator) error {
		var before, encoded []byte
		var bytes uint64
		return src.List(ctx, nil, 0, func(s span.Span) error {
			if open || len(s.End) > 0 && len(before) > 0 && compare(s.End, before) <= 0 {
				return fault.Newf(fault.Corrupt, "compare records", "the spans are not in order")
			}
			encoded = s.Append(encoded[:0], before)
			if bytes += uint64(len(encoded)); bytes > limit {
				return fault.Newf(fault.Corrupt, "compare records", "a list of more than %d bytes", limit)
			}
			if _, err := out.Write(encoded); err != nil {
				return failure("keep spans", path, err)
			}
			have, err := w.To(s.End, nil)
			differ.add(!have.Same(s))
			before, open = append(before[:0], s.End...), len(s.End) == 0
			return err
		})
	})
	if ferr := errors.Join(out.Flush(), f.Close()); err == nil && ferr != nil {
		err = failure("keep spans", path, ferr)
	}
	if err == nil && !open {
		err = fault.Newf(fault.Corrupt, "compare records", "the list of spans has no end")
	}
	return differ, err
}

// spans reads the list back.
func (d *Delta) spans(fn func(i uint64, after []byte, s span.Span) error) (err error) {
	path := d.fs.PathJoin(d.dir, deltaSpans)
	f, err := d.fs.Open(path)
	if err != nil {
		return failure("read spans", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	var list span.ListReader
	var i uint64
	var after []byte
	buf := make([]byte, chunk.Size/16)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := list.Feed(buf[:n], func(s span.Span) error {
				err := fn(i, after, s)
				after = append(after[:0], s.End...)
				i++
				return err
			}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failure("read spans", path, err)
		}
	}
}
