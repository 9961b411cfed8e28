package snapshot

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Stage is a seed on its way into a data directory. Put, Missing and the
// counters may be used from several goroutines; Verify, Install, InstallState
// and Close belong to one, when no Put is under way. Its owner holds the
// directory's lock (datadir.Lock) from before OpenStage until after Close: that
// is what keeps a second stage out, with fault.InUse.
type Stage struct {
	d       *datadir.Dir
	fs      vfs.FS
	member  bool // into the directory of a member, for InstallState
	m       *manifest.Manifest
	encoded []byte
	root    [32]byte
	files   []stagedFile
	reused  uint64

	writers atomic.Int32 // chunks that are being written
	tempo   tempo        // at which they come
	writing sync.Mutex   // held while a piece is on its way to the disk
	reading sync.Mutex   // or from it
	bufs    buffers
	checks  *checks

	mu   sync.Mutex
	done uint64 // bytes staged
	err  error  // the first failed write or sync; nothing goes on after it
}

// stagedFile is what of one file is on disk.
type stagedFile struct {
	mu      sync.Mutex
	have    []uint64 // bit set of chunks whose bytes are written
	missing int      // chunks
	synced  bool     // whole and synced by this Stage
	checked sumKey   // the file as it was read back from the disk since; zero: it was not
}

func (f *stagedFile) has(i int) bool { return f.have[i/64]&(1<<(i%64)) != 0 }

func (f *stagedFile) lacks() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missing > 0
}

// Range is a run of chunks of one file.
type Range struct {
	File  int // index in the manifest
	First int // first chunk
	Count int // chunks, at least 1
}

// Names below staging/; part of the layout.
const (
	stagedManifest = "manifest"
	stagedFiles    = "files"
	stagedPrevious = "previous"
)

// stageReserve is the free space in bytes that must remain beside the files:
// for raft/, the manifest and the file system's own needs.
const stageReserve = 16 << 20

// OpenStage begins, or resumes, staging the seed with this encoded manifest in
// a directory without a member. It reads back everything staged before: see
// BytesReused. The encoding is not kept.
//
// fault.Corrupt: not a valid manifest. fault.Refused: of a newer format.
// fault.NotEmpty: the directory holds a member or something foreign, nothing
// was touched. fault.NoSpace: the seed does not fit, nothing was written.
func OpenStage(ctx context.Context, d *datadir.Dir, encoded []byte) (*Stage, error) {
	return openStage(ctx, d, encoded, false)
}

// OpenMemberStage is OpenStage for a directory that holds a member, whose state
// is to be replaced (InstallState). Without a member it gives fault.Refused.
func OpenMemberStage(ctx context.Context, d *datadir.Dir, encoded []byte) (*Stage, error) {
	return openStage(ctx, d, encoded, true)
}

func openStage(ctx context.Context, d *datadir.Dir, encoded []byte, member bool) (*Stage, error) {
	m, err := manifest.Unmarshal(encoded)
	if err != nil {
		return nil, err
	}
	if m.FormatMajorVersion > uint64(store.FormatMajorVersion) || m.SchemaVersion > store.SchemaVersion {
		return nil, fault.Newf(fault.Refused, "stage seed",
			"the seed is of format %d, schema %d; this program reads up to %d, %d",
			m.FormatMajorVersion, m.SchemaVersion, uint64(store.FormatMajorVersion), uint32(store.SchemaVersion)).
			WithHint("upgrade cfseed on this machine")
	}
	s := &Stage{
		d: d, fs: d.FS(), member: member, m: m,
		encoded: append([]byte(nil), encoded...), root: manifest.RootOf(encoded),
		files: make([]stagedFile, len(m.Files)), bufs: newBuffers(m.ChunkSize), checks: newChecks(),
	}
	for i := range s.files {
		s.files[i].missing = len(m.Files[i].Chunks)
		s.files[i].have = make([]uint64, (len(m.Files[i].Chunks)+63)/64)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare brings the directory into the state that Put expects.
func (s *Stage) prepare(ctx context.Context) error {
	class, err := s.d.Classify()
	if err != nil {
		return err
	}
	if !s.member && (class == datadir.Complete || class == datadir.Foreign) {
		return s.d.Begin() // refuses, with the reason
	}
	if s.member && class != datadir.Complete {
		return fault.Newf(fault.Refused, "stage seed", "the directory holds no member").At(s.d.Path())
	}
	if class != datadir.Empty {
		if !s.member {
			if err := s.takeBack(); err != nil {
				return err
			}
		}
		if err := s.takeOver(); err != nil {
			return err
		}
		if err := s.scan(ctx); err != nil {
			return err
		}
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	return s.begin()
}

func (s *Stage) checkSpace() error {
	free, err := s.d.FreeSpace()
	if err != nil {
		return err
	}
	if need := s.m.TotalBytes() - s.done + stageReserve; free < need {
		return fault.Newf(fault.NoSpace, "stage seed", "need %d bytes, %d are free", need, free).At(s.d.Path()).
			WithHint("choose a --data-dir on a larger disk, or free %d bytes", need-free)
	}
	return nil
}

// begin makes staging/ ready for chunks: directories, manifest and the files
// that have none.
func (s *Stage) begin() error {
	if !s.member {
		if err := s.d.Begin(); err != nil {
			return err
		}
	}
	if err := datadir.MkdirAllSynced(s.fs, s.dir()); err != nil {
		return err
	}
	old, err := readBounded(s.fs, s.manifestPath(), manifest.MaxBytes)
	if err != nil {
		return err
	}
	if string(old) != string(s.encoded) {
		if err := datadir.WriteFileSynced(s.fs, s.manifestPath(), s.encoded); err != nil {
			return err
		}
	}
	for i := range s.m.Files {
		if s.m.Files[i].Size > 0 {
			continue
		}
		f, err := s.fs.Create(s.path(i), vfs.WriteCategoryUnspecified)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return failure("stage seed", s.path(i), err)
		}
	}
	return nil
}

func (s *Stage) dir() string          { return s.fs.PathJoin(s.d.Staging(), stagedFiles) }
func (s *Stage) manifestPath() string { return s.fs.PathJoin(s.d.Staging(), stagedManifest) }
func (s *Stage) path(i int) string    { return s.fs.PathJoin(s.dir(), s.m.Files[i].Name) }

// Manifest is the seed being staged. It must not be changed.
func (s *Stage) Manifest() *manifest.Manifest { return s.m }

// Root is the seed's ID.
func (s *Stage) Root() [32]byte { return s.root }

// BytesTotal is the size of the seed.
func (s *Stage) BytesTotal() uint64 { return s.m.TotalBytes() }

// BytesDone is how much of it is staged.
func (s *Stage) BytesDone() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// BytesReused is how much of it was already there when the stage was opened,
// plus what Adopt found and Make made.
func (s *Stage) BytesReused() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reused
}

// Missing lists the chunks not staged yet, in the order of the manifest.
func (s *Stage) Missing() []Range {
	var out []Range
	for i := range s.files {
		out = s.files[i].appendMissing(out, i, len(s.m.Files[i].Chunks))
	}
	return out
}

func (f *stagedFile) appendMissing(out []Range, file, chunks int) []Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missing == 0 {
		return out
	}
	for i := 0; i < chunks; {
		if f.has(i) {
			i += bits.TrailingZeros64(^(f.have[i/64] >> (i % 64))) // to the next that is not, or the next word
			continue
		}
		first := i
		for i < chunks && !f.has(i) {
			i++
		}
		out = append(out, Range{File: file, First: first, Count: i - first})
	}
	return out
}

