package snapshot

import (
	"context"
	"errors"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// RecordSource is a source that lists the records of its seed's tables; fn gets
// the pieces of the stream, each valid during the call, and its error ends it.
type RecordSource interface {
	Describe(ctx context.Context, files []int) ([]record.Table, error)
	List(ctx context.Context, file int, fn func(piece []byte) error) error
	Pick(ctx context.Context, file int, wanted record.Wanted, fn func(piece []byte) error) error
}

// What a table that was not made lacks. It is fetched as a file instead, and
// nothing else is wrong.
var (
	// ErrNotAlike: the table that came out is another one, as of a source whose
	// version writes tables in another way. Others will differ as well.
	ErrNotAlike = errors.New("what was made of records is not the table")
	// ErrBase: the base's own files can not be read. The error names the base; what
	// is damaged is not used again.
	ErrBase = errors.New("the old directory can not be read")
)

// Memory that may be taken by tables being made, in bytes.
const (
	makeBytes   = 64 << 20
	recordBytes = 24 // of each record of a list

	// Blocks of a table that are not written yet are not packed either.
	writerSlack = 4 << 20
)

// Make makes one of the Missing tables of records, those that the base has within
// the table's keys and those that src is asked for, and stages it chunk by chunk
// as it is written, each compared with the manifest; stored, which may be nil,
// hears how many bytes, and made is how many it were. Different tables may be made
// at once; memory for large ones is waited for.
//
// ErrNotAlike, ErrBase: see there. What src sends and was not asked for, or what
// is not what it listed, is fault.Corrupt, a table that can not be listed
// fault.Refused. Errors of src and of the stage are given as they are.
func (m *Match) Make(ctx context.Context, t record.Table, src RecordSource, stored func(n int)) (made uint64, err error) {
	if err := m.check(t); err != nil {
		return 0, err
	}
	weight := min(int64(t.Records*recordBytes+m.s.m.Files[t.File].Size), makeBytes)
	if err := m.room.Acquire(ctx, weight); err != nil {
		return 0, failure("make table", m.s.path(t.File), err)
	}
	defer m.room.Release(weight)
	mk := &maker{m: m, ctx: ctx, t: t}
	for _, b := range m.tables {
		if b.overlaps(t.Smallest, t.Largest) {
			mk.tables = append(mk.tables, b)
		}
	}
	if err := mk.fetchList(src); err != nil {
		return 0, err
	}
	if err := mk.match(); err != nil {
		return 0, err
	}
	out := &cutter{s: m.s, file: t.File, stored: stored}
	err = mk.write(src, out)
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.reused += out.made
	return out.made, err
}

// check refuses what is not a description of a table of the seed.
func (m *Match) check(t record.Table) error {
	const op = "make table"
	if t.File < 0 || t.File >= len(m.s.m.Files) || m.s.m.Files[t.File].Kind != manifest.KindTable {
		return fault.Newf(fault.Corrupt, op, "the seed has no table %d", t.File)
	}
	if !t.Listable {
		return fault.Newf(fault.Refused, op, "it can not be listed").At(m.s.m.Files[t.File].Name)
	}
	if size := m.s.m.Files[t.File].Size; size > makeBytes {
		return fault.Newf(fault.Refused, op, "a table of %d bytes, of which all may have to be kept in memory", size).At(m.s.m.Files[t.File].Name)
	}
	if t.Records == 0 || t.Records > record.MaxRecords || len(t.Smallest) > record.MaxKey || len(t.Largest) > record.MaxKey ||
		store.Comparer().Compare(t.Smallest, t.Largest) > 0 {
		return fault.Newf(fault.Corrupt, op, "a table of %d records with keys of %d and %d bytes", t.Records, len(t.Smallest), len(t.Largest)).
			At(m.s.m.Files[t.File].Name)
	}
	return nil
}

// maker makes one table.
type maker struct {
	m      *Match
	ctx    context.Context
	t      record.Table
	tables []*baseTable // of the base, within the table's keys
	list   *listing
	used   bitSet // records of the walk over the base that the table has

	w      *store.TableWriter
	walk   *walk
	walked int // records of the walk so far
	next   int // record of the list
}

// fetchList gets the list of the table's records.
func (k *maker) fetchList(src RecordSource) error {
	k.list = newListing(k.t.Records)
	var in record.ListReader
	var own error
	err := src.List(k.ctx, k.t.File, func(piece []byte) error {
		own = in.Feed(piece, func(r record.Listed) error {
			if uint64(len(k.list.hashes)) == k.t.Records {
				return k.wrong("a list of more than %d records", k.t.Records)
			}
			k.list.add(r)
			return nil
		})
		return own
	})
	if own != nil {
		return own
	}
	if err != nil {
		return err
	}
	if n := uint64(len(k.list.hashes)); n != k.t.Records || !in.Whole() {
		return k.wrong("a list of %d records, of %d", n, k.t.Records)
	}
	return nil
}

// match finds the records of the list that the base has.
func (k *maker) match() (err error) {
	w := k.newWalk()
	defer func() { err = k.blame(errors.Join(err, w.close())) }()
	found := newMatcher(k.list)
	for {
		it, err := w.next()
		if err != nil {
			return err
		}
		if it == nil {
			k.used, k.list.slots = found.used, nil
			return nil
		}
		value, err := it.Value()
		if err != nil {
			return w.blame(w.heads[0].from, err)
		}
		found.see(record.Hash(it.Kind(), it.Key(), value))
	}
}

func (k *maker) newWalk() *walk {
	return newWalk(k.ctx, k.m.base.fs, k.tables, k.t.Smallest, k.t.Largest)
}

// write asks for the records that the base does not have, and writes the table.
func (k *maker) write(src RecordSource, out *cutter) (err error) {
	shape := store.TableShape{Format: k.t.Format, Pinned: k.t.Pinned}
	if k.w, err = store.NewTableWriter(out.write, shape, 2*k.m.s.m.Files[k.t.File].Size+writerSlack); err != nil {
		return err
	}
	k.walk = k.newWalk()
	err = k.records(src)
	if err == nil {
		err = k.w.Close()
	} else {
		k.w.Abort()
	}
	if err == nil {
		err = out.finish()
	}
	if cerr := k.walk.close(); err == nil && cerr != nil {
		err = k.blame(cerr)
	}
	if err != nil && out.other {
		return fault.New(fault.Different, "make table", errors.Join(ErrNotAlike, err)).At(k.name())
	}
	return err
}

// records adds all records of the list, in its order.
func (k *maker) records(src RecordSource) error {
	wanted := record.NewWanted(k.t.Records)
	for i := range k.list.hashes {
		if !k.list.found.has(i) {
			wanted.Add(uint64(i))
		}
	}
	if wanted.Count() > 0 {
		var in record.AnswerReader
		var own error
		err := src.Pick(k.ctx, k.t.File, wanted, func(piece []byte) error {
			own = in.Feed(piece, func(key, value []byte) error { return k.fetched(wanted, key, value) })
			return own
		})
		if own != nil {
			return own
		}
		if err != nil {
			return err
		}
		if left := wanted.Next(uint64(k.next)); left < wanted.Records() || !in.Whole() {
			return k.wrong("the answer ends before record %d of %d", left, wanted.Records())
		}
	}
	return k.fromBase(len(k.list.hashes))
}

// fetched takes a record that was asked for.
func (k *maker) fetched(wanted record.Wanted, key, value []byte) error {
	i := int(wanted.Next(uint64(k.next)))
	if i == len(k.list.hashes) {
		return k.wrong("more records than were asked for")
	}
	if record.Hash(k.list.kinds[i], key, value) != k.list.hashes[i] {
		return k.wrong("record %d is not the one of the list", i)
	}
	if err := k.fromBase(i); err != nil {
		return err
	}
	k.next = i + 1
	return k.add(i, key, value)
}

// fromBase adds records up to one of the list: the next ones that the base has.
func (k *maker) fromBase(to int) error {
	for ; k.next < to; k.next++ {
		var it *store.TableIterator
		var err error
		for used := false; !used; k.walked++ {
			if it, err = k.walk.next(); err != nil {
				return k.blame(err)
			}
			if it == nil {
				return k.blame(fault.Newf(fault.Corrupt, "make table", "records of the old directory are there no more"))
			}
			used = k.used.has(k.walked)
		}
		value, err := it.Value()
		if err != nil {
			return k.blame(k.walk.blame(k.walk.heads[0].from, err))
		}
		if err := k.add(k.next, it.Key(), value); err != nil {
			return err
		}
	}
	return nil
}

// add writes record i of the list. What does not fit after the one before it is
// another record with the same hash.
func (k *maker) add(i int, key, value []byte) error {
	err := k.w.Add(k.list.kinds[i], k.list.seq(i), key, value)
	if fault.Is(err, fault.Refused) {
		return fault.New(fault.Different, "make table", errors.Join(ErrNotAlike, err)).At(k.name())
	}
	return err
}

func (k *maker) name() string { return k.m.s.m.Files[k.t.File].Name }

// wrong says that the source's answer is none.
func (k *maker) wrong(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "make table", format, args...).At(k.name())
}

