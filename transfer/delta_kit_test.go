package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/snapshot/record"
)

// memRecords says how the tables of a memSeed can be read as records, of which
// each is recordBytes of the file: its key is where it stands.
type memRecords struct {
	mu     sync.Mutex
	lists  int
	picks  int
	fail   error             // of lists
	each   func(i int) error // before each record is listed; may be nil
	hidden func(file int) bool
}

const recordBytes = 64

func (m *memRecords) counts() (lists, picks int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lists, m.picks
}

func recordsOf(data []byte) [][]byte { return chunk.Split(data, recordBytes) }

func recordKey(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func (s *memSeed) DescribeTables(_ context.Context, files []int) ([]record.Table, error) {
	var out []record.Table
	for _, f := range files {
		n := len(recordsOf(s.files[f]))
		t := record.Table{File: f, Records: uint64(n), Smallest: recordKey(0), Largest: recordKey(n - 1), Format: 3, Pinned: [3]uint64{0, uint64(f), 2}}
		t.Listable = s.records != nil && (s.records.hidden == nil || !s.records.hidden(f))
		out = append(out, t)
	}
	return out, nil
}

func (s *memSeed) ListRecords(_ context.Context, file int, emit func([]byte, int) error) error {
	s.records.mu.Lock()
	s.records.lists++
	s.records.mu.Unlock()
	var w record.ListWriter
	for i, value := range recordsOf(s.files[file]) {
		if s.records.each != nil {
			if err := s.records.each(i); err != nil {
				return err
			}
		}
		if err := emit(w.Add(nil, record.Listed{Hash: record.Hash(record.Set, recordKey(i), value), Kind: record.Set}), len(value)); err != nil {
			return err
		}
	}
	if s.records.fail != nil {
		return s.records.fail
	}
	return emit(w.Flush(nil), 0)
}

func (s *memSeed) PickRecords(_ context.Context, file int, wanted record.Wanted, emit func([]byte, int) error) error {
	s.records.mu.Lock()
	s.records.picks++
	s.records.mu.Unlock()
	rows := recordsOf(s.files[file])
	if wanted.Records() != uint64(len(rows)) {
		return fault.Newf(fault.Usage, "pick records", "%d records are there", len(rows))
	}
	var w record.AnswerWriter
	for i := wanted.Next(0); i < wanted.Records(); i = wanted.Next(i + 1) {
		if err := emit(w.Append(nil, recordKey(int(i)), rows[i]), recordBytes); err != nil {
			return err
		}
	}
	return nil
}

// fakeDelta makes tables of the records of older ones.
type fakeDelta struct {
	stage  *memStage
	base   map[uint64][]byte // values by hash
	shared map[int][]byte    // files

	mu      sync.Mutex
	adopted int
	makes   int
	asked   int                  // records
	fail    func(file int) error // of making; may be nil
	began   func(file int)       // may be nil
	alike   bool                 // not: the tables come out as others
	hangs   bool                 // making, until it is given up
}

// deltaOf has what older files have, of which a seed's are made; shared are files of
// the seed.
func deltaOf(older *memSeed, shared ...int) *fakeDelta {
	d := &fakeDelta{base: make(map[uint64][]byte), shared: make(map[int][]byte), alike: true}
	for f, data := range older.files {
		for i, value := range recordsOf(data) {
			d.base[record.Hash(record.Set, recordKey(i), value)] = value
		}
		for _, s := range shared {
			if s == f {
				d.shared[f] = data
			}
		}
	}
	return d
}

func (d *fakeDelta) Missing() []int {
	var out []int
	for i := range d.stage.l.Files {
		if _, shared := d.shared[i]; !shared && d.stage.l.Files[i].Kind == manifest.KindTable && d.stage.lacks(i) {
			out = append(out, i)
		}
	}
	return out
}

func (s *memStage) lacks(file int) bool {
	for _, r := range s.Missing() {
		if r.File == file {
			return true
		}
	}
	return false
}

func (d *fakeDelta) Adopt(context.Context) (n uint64, err error) {
	d.mu.Lock()
	d.adopted++
	d.mu.Unlock()
	for f, data := range d.shared {
		if !d.stage.lacks(f) {
			continue
		}
		if err := d.put(f, data, func(k int) { n += uint64(k) }); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (d *fakeDelta) put(file int, data []byte, stored func(int)) error {
	for i, c := range chunk.Split(data, d.stage.l.ChunkSize) {
		if err := d.stage.Put(file, i, c); err != nil {
			return err
		}
		stored(len(c))
	}
	return nil
}

func (d *fakeDelta) Cost(t record.Table) uint64 { return t.Records * recordBytes }

func (d *fakeDelta) begin(file int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.makes++
	if d.began != nil {
		d.began(file)
	}
	if d.fail != nil {
		return d.fail(file)
	}
	return nil
}

func (d *fakeDelta) Make(ctx context.Context, t record.Table, src *RecordSource, stored func(int)) (made uint64, err error) {
	if err := d.begin(t.File); err != nil {
		return 0, err
	}
	if d.hangs {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	var list record.ListReader
	var rows [][]byte
	wanted := record.NewWanted(t.Records)
	if err := src.List(ctx, t.File, func(piece []byte) error {
		return list.Feed(piece, func(l record.Listed) error {
			if uint64(len(rows)) == t.Records {
				return fault.Newf(fault.Corrupt, "make table", "too many records")
			}
			if d.base[l.Hash] == nil {
				wanted.Add(uint64(len(rows)))
			}
			rows = append(rows, d.base[l.Hash])
			return nil
		})
	}); err != nil {
		return 0, err
	}
	var answer record.AnswerReader
	next := wanted.Next(0)
	if err := src.Pick(ctx, t.File, wanted, func(piece []byte) error {
		return answer.Feed(piece, func(_, value []byte) error {
			if next >= t.Records {
				return fault.Newf(fault.Corrupt, "make table", "too much is answered")
			}
			rows[next] = bytes.Clone(value)
			next = wanted.Next(next + 1)
			return nil
		})
	}); err != nil {
		return 0, err
	}
	if uint64(len(rows)) != t.Records || next != t.Records || !list.Whole() || !answer.Whole() {
		return 0, fault.Newf(fault.Corrupt, "make table", "too little is answered")
	}
	d.mu.Lock()
	d.asked += int(wanted.Count())
	d.mu.Unlock()
	data := bytes.Join(rows, nil)
	if !d.alike {
		data[len(data)-1] ^= 1
	}
	err = d.put(t.File, data, func(n int) { made += uint64(n); stored(n) })
	if fault.Is(err, fault.Corrupt) {
		err = errors.Join(ErrNotAlike, err)
	}
	return made, err
}

// deltaConfig is a pull with d beside each stage.
func deltaConfig(d *fakeDelta, by string, disk *memDisk, endpoints ...string) PullConfig {
	cfg := pullConfig(disk, endpoints...)
	cfg.DeltaBy, cfg.Compression = by, "none"
	open := cfg.OpenStage
	cfg.OpenStage = func(manifest []byte) (Stage, error) {
		s, err := open(manifest)
		if err == nil {
			d.stage = s.(*memStage)
		}
		return s, err
	}
	cfg.OpenDelta = func(context.Context) (Delta, error) { return d, nil }
	return cfg
}

// olderThan is a seed of the same sizes whose files differ in every nth record.
func olderThan(s *memSeed, nth int) *memSeed {
	old := &memSeed{}
	for _, data := range s.files {
		data = bytes.Clone(data)
		for i := 0; i < len(data); i += nth * recordBytes {
			data[i] ^= 0xff
		}
		old.files = append(old.files, data)
	}
	return old
}

func recordSeed(t testing.TB, tables, size int) *memSeed {
	t.Helper()
	spec := seedSpec{chunkSize: 16 << 10}
	for i := range tables {
		spec.sizes = append(spec.sizes, size+i*1000)
	}
	seed := spec.build(t)
	seed.records = new(memRecords)
	return seed
}