// Put stages one chunk, raw. Chunks may come in any order, from several
// goroutines and more than once. The bytes are checked before they are
// written: wrong ones, and chunks that the seed does not have, are
// fault.Corrupt and leave the stage usable. After a failed write or sync every
// call gives that error; open the stage again to resume. data is not kept.
// After the last chunk of a file, all of it is read back from the disk while
// others come in.
func (s *Stage) Put(file, index int, data []byte) error {
	_, err := s.put(file, index, data)
	return err
}

// put is Put, and gives how many bytes were not staged before.
func (s *Stage) put(file, index int, data []byte) (int, error) {
	const op = "stage chunk"
	if file < 0 || file >= len(s.files) || index < 0 || index >= len(s.m.Files[file].Chunks) {
		return 0, fault.Newf(fault.Corrupt, op, "the seed has no chunk %d of file %d", index, file)
	}
	entry := &s.m.Files[file]
	offset, length := chunk.Bounds(entry.Size, s.m.ChunkSize, uint64(index))
	if len(data) != length || chunk.Sum(data) != entry.Chunks[index] {
		return 0, fault.Newf(fault.Corrupt, op, "chunk %d of %s: %d bytes are not those of the manifest",
			index, entry.Name, len(data))
	}
	f := &s.files[file]
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := s.broken(); err != nil {
		return 0, err
	}
	if f.has(index) {
		return 0, nil
	}
	whole := f.missing == 1
	if err := s.write(file, data, int64(offset), whole); err != nil {
		return 0, s.breakWith(failure(op, s.path(file), err))
	}
	f.have[index/64] |= 1 << (index % 64)
	f.missing--
	f.synced = whole
	s.mu.Lock()
	s.done += uint64(length)
	s.mu.Unlock()
	s.checks.wrote(length)
	if whole {
		s.checks.start(func(ctx context.Context) { s.checkAhead(ctx, file) })
	}
	return length, nil
}

// checkAhead reads back a file that is whole. What is wrong Verify finds again.
func (s *Stage) checkAhead(ctx context.Context, file int) {
	seen, err := s.readBackFile(ctx, file, sumKey{})
	if err != nil {
		return
	}
	f := &s.files[file]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = seen
}

// broken gives the error that ended this stage.
func (s *Stage) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// breakWith ends the stage with err, unless it has ended, and gives the error
// it ended with.
func (s *Stage) breakWith(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

// Close ends the use of the stage. What is staged stays, to be resumed.
func (s *Stage) Close() error {
	_ = s.breakWith(fault.Newf(fault.Usage, "stage seed", "the stage is closed"))
	s.checks.close()
	return nil
}

// Discard closes the stage and removes what is staged. In a directory without
// a member nothing of the install remains.
func (s *Stage) Discard() error {
	if err := s.Close(); err != nil {
		return err
	}
	if s.member {
		return s.d.RemoveStaging()
	}
	return s.d.RemoveUncommitted()
}
