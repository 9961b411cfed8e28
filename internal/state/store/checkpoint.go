package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Checkpoint makes dir, which must not exist, a store of its own with what
// was committed when it was called, or a little later: tables are linked, not
// copied. The log is flushed first and left out. Everything is synced. After
// an error dir does not exist.
func (s *Store) Checkpoint(dir string) (err error) {
	const op = "checkpoint state store"
	if err := s.Flush(); err != nil {
		return err
	}
	if _, err := s.opts.FS.Stat(dir); err == nil {
		return fault.Newf(fault.NotEmpty, op, "the checkpoint directory exists").At(dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.opts.FS.RemoveAll(dir))
		}
	}()
	if err := s.pebbleCheckpoint(dir); err != nil {
		return s.classify(op, err)
	}
	if err := finishCheckpoint(s.opts.FS, dir); err != nil {
		return s.classify(op, err)
	}
	return s.broken()
}

// Calm lets no compaction begin until end is called, unless they fall behind: the
// flush of a checkpoint sets one off, which takes a processor from whoever reads
// it. end may be called when the store is closed.
func (s *Store) Calm() (end func()) {
	s.calm.Add(1)
	return sync.OnceFunc(func() { s.calm.Add(-1) })
}

// EndCalm ends the calm that Options.Calm began. It may be called when the store is
// closed.
func (s *Store) EndCalm() { s.endCalm() }

// compactions is how many run at a time: in normal times one; a second, or while
// it is calm the first, when they fall behind (Pebble allows one more for each ten
// sublevels of L0). Pebble asks when tables have changed, so that what was put off
// begins with the next flush.
func (s *Store) compactions() (normal, most int) {
	if s.calm.Load() > 0 {
		return 0, 2
	}
	return 1, 2
}

// pebbleCheckpoint turns the panic of Pebble's marker files, when a directory
// can not be synced, into an error: the new directory is given up, and nothing
// of the store depends on it.
func (s *Store) pebbleCheckpoint(dir string) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			err = r
		default:
			panic(r)
		}
	}()
	return s.db.Checkpoint(dir)
}

// finishCheckpoint drops the log files, whose content is in the tables, and
// syncs what Pebble does not: the files it copied, and both directories. Tables
// and blobs were synced when they were made, as are those that could not be
// linked; to sync each of hundreds again would make the disk flush as often,
// and the syncs of the log wait.
func finishCheckpoint(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		switch {
		case strings.HasSuffix(name, ".log"):
			err = fs.Remove(path)
		case strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".blob"):
		default:
			err = syncPath(fs.Open(path))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := syncPath(fs.OpenDir(dir)); err != nil {
		return err
	}
	return syncPath(fs.OpenDir(fs.PathDir(dir)))
}

func syncPath(f vfs.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Info is what a store says of itself.
type Info struct {
	Position           ident.Position
	ConfState          *entryv1.ConfState
	Cluster            *entryv1.ClusterRecord // nil: not known yet
	Revision           int64
	CompactRevision    int64 // 0: never compacted
	Digest             [16]byte
	FormatMajorVersion uint64
	SchemaVersion      uint32
}

// Inspect opens the store in dir read-only, changing nothing, and gives what
// is recorded inside it.
func Inspect(dir string, o Options) (info Info, err error) {
	o.ReadOnly = true
	s, err := Open(dir, o)
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	v := s.View()
	defer func() { err = errors.Join(err, v.Close()) }()
	h, err := v.readHead()
	if err != nil {
		return Info{}, err
	}
	info = Info{
		Position:           h.pos,
		ConfState:          sortedConf(h.conf),
		Revision:           h.revision,
		CompactRevision:    max(h.compact, 0),
		Digest:             h.digest.bytes(),
		FormatMajorVersion: uint64(s.db.FormatMajorVersion()),
		SchemaVersion:      s.schema,
	}
	info.Cluster, err = v.cluster()
	return info, err
}

// cluster reads the one record of the Cluster table.
func (v *View) cluster() (*entryv1.ClusterRecord, error) {
	var rec *entryv1.ClusterRecord
	err := v.Scan(Cluster, nil, func(_, value []byte) error {
		rec = &entryv1.ClusterRecord{}
		if err := proto.Unmarshal(value, rec); err != nil {
			return v.s.damaged("read cluster record", err)
		}
		return ErrStop
	})
	return rec, err
}
