package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/chainfire/cfseed/internal/failstop"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Store is an open state store. One goroutine writes (through one Batch at a
// time); all other methods may be called from any goroutine until Close.
type Store struct {
	dir    string
	opts   Options
	db     *pebble.DB
	schema uint32
	latch  *failstop.Latch // trips at the first failure; the store is then unusable

	calm    atomic.Int64 // calls of Calm that have not ended
	endCalm func()       // of the calm that it was opened in

	mu   sync.RWMutex
	head head // as of the last Commit
}

// Open opens the store in dir and creates it when absent (not with ReadOnly).
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, opts: o.withDefaults()}
	s.latch = failstop.NewLatch(s.failure, s.opts.OnCorruption)
	if o.ReadOnly {
		// Pebble's own error for an absent database can not be told apart.
		if d, err := pebble.Peek(dir, s.opts.FS); err != nil || !d.Exists {
			return nil, fault.New(fault.Corrupt, "open state store", cmp.Or(err, pebble.ErrDBDoesNotExist)).At(dir).
				WithHint("the directory holds no state; seed it again")
		}
	}
	s.endCalm = func() {}
	if o.Calm {
		s.endCalm = s.Calm()
	}
	db, err := pebble.Open(dir, s.pebbleOptions())
	if err != nil {
		return nil, s.openError(err)
	}
	s.db = db
	if err := s.broken(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// load reads the meta table, or writes it to a new store.
func (s *Store) load() error {
	if v := s.db.FormatMajorVersion(); v > FormatMajorVersion {
		return newer(s.dir, "Pebble format", uint64(v), uint64(FormatMajorVersion))
	}
	schema, found, err := s.readMeta(metaSchema)
	if err != nil {
		return err
	}
	if !found {
		return s.create()
	}
	if len(schema) != 4 {
		return s.damaged("open state store", fmt.Errorf("schema record of %d bytes", len(schema)))
	}
	if s.schema = binary.BigEndian.Uint32(schema); s.schema > SchemaVersion {
		return newer(s.dir, "schema", uint64(s.schema), uint64(SchemaVersion))
	}
	raw, found, err := s.readMeta(metaHead)
	if err != nil {
		return err
	}
	if !found {
		return s.damaged("open state store", errors.New("head record missing"))
	}
	if s.head, err = decodeHead(raw); err != nil {
		return s.damaged("open state store", err)
	}
	return nil
}

// create writes the meta table of an empty store.
func (s *Store) create() error {
	if s.opts.ReadOnly {
		return s.damaged("open state store", errors.New("schema record missing"))
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		return s.classify("open state store", err)
	}
	occupied := it.First()
	if err := it.Close(); err != nil {
		return s.classify("open state store", err)
	}
	if occupied {
		return s.damaged("open state store", errors.New("records without a schema"))
	}
	s.head, s.schema = emptyHead(&hasher{}), SchemaVersion
	b := s.db.NewBatch()
	defer b.Close()
	schema := binary.BigEndian.AppendUint32(nil, SchemaVersion)
	err = errors.Join(
		b.Set(appendPrefix(nil, Meta, []byte(metaSchema)), schema, nil),
		b.Set(appendPrefix(nil, Meta, []byte(metaHead)), s.head.append(nil), nil),
		b.Commit(pebble.Sync))
	if err != nil {
		return s.classify("create state store", err)
	}
	return s.broken()
}

func (s *Store) readMeta(name string) ([]byte, bool, error) {
	v, c, err := s.db.Get(appendPrefix(nil, Meta, []byte(name)))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, s.classify("open state store", err)
	}
	out := append([]byte(nil), v...)
	return out, true, c.Close()
}

// apply commits a Pebble batch, not synced.
func (s *Store) apply(b *pebble.Batch) error {
	if err := s.broken(); err != nil {
		return err
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return s.classify("commit to state store", err)
	}
	return s.broken()
}

// Close flushes, so that opening again replays no log, and closes. No View or
// Batch may be open.
func (s *Store) Close() error {
	var err error
	if !s.opts.ReadOnly && s.broken() == nil {
		err = s.Flush()
	}
	if cerr := s.db.Close(); cerr != nil && err == nil {
		err = s.classify("close state store", cerr)
	}
	return err
}

// Flush makes everything committed so far durable.
func (s *Store) Flush() error {
	if err := s.broken(); err != nil {
		return err
	}
	if err := s.db.Flush(); err != nil {
		return s.classify("flush state store", err)
	}
	return s.broken()
}

// Position is that of the last entry committed.
func (s *Store) Position() ident.Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head.pos
}

// ConfState is the Raft configuration after the last commit; a copy.
func (s *Store) ConfState() *entryv1.ConfState {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sortedConf(s.head.conf)
}

// Digest is the digest of the tables after the last commit.
func (s *Store) Digest() [16]byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head.digest.bytes()
}

// Revisions are the current and the compact revision after the last commit;
// -1: never compacted.
func (s *Store) Revisions() (current, compacted int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head.revision, s.head.compact
}

// DurablePosition is the position that survives the loss of everything not
// yet flushed to tables: at most Position.
func (s *Store) DurablePosition() (ident.Position, error) {
	if err := s.broken(); err != nil {
		return ident.Position{}, err
	}
	key := appendPrefix(nil, Meta, []byte(metaHead))
	it, err := s.db.NewIter(&pebble.IterOptions{OnlyReadGuaranteedDurable: true})
	if err != nil {
		return ident.Position{}, s.classify("read durable position", err)
	}
	var h head
	if it.SeekPrefixGE(key) {
		var raw []byte
		if raw, err = it.ValueAndErr(); err == nil {
			h, err = decodeHead(raw)
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return ident.Position{}, s.classify("read durable position", err)
	}
	return h.pos, s.broken()
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Metrics are Pebble's own figures, for the metrics page.
func (s *Store) Metrics() *pebble.Metrics { return s.db.Metrics() }

// failure makes of what tripped the latch the error that everyone gets.
func (s *Store) failure(cause error) error {
	if pebble.IsCorruptionError(cause) {
		return s.damaged("state store", cause)
	}
	return s.classify("write state store", cause)
}

// broken gives the error that ended the store, if one did.
func (s *Store) broken() error { return s.latch.Err() }

func (s *Store) damaged(op string, cause error) *fault.Error {
	return fault.New(fault.Corrupt, op, cause).At(s.dir).
		WithHint("remove this member and seed a new data directory")
}

// classify gives an error of a Pebble call its class.
func (s *Store) classify(op string, err error) *fault.Error {
	var fe *fault.Error
	switch {
	case errors.As(err, &fe):
		return fe
	case pebble.IsCorruptionError(err):
		return s.damaged(op, err)
	case errors.Is(err, syscall.ENOSPC):
		return fault.New(fault.NoSpace, op, err).At(s.dir).WithHint("free disk space and start again")
	}
	return fault.New(fault.Internal, op, err).At(s.dir)
}

func (s *Store) openError(err error) error {
	const op = "open state store"
	switch {
	case errors.Is(err, os.ErrNotExist):
		return s.damaged(op, err) // a file that the manifest names
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
		return fault.New(fault.InUse, op, err).At(s.dir)
	}
	return s.classify(op, err)
}

func newer(dir, what string, have, know uint64) error {
	return fault.Newf(fault.Refused, "open state store", "%s %d is newer than %d, the newest this program knows",
		what, have, know).At(dir).WithHint("start a newer version of the program")
}
