package snapshot

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// Match is what a stage can take from a base: whole files, and records for the
// tables that the base does not have. Its methods may be called from several
// goroutines, Adopt from one at a time.
type Match struct {
	s      *Stage
	base   *Base
	same   []sameFile
	parts  []samePart
	lacks  []int        // tables of the seed of which the base has little: no file, and less than half of the chunks
	tables []*baseTable // of the base that no file of the seed is
	room   *semaphore.Weighted
}

// sameFile is a file of the base that is one of the seed's.
type sameFile struct {
	path string
	file int
}

// samePart is a table of the base of which some chunks are those of another table
// of the seed, at the same places. What is appended to, such as the table of the
// newest revisions, begins as it did before.
type samePart struct {
	path   string
	file   int
	chunks []int
}

// Match compares the files of a base with those of the seed, whatever their
// names: by digest, and tables chunk by chunk from the first on, up to one that no
// table of the seed has there: of most tables one chunk is read. What can not be
// read, or goes away meanwhile, does not match; what can not be opened is an error.
func (s *Stage) Match(ctx context.Context, b *Base) (*Match, error) {
	m := &Match{s: s, base: b, room: semaphore.NewWeighted(makeBytes)}
	want := wanted{bySize: map[uint64][]int{}, places: map[place]bool{}}
	for i := range s.m.Files {
		f := &s.m.Files[i]
		want.bySize[f.Size] = append(want.bySize[f.Size], i)
		if f.Kind == manifest.KindTable {
			for i, sum := range f.Chunks {
				want.places[place{i, sum}] = true
			}
		}
	}
	found, err := m.compare(ctx, want)
	if err != nil {
		return nil, err
	}
	has := make([]bool, len(s.m.Files))
	for _, f := range found {
		for _, file := range f.same {
			if !has[file] {
				m.same = append(m.same, sameFile{f.path, file})
				has[file] = true
			}
		}
		if f.table != nil {
			m.tables = append(m.tables, f.table)
		}
	}
	places := placesOf(found)
	for i := range s.m.Files {
		if f := &s.m.Files[i]; f.Kind == manifest.KindTable && !has[i] && !m.share(i, f.Chunks, places) {
			m.lacks = append(m.lacks, i)
		}
	}
	return m, nil
}

// wanted is what the seed has.
type wanted struct {
	bySize map[uint64][]int
	places map[place]bool // of its tables
}

// place is a chunk at its place in a table.
type place struct {
	index int
	sum   uint64
}

// placesOf says which table of the base has a chunk, of those that are none of the
// seed's.
func placesOf(found []matched) map[place]string {
	places := make(map[place]string)
	for _, f := range found {
		if len(f.same) > 0 || f.table == nil {
			continue
		}
		for i, sum := range f.sums {
			places[place{i, sum}] = f.path
		}
	}
	return places
}

// share notes which chunks of a table the base has, and whether that is half of
// them or more.
func (m *Match) share(file int, chunks []uint64, places map[place]string) (most bool) {
	byPath := map[string]int{} // index in m.parts
	shared := 0
	for i, sum := range chunks {
		path, ok := places[place{i, sum}]
		if !ok {
			continue
		}
		shared++
		at, ok := byPath[path]
		if !ok {
			at = len(m.parts)
			byPath[path] = at
			m.parts = append(m.parts, samePart{path: path, file: file})
		}
		m.parts[at].chunks = append(m.parts[at].chunks, i)
	}
	return shared > 0 && 2*shared >= len(chunks)
}

// matched is what became of one file of the base.
type matched struct {
	path  string
	same  []int // files of the seed that it is
	table *baseTable
	sums  []uint64 // of its first chunks
}

// compare looks at every file of the base.
func (m *Match) compare(ctx context.Context, want wanted) ([]matched, error) {
	var found []matched
	for _, dir := range m.base.states {
		names, err := list(m.base.fs, dir)
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		for _, name := range names {
			if _, ok := manifest.KindOf(name); ok {
				found = append(found, matched{path: m.base.fs.PathJoin(dir, name)})
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i := range found {
		group.Go(func() error { return m.compareFile(ctx, &found[i], want) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return found, nil
}

func (m *Match) compareFile(ctx context.Context, found *matched, want wanted) error {
	const op = "compare files"
	if err := ctx.Err(); err != nil {
		return failure(op, found.path, err)
	}
	f, err := openToRead(m.base.fs, found.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failure(op, found.path, err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return failure(op, found.path, err)
	}
	if info.IsDir() {
		return nil
	}
	size, table := uint64(info.Size()), isTable(m.base.fs.PathBase(found.path))
	candidates := want.bySize[size]
	switch {
	case len(candidates) > 0:
		found.sums, err = sumChunks(ctx, f, size, m.s.m.ChunkSize, m.s.bufs)
	case table:
		found.sums, err = m.beginning(ctx, f, size, want.places)
	default:
		return nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return failure(op, found.path, err)
		}
		return nil
	}
	for _, file := range candidates {
		if m.s.m.Files[file].Digest == manifest.FileDigest(size, found.sums) {
			found.same = append(found.same, file)
		}
	}
	if len(found.same) == 0 && table {
		found.table = newBaseTable(ctx, m.base.fs, found.path, size)
	}
	return nil
}

// beginning sums the chunks of a table up to the first that the seed has in none
// there.
func (m *Match) beginning(ctx context.Context, f io.ReaderAt, size uint64, places map[place]bool) (sums []uint64, err error) {
	buf := m.s.bufs.get()
	defer m.s.bufs.put(buf)
	for i := range chunk.Count(size, m.s.m.ChunkSize) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		offset, length := chunk.Bounds(size, m.s.m.ChunkSize, uint64(i))
		if err := readAt(f, buf[:length], offset); err != nil {
			return nil, err
		}
		at := place{int(i), chunk.Sum(buf[:length])}
		if !places[at] {
			break
		}
		sums = append(sums, at.sum)
	}
	return sums, nil
}

// Broken tells why the stage can not be written any more; nil: it can.
func (m *Match) Broken() error { return m.s.broken() }

// Shared is how many bytes of the seed Adopt has to copy, or had.
func (m *Match) Shared() uint64 {
	var n uint64
	for _, f := range m.same {
		n += m.s.m.Files[f.file].Size
	}
	for _, p := range m.parts {
		for _, i := range p.chunks {
			_, length := chunk.Bounds(m.s.m.Files[p.file].Size, m.s.m.ChunkSize, uint64(i))
			n += uint64(length)
		}
	}
	return n
}

// Missing lists the tables of the seed, by their index in the manifest, of which
// the base has little and that are not staged: those that Make is for.
func (m *Match) Missing() []int {
	var out []int
	for _, file := range m.lacks {
		if m.s.files[file].lacks() {
			out = append(out, file)
		}
	}
	return out
}

// Cost is about how many bytes Make reads and writes for a table: it reads what
// the base has within the table's keys twice.
func (m *Match) Cost(t record.Table) uint64 {
	if t.File < 0 || t.File >= len(m.s.m.Files) {
		return 0
	}
	cost := m.s.m.Files[t.File].Size
	for _, b := range m.tables {
		cost += 2 * b.within(m.base.fs, t.Smallest, t.Largest)
	}
	return cost
}
