package snapshot

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

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
	lacks  []int        // tables of the seed that no file of the base is
	tables []*baseTable // of the base that no file of the seed is
	room   *semaphore.Weighted
}

// sameFile is a file of the base that is one of the seed's.
type sameFile struct {
	path string
	file int
}

// Match compares the files of a base with those of the seed, by digest, whatever
// their names. What can not be read, or goes away meanwhile, does not match.
func (s *Stage) Match(ctx context.Context, b *Base) (*Match, error) {
	m := &Match{s: s, base: b, room: semaphore.NewWeighted(makeBytes)}
	bySize := map[uint64][]int{}
	for i := range s.m.Files {
		bySize[s.m.Files[i].Size] = append(bySize[s.m.Files[i].Size], i)
	}
	found, err := m.compare(ctx, bySize)
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
	for i := range s.m.Files {
		if s.m.Files[i].Kind == manifest.KindTable && !has[i] {
			m.lacks = append(m.lacks, i)
		}
	}
	return m, nil
}

// matched is what became of one file of the base.
type matched struct {
	path  string
	same  []int // files of the seed that it is
	table *baseTable
}

// compare looks at every file of the base.
func (m *Match) compare(ctx context.Context, bySize map[uint64][]int) ([]matched, error) {
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
		group.Go(func() error { return m.compareFile(ctx, &found[i], bySize) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return found, nil
}

func (m *Match) compareFile(ctx context.Context, found *matched, bySize map[uint64][]int) error {
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
	size := uint64(info.Size())
	if candidates := bySize[size]; len(candidates) > 0 {
		sums, err := sumChunks(ctx, f, size, m.s.m.ChunkSize, m.s.bufs)
		if err != nil {
			if ctx.Err() != nil {
				return failure(op, found.path, err)
			}
			return nil
		}
		digest := manifest.FileDigest(size, sums)
		for _, file := range candidates {
			if m.s.m.Files[file].Digest == digest {
				found.same = append(found.same, file)
			}
		}
	}
	if len(found.same) == 0 && isTable(m.base.fs.PathBase(found.path)) {
		found.table = newBaseTable(ctx, m.base.fs, found.path, size)
	}
	return nil
}

// Shared is how many bytes of the seed Adopt has to copy, or had.
func (m *Match) Shared() uint64 {
	var n uint64
	for _, f := range m.same {
		n += m.s.m.Files[f.file].Size
	}
	return n
}

// Missing lists the tables of the seed, by their index in the manifest, that the
// base does not have and that are not staged: those that Make is for.
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

// Adopt stages the files that the base has and gives how many bytes that were.
// What can not be read any more is fetched instead.
func (m *Match) Adopt(ctx context.Context) (adopted uint64, err error) {
	const op = "adopt file"
	for _, same := range m.same {
		if err := ctx.Err(); err != nil {
			return adopted, failure(op, same.path, err)
		}
		if !m.s.files[same.file].lacks() {
			continue
		}
		f, err := openToRead(m.base.fs, same.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return adopted, failure(op, same.path, err)
		}
		n, err := m.s.copyIn(f, same.file)
		_ = f.Close() // only read
		if adopted += n; err != nil {
			return adopted, err
		}
	}
	return adopted, nil
}