// blame makes an error in reading the base one of the base.
func (k *maker) blame(err error) error {
	if err == nil || k.ctx.Err() != nil {
		return err
	}
	out := fault.New(fault.CodeOf(err), "read the old directory", errors.Join(ErrBase, err)).At(k.m.base.path)
	if k.m.base.unlock == nil { // of a member that runs
		return out
	}
	return out.WithHint("pull without it, or name another one; cfseed verify --data-dir %s says more", k.m.base.path)
}

// cutter stages the bytes of a table, which come in order, chunk by chunk.
type cutter struct {
	s      *Stage
	file   int
	stored func(n int)
	buf    []byte // of the chunk that is not whole yet
	index  int
	made   uint64 // bytes staged
	other  bool   // it is not the table
}

// write takes the next bytes.
func (c *cutter) write(p []byte) error {
	entry := &c.s.m.Files[c.file]
	for len(p) > 0 {
		if c.index >= len(entry.Chunks) {
			c.other = true
			return fault.Newf(fault.Corrupt, "make table", "more than %d bytes", entry.Size)
		}
		_, length := chunk.Bounds(entry.Size, c.s.m.ChunkSize, uint64(c.index))
		if c.buf == nil {
			c.buf = make([]byte, 0, c.s.m.ChunkSize)
		}
		n := min(len(p), length-len(c.buf))
		c.buf, p = append(c.buf, p[:n]...), p[n:]
		if len(c.buf) < length {
			return nil
		}
		if err := c.put(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cutter) put() error {
	n, err := c.s.put(c.file, c.index, c.buf)
	if err != nil {
		c.other = fault.Is(err, fault.Corrupt)
		return err
	}
	c.buf = c.buf[:0]
	c.index++
	c.made += uint64(n)
	if n > 0 && c.stored != nil {
		c.stored(n)
	}
	return nil
}

// finish says whether the table is whole.
func (c *cutter) finish() error {
	if entry := &c.s.m.Files[c.file]; c.index < len(entry.Chunks) {
		c.other = true
		return fault.Newf(fault.Corrupt, "make table", "less than %d bytes", entry.Size)
	}
	return nil
}
