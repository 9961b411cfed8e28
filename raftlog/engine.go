package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/failstop"
	"github.com/chainfire/cfseed/internal/fault"
)

// FormatMajorVersion is the pinned format of the Pebble store: the newest
// stable one of the Pebble release in use, recent enough to tell a torn
// write-ahead log from a corrupt one.
const FormatMajorVersion = pebble.FormatValueSeparation

const (
	defaultMemTable = 16 << 20
	// smallCache serves a log opened without a shared block cache: recent
	// entries are kept decoded, older ones are read once, in order.
	smallCache   = 8 << 20
	maxOpenFiles = 256
)

// Options say where a log lives and whom it tells. Only FS is required.
type Options struct {
	FS            vfs.FS
	Logger        *slog.Logger        // nil: silent
	OnCorruption  func(error)         // damaged bytes were found; may be called from any goroutine
	Cache         *pebble.Cache       // shared block cache; nil: a small one of its own
	MemTableBytes uint64              // 0: 16 MiB
	OnFsync       func(time.Duration) // called by Append with the time a synced batch took

	recentBytes uint64 // tests only: of entries kept decoded; 0: defaultRecent
}

func (o Options) recent() uint64 {
	if o.recentBytes == 0 {
		return defaultRecent
	}
	return o.recentBytes
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

func (o Options) corruption(err error) {
	if o.OnCorruption != nil {
		o.OnCorruption(err)
	}
}

// openStore opens the Pebble store. A failure of the disk on the way is its
// error, whatever Pebble makes of it.
func openStore(dir string, o Options, latch *failstop.Latch, readOnly bool) (db *pebble.DB, err error) {
	po := storeOptions(o, latch)
	po.ReadOnly = readOnly
	po.ErrorIfNotExists = readOnly
	defer func() {
		// Pebble panics on some damaged stores; bytes from the disk must not.
		if r := recover(); r != nil {
			db, err = nil, openError(dir, firstOf(latch.Err(), fmt.Errorf("%w: panic: %v", pebble.ErrCorruption, r)))
		}
	}()
	db, err = pebble.Open(dir, po)
	if err != nil {
		return nil, openError(dir, firstOf(latch.Err(), err))
	}
	if err := latch.Err(); err != nil {
		return nil, openError(dir, errors.Join(err, closeStore(db)))
	}
	return db, nil
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// storeOptions tunes Pebble for a log: written in order, read once, deleted
// in ranges from the front before it gets deep.
func storeOptions(o Options, latch *failstop.Latch) *pebble.Options {
	mem := o.MemTableBytes
	if mem == 0 {
		mem = defaultMemTable
	}
	po := &pebble.Options{
		FS:                          failstop.Wrap(o.FS, latch),
		Cache:                       o.Cache,
		CacheSize:                   smallCache,
		FormatMajorVersion:          FormatMajorVersion,
		MemTableSize:                mem,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       20,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                maxOpenFiles,
		BytesPerSync:                512 << 10,
		WALBytesPerSync:             512 << 10,
		Logger:                      storeLogger{log: o.logger(), latch: latch},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				_ = latch.Fail(fmt.Errorf("background work: %w", err))
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				err := fault.New(fault.Corrupt, "raft log", info.Details).At(info.Path)
				_ = latch.Fail(err)
				o.corruption(err)
			},
		},
	}
	// Entries live for minutes; time spent packing them is lost.
	po.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	return po
}

func openError(dir string, err error) error {
	const op = "open raft log"
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return fault.New(fault.InUse, op, err).At(dir).
			WithHint("another process runs on this directory; stop it first")
	case errors.Is(err, errNewer):
		return fault.New(fault.Refused, op, err).At(dir).WithHint("run the newer program that wrote it")
	case errors.Is(err, syscall.ENOSPC):
		return fault.New(fault.NoSpace, op, err).At(dir)
	case pebble.IsCorruptionError(err), errors.Is(err, pebble.ErrDBNotPristine),
		errors.Is(err, pebble.ErrDBDoesNotExist), errors.Is(err, os.ErrNotExist):
		return corrupt(op, err).At(dir)
	}
	return fault.New(fault.CodeOf(err), op, err).At(dir)
}

func corrupt(op string, err error) *fault.Error {
	return fault.New(fault.Corrupt, op, err).
		WithHint("remove the member and seed a new one in an empty directory")
}

// newLatch gives the latch whose failures break a log.
func newLatch() *failstop.Latch { return failstop.NewLatch(brokenBy, nil) }

func brokenBy(err error) error {
	code := fault.CodeOf(err)
	hint := fault.HintOf(err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code, hint = fault.NoSpace, "make room on the disk of the data directory, then start the node again"
	case hint == "":
		hint = "the node must stop; check the disk, then start it again"
	}
	return fault.Newf(code, "raft log", "%w: %w", ErrBroken, err).WithHint("%s", hint)
}

// storeLogger hands Pebble's messages on. Its Fatalf returns, which Pebble
// does not expect of a logger: by then the latch has stopped the disk, so
// whatever Pebble goes on to do has no effect.
type storeLogger struct {
	log   *slog.Logger
	latch *failstop.Latch
}

func (l storeLogger) Infof(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...), "store", "raft")
}

func (l storeLogger) Errorf(format string, args ...any) {
	l.log.Warn(fmt.Sprintf(format, args...), "store", "raft")
}

func (l storeLogger) Fatalf(format string, args ...any) {
	_ = l.latch.Fail(fmt.Errorf(format, args...))
}
